#!/usr/bin/env python3
"""Break the library in the ways that variants.txt lists and show that a test notices each.

usage: run_variants.py [-j N] [--build-only DIR] VARIANTS_TXT CONFIG_JSON [NAME ...]

For each variant the one file is copied and changed, the sources concerned are compiled with the
flags of compile_commands.json (warnings off, less optimization), a fresh test program is linked with these objects in
front of the static library, and run: it must fail. Before that, every test must pass unchanged.
Fails when a variant passes its test, when its old text is not in the file exactly once, when it
does not compile, when a source compiled for it does not include the changed file, and when its test
hangs. variants.txt describes its own format.
"""
import argparse
import concurrent.futures
import ctypes
import json
import os
import shlex
import shutil
import subprocess
import sys
import time

HEADERS = (".h", ".cuh")
LEVELS = ["v2", "avx2", "avx512", "avx512bf16"]  # DSV4_CPU_LEVEL_*, from 1


class Broken(Exception):
    """A variant that says nothing about the tests: stale, malformed, does not compile, hangs."""


class Variant:
    def __init__(self, name, line):
        self.name, self.line = name, line
        self.file, self.test, self.level, self.compile = None, None, "v2", []
        self.old, self.new = None, None

    def finish(self):
        """Checks that everything needed was given."""
        for key in ("file", "test", "old"):
            if getattr(self, key) is None:
                raise Broken(f"line {self.line}: {self.name}: no {key}")
        if not self.compile:
            if self.file.endswith(HEADERS):
                raise Broken(f"line {self.line}: {self.name}: a header needs compile lines")
            self.compile = [self.file]
        if self.level not in LEVELS:
            raise Broken(f"line {self.line}: {self.name}: level {self.level} is none of {LEVELS}")
        return self


def read_block(lines, number, end):
    """-> text of the lines up to the line `end`, number of the line after it"""
    for last in range(number, len(lines)):
        if lines[last] == end:
            return "\n".join(lines[number:last]), last + 1
    raise Broken(f"line {number}: no {end} after this line")


def parse_variants(text):
    variants, lines, number = [], text.split("\n"), 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.strip() or line.startswith("#"):
            continue
        key, _, value = line.partition(" ")
        value = value.strip()
        if key == "variant" and value:
            variants.append(Variant(value, number))
        elif not variants:
            raise Broken(f"line {number}: expected `variant NAME`, got {line!r}")
        elif key in ("file", "test", "level") and value:
            setattr(variants[-1], key, value)
        elif key == "compile" and value:
            variants[-1].compile.append(value)
        elif line == "<<<<" and variants[-1].old is None:
            variants[-1].old, number = read_block(lines, number, "====")
            variants[-1].new, number = read_block(lines, number, ">>>>")
        else:
            raise Broken(f"line {number}: unexpected {line!r}")
    names = [v.name for v in variants]
    for name in names:
        if names.count(name) > 1 or "/" in name:
            raise Broken(f"variant name {name!r} is used twice or is no file name")
    return [v.finish() for v in variants]


