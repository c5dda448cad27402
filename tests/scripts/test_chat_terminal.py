#!/usr/bin/env python3
"""Test `dsv4 chat` on a terminal, on a small model of random weights.

usage: test_chat_terminal.py DSV4_BINARY MAKE_MODEL_BINARY FIXTURE_DIR
  FIXTURE_DIR  holds tokenizer/tokenizer.json
"""
import os
import pty
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time

DIM, PLAIN = b"\033[2m", b"\033[0m"
PROMPT = b"\r\n> "
CTRL_C, CTRL_D, UP = b"\x03", b"\x04", b"\033[A"
LIMIT_S = 60


class Talk:
    """The program behind a terminal. `seen` is what it wrote since the last thing that was awaited."""

    def __init__(self, *arguments, locale="C.UTF-8"):
        self.seen = b""
        environment = dict(os.environ, TERM="xterm", HOME="/nonexistent", LC_ALL=locale)
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            os.execve(program, [program, "chat", "-m", model, *arguments], environment)
        self.wait_prompt()

    def read(self):
        """Adds what comes next; False at the end."""
        if not select.select([self.terminal], [], [], LIMIT_S)[0]:
            raise AssertionError("nothing more in %d s behind %r" % (LIMIT_S, self.seen[-300:]))
        try:
            part = os.read(self.terminal, 65536)
        except OSError:
            part = b""
        self.seen += part
        return part != b""

    def wait(self, text):
        """What was written before this text."""
        while text not in self.seen:
            assert self.read(), "no %r in %r" % (text, self.seen[-300:])
        before, _, self.seen = self.seen.partition(text)
        return before

    def wait_prompt(self):
        """As wait, until keys are the editor's: before that the terminal would edit the line itself."""
        before, end_s = self.wait(PROMPT), time.monotonic() + LIMIT_S
        while termios.tcgetattr(self.terminal)[3] & termios.ICANON:
            assert time.monotonic() < end_s, "the editor does not take over the terminal"
            time.sleep(0.005)
        return before

    def wait_sleep(self):
        """Until the program waits for a key: the editor misses a signal that comes between a key's echo and that."""
        end_s = time.monotonic() + LIMIT_S
        while self.state() != "S":
            assert time.monotonic() < end_s, "the program does not wait for keys"
            time.sleep(0.005)

    def state(self):
        with open("/proc/%d/stat" % self.child) as stat:
            return stat.read().rpartition(")")[2].split()[0]

    def type(self, text):
        os.write(self.terminal, text)

    def ask(self, text):
        """Types a line and returns the answer, echo and all."""
        self.type(text.encode() + b"\r")
        return self.wait_prompt()

    def end(self):
        """Ends the talk by Ctrl-D; returns what was still written."""
        self.type(CTRL_D)
        while self.read():
            pass
        status = os.waitpid(self.child, 0)[1]
        os.close(self.terminal)
        assert status == 0, "wait status %d" % status
        return self.seen


def test_lines_are_edited_and_recalled():
    talk = Talk("-n", "3", "--temp", "0")
    talk.type(b"abc\033[D\x7fX")
    talk.wait(b"aXc")
    talk.type(b"\r")
    talk.wait_prompt()
    talk.type(UP)
    talk.wait(b"aXc")
    talk.type(b"\r")
    talk.wait_prompt()
    assert talk.end().endswith(b"\r\n"), "the shell's prompt would follow on the same line"


def test_utf8_is_read_in_any_locale():
    for locale in "C", "POSIX", "C.UTF-8", "none":
        talk = Talk("-n", "1", locale=locale)
        talk.type("aé日z".encode())
        talk.wait("aé日z".encode())
        talk.type(b"\r")
        talk.wait_prompt()
        talk.end()


def test_interrupt_stops_an_answer():
    talk = Talk("--thinking", "--seed", "0")  # whose first answer is a long one
    talk.type(b"hello\r")
    talk.wait(DIM)
    while len(talk.seen) < 20:
        talk.read()
    talk.type(CTRL_C)
    answer = talk.wait_prompt()
    assert answer.count(PLAIN) == 1, "the terminal stays dim"
    talk.ask("/reset")
    talk.end()


def test_interrupt_drops_a_line():
    talk = Talk("-n", "3", "--temp", "0")
    first = talk.ask("hello")
    talk.ask("/reset")
    talk.type(b"never asked")
    talk.wait(b"asked")
    talk.wait_sleep()
    talk.type(CTRL_C)
    talk.wait_prompt()
    assert talk.ask("hello") == first
    talk.end()


def test_errors_do_not_end_a_talk():
    talk = Talk("-n", "3", "--context", "40", "--temp", "0")
    first = talk.ask("hello")
    talk.ask("/reset")
    assert b"the talk has become too long" in talk.ask("far too much " * 20)
    assert talk.ask("hello") == first
    talk.end()


def main():
    failed = 0
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        try:
            test()
        except AssertionError as error:
            print("FAILED: %s: %s" % (name, error), file=sys.stderr)
            failed += 1
    sys.exit(failed > 0)


program, make_model, fixtures = sys.argv[1:]
with tempfile.TemporaryDirectory() as work:
    model = os.path.join(work, "model")
    os.mkdir(model)
    subprocess.run([make_model, model, "2021", "300"], check=True)
    shutil.copy(os.path.join(fixtures, "tokenizer/tokenizer.json"), model)
    main()
