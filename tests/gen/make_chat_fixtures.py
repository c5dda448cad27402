#!/usr/bin/env python3
"""Writes a fixture of test_chat: make_chat_fixtures.py <folder of encoding_dsv4.py> <output>.

encoding_dsv4.py is the prompt encoder that comes with the V4 checkpoints. It says what is right for
seeded random conversations: [[options, messages, prompt], ...], options a string of "t" (thinking),
"m" (max effort), "k" (keep old reasoning), "n" (no begin-of-sentence token). Messages stay inside
of what the encoder accepts. The output is conversations.json. Plain Python, no packages.
"""
import importlib
import json
import pathlib
import random
import sys

N_CASES = 400
WORDS = ["hi", "<x>", "a\nb", "中文", "é", '"q"', "\\", "", "tab\t", "\x01\x7f", "😀", '{"a":1}', 
         "\u2028", "</think>", "/", "\x00"]
REALS = [1.0, 0.1, -0.0, 1e16, 1e15, 123456789012345.6, 1e-5, 0.0001, 1e22, 5e-324, 3.14, -2.5e-7,
         1e100,
         1.7976931348623157e308, 9007199254740993.0, 0.30000000000000004]
TASKS = ["action", "query", "authority", "domain", "title", "read_url"]


def text(rng):
    return "".join(rng.choice(WORDS) for _ in range(rng.randrange(4)))


def value(rng, depth=0):
    kind = rng.randrange(9 if depth < 3 else 6)
    if kind < 2:
        return [None, True, False][rng.randrange(3)]
    if kind == 2:
        return rng.randrange(-10 ** rng.randrange(1, 18), 10 ** rng.randrange(1, 18))
    if kind == 3:
        return rng.choice(REALS + [rng.uniform(-1, 1) * 10.0 ** rng.randrange(-30, 30)])
    if kind < 6:
        return text(rng)
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {f"{rng.choice(WORDS[:-1])}{i}": value(rng, depth + 1) for i in range(rng.randrange(3))}


def tools(rng):
    return [{"type": "function", "function": {"name": f"f{i}", "description": text(rng),
                                              "parameters": value(rng)}}
            for i in range(rng.randrange(3))]


def arguments(rng):
    if rng.random() < 0.2:
        return rng.choice(["", "no json", "{broken", '{"a":1', "nul"])
    members = {f"k{i}": value(rng) for i in range(rng.randrange(4))}
    return json.dumps(members, ensure_ascii=rng.random() < 0.5)


def tool_calls(rng):
    result = []
    for _ in range(rng.randrange(4)):
        function = {"name": rng.choice(["f", "g"]), "arguments": arguments(rng)}
        call = {"type": "function", "function": function}
        owner = rng.choice([call, call, call["function"], None])
        if owner is not None:
            owner["id"] = f"c{rng.randrange(5)}"
        result.append(call)
    return result


def add_fields(rng, message):
    role = message["role"]
    if role == "tool":
        parts = [{"type": "text", "text": text(rng)}, {"type": "image_url"},
                 {"type": "text", "text": "x"}]
        message["content"] = text(rng) if rng.random() < 0.8 else parts[:rng.randrange(4)]
        if rng.random() < 0.8:
            message["tool_call_id"] = f"c{rng.randrange(6)}"
    elif role in ("system", "assistant"):
        if rng.random() < 0.9:
            message["content"] = text(rng) if rng.random() < 0.8 else None
    elif role != "user" or rng.random() < 0.95:
        message["content"] = ("d" if role == "developer" else "") + text(rng)
    if role == "assistant":
        if rng.random() < 0.6:
            message["reasoning_content"] = rng.choice([text(rng), "r", None])
        if rng.random() < 0.5:
            message["tool_calls"] = tool_calls(rng)
        if rng.random() < 0.1:
            message["wo_eos"] = True
    if role in ("system", "developer"):
        if rng.random() < 0.15:
            message["tools"] = tools(rng)
        if rng.random() < 0.15:
            schema = {"type": "json_schema", "x": value(rng)}
            message["response_format"] = rng.choice([None, {}, schema])
    if role != "tool" and rng.random() < 0.12:
        message["task"] = rng.choice(TASKS)


def conversation(rng):
    roles = ["system", "user", "user", "developer", "assistant", "assistant", "tool", "tool",
             "latest_reminder"]
    messages = [{"role": rng.choice(roles)} for _ in range(rng.randrange(8))]
    for message in messages:
        add_fields(rng, message)
    return messages


def main():
    sys.path.insert(0, sys.argv[1])
    encoder = importlib.import_module("encoding_dsv4")
    rng = random.Random(7)
    lines = []
    for _ in range(N_CASES):
        messages = conversation(rng)
        shares = zip("tmkn", (0.7, 0.15, 0.25, 0.1))
        options = "".join(letter for letter, share in shares if rng.random() < share)
        prompt = encoder.encode_messages(
            json.loads(json.dumps(messages)), "thinking" if "t" in options else "chat",
            drop_thinking="k" not in options, add_default_bos_token="n" not in options,
            reasoning_effort="max" if "m" in options else None)
        row = [options, messages, prompt]
        lines.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
    pathlib.Path(sys.argv[2]).write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