class Runner:
    def __init__(self, config):
        self.config = config
        with open(config["compile_commands"], encoding="utf-8") as file:
            self.commands = json.load(file)
        for entry in self.commands:
            entry["file"] = os.path.realpath(entry["file"])
        self.timeouts_s = {}

    def source(self, path):
        return os.path.join(self.config["source_dir"], path)

    def machine_level(self):
        return ctypes.CDLL(self.config["shared_library"]).dsv4_cpu_level()

    def run(self, arguments, what, cwd=None):
        done = subprocess.run(arguments, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors="replace")
        if done.returncode != 0:
            raise Broken(f"{what}:\n{done.stdout}")

    def program_objects(self, test):
        program = shlex.split(test)[0]
        if program not in self.config["programs"]:
            raise Broken(f"{program} is none of {sorted(self.config['programs'])}")
        return self.config["programs"][program]

    def find_command(self, path, test):
        """-> how this build compiles the source for the test's program, else for the library"""
        source = os.path.realpath(self.source(path))
        objects = {os.path.realpath(o) for o in self.program_objects(test)}
        entries = [e for e in self.commands if e["file"] == source]
        if not entries:
            raise Broken(f"{path} is not compiled by this build")
        of_programs = {os.path.realpath(o)
                       for some in self.config["programs"].values() for o in some}

        def distance(entry):
            words = shlex.split(entry["command"])
            target = os.path.join(entry["directory"], words[words.index("-o") + 1])
            target = os.path.realpath(target)
            return 0 if target in objects else 2 if target in of_programs else 1
        return min(entries, key=distance)

    def compile(self, path, test, folder):
        """Compiles the copy folder/path like the original, its own folder first.
        -> object file, files that were read for it"""
        entry = self.find_command(path, test)
        words = shlex.split(entry["command"])
        for option in ("-o", "-c"):
            at = words.index(option)
            del words[at:at + 2]
        target, depends = (os.path.join(folder, path + end) for end in (".o", ".d"))
        words[1:1] = ["-I" + os.path.join(folder, "src")]
        beside = "-I" if path.endswith(".cu") else "-iquote"  # nvcc knows only the first
        # A fault is one at any level of optimization, and most of the time goes into compiling.
        words += ["-w", "-g0", "-Og", beside, os.path.dirname(self.source(path)),
                  "-MD", "-MF", depends, "-o", target, "-c", os.path.join(folder, path)]
        self.run(words, "does not compile", cwd=entry["directory"])
        with open(depends, encoding="utf-8") as file:
            read = {os.path.realpath(os.path.join(entry["directory"], word))
                    for word in shlex.split(file.read().replace("\\\n", " "))}
        return target, read

    def link(self, test, objects, folder):
        """-> the command that runs this test's program with these objects in it"""
        program, *arguments = shlex.split(test)
        changed = {os.path.basename(path) for path in objects}
        own = [o for o in self.program_objects(test) if os.path.basename(o) not in changed]
        command = next(e["command"] for e in self.commands if e["file"].endswith(".c"))
        compiler = shlex.split(command)[0]
        target = os.path.join(folder, program)
        self.run([compiler, "-Wl,--strip-debug", *objects, *own, self.config["static_library"],
                  *self.config["link_options"], "-o", target], "does not link")
        return [target, *arguments]

    def execute(self, command, timeout_s):
        """-> (status, seconds); None for the status when it ran out of time"""
        start = time.monotonic()
        try:
            done = subprocess.run(command, cwd=self.config["source_dir"], timeout=timeout_s,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return None, timeout_s
        return done.returncode, time.monotonic() - start

    def fresh_folder(self, name):
        folder = os.path.join(self.config["work_dir"], name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        return folder

    def check_unchanged(self, test):
        """The test passes without any change; also measures how long it may take."""
        folder = self.fresh_folder("unchanged-" + "-".join(shlex.split(test)).replace("/", "_"))
        status, seconds = self.execute(self.link(test, [], folder), 600)
        if status != 0:
            raise Broken(f"fails without any change: {test} (status {status})")
        self.timeouts_s[test] = max(self.config["min_timeout_s"], 5 * seconds)

    def write_changed(self, variant, folder):
        for path in {variant.file, *variant.compile}:
            with open(self.source(path), encoding="utf-8") as file:
                text = file.read()
            if path == variant.file:
                count = text.count(variant.old)
                if count != 1:
                    raise Broken(f"stale: the old text is {count} times in {path}")
                if variant.old == variant.new:
                    raise Broken("changes nothing")
                text = text.replace(variant.old, variant.new)
            target = os.path.join(folder, path)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "w", encoding="utf-8") as file:
                file.write(text)
        if variant.compile != [variant.file]:
            self.copy_neighbours(variant.file, folder)

    def copy_neighbours(self, changed, folder):
        """What includes the changed file from its own directory, or is included, has to lie beside it."""
        place = os.path.dirname(changed)
        for name in os.listdir(self.source(place)):
            target = os.path.join(folder, place, name)
            if name.endswith((*HEADERS, ".c")) and not os.path.exists(target):
                shutil.copy(self.source(os.path.join(place, name)), target)

    def compile_changed(self, path, variant, folder):
        """-> object file, of a source that has the changed file and not the original"""
        target, read = self.compile(path, variant.test, folder)
        if os.path.realpath(os.path.join(folder, variant.file)) not in read:
            raise Broken(f"{path} does not include the changed {variant.file}")
        if os.path.realpath(self.source(variant.file)) in read:
            raise Broken(f"{path} includes the unchanged {variant.file}")
        return target

    def build(self, variant):
        """-> the command that has to fail"""
        folder = self.fresh_folder(variant.name)
        self.write_changed(variant, folder)
        objects = [self.compile_changed(path, variant, folder) for path in variant.compile]
        return self.link(variant.test, objects, folder)

    def keep_variant(self, variant, folder):
        """Builds only: folder/NAME is the program. -> its command"""
        command = self.build(variant)
        target = os.path.join(folder, variant.name)
        shutil.move(command[0], target)
        shutil.rmtree(os.path.join(self.config["work_dir"], variant.name))
        return shlex.join([variant.name, *command[1:]])

    def check_variant(self, variant):
        """-> (is noticed, text)"""
        command = self.build(variant)
        folder = os.path.join(self.config["work_dir"], variant.name)
        status, seconds = self.execute(command, self.timeouts_s[variant.test])
        if status is None:
            raise Broken(f"{variant.test} hangs (over {seconds:.0f} s)")
        shutil.rmtree(folder)
        return status != 0, f"{variant.test}, status {status}, {seconds:.1f} s"


def judge(runner, variant, build_only):
    """-> (passed, line to print)"""
    try:
        if build_only:
            return True, "built    " + runner.keep_variant(variant, build_only)
        is_noticed, text = runner.check_variant(variant)
    except Broken as error:
        return False, f"BROKEN   {variant.name}: {error}"
    word = "noticed " if is_noticed else "MISSED  "
    return is_noticed, f"{word} {variant.name} ({text})"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants_txt")
    parser.add_argument("config_json")
    parser.add_argument("names", nargs="*")
    parser.add_argument("-j", type=int, default=2)
    parser.add_argument("--build-only", metavar="DIR",
                        help="run nothing; leave each variant's program in DIR, under its name")
    args = parser.parse_args()
    with open(args.config_json, encoding="utf-8") as file:
        runner = Runner(json.load(file))
    try:
        with open(args.variants_txt, encoding="utf-8") as file:
            variants = parse_variants(file.read())
        if args.names:
            variants = [v for v in variants if v.name in args.names]
        if not variants:
            raise Broken("no variants")
        level = runner.machine_level()
        runnable = [v for v in variants if LEVELS.index(v.level) + 1 <= level]
        for variant in variants:
            if variant not in runnable:
                print(f"skipped  {variant.name}: this machine lacks {variant.level}")
        with concurrent.futures.ThreadPoolExecutor(args.j) as pool:
            if args.build_only:
                os.makedirs(args.build_only, exist_ok=True)
            else:
                list(pool.map(runner.check_unchanged, sorted({v.test for v in runnable})))
            results = pool.map(lambda v: judge(runner, v, args.build_only), runnable)
            n_failed = 0
            for passed, line in results:
                print(line, flush=True)
                n_failed += not passed
    except Broken as error:
        print(f"{args.variants_txt}: {error}")
        return 1
    n_skipped = len(variants) - len(runnable)
    print(f"{len(runnable)} variants run, {n_skipped} skipped, {n_failed} failed")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
