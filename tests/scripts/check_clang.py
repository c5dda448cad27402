#!/usr/bin/env python3
"""Have clang read, with this build's warnings, the C sources that include CUDA headers.

usage: check_clang.py COMPILE_COMMANDS CLANG

The clang build has no CUDA, so that the kernels are compiled once: this is what it leaves out.
"""
import json
import shlex
import subprocess
import sys


def main():
    commands_path, clang = sys.argv[1:]
    with open(commands_path, encoding="utf-8") as file:
        entries = json.load(file)
    failed, seen = [], set()
    for entry in entries:
        if not entry["file"].endswith(".c") or entry["file"] in seen:
            continue
        with open(entry["file"], encoding="utf-8") as file:
            if "#include <cuda" not in file.read():
                continue
        words = shlex.split(entry["command"])
        for option in ("-o", "-c"):
            at = words.index(option)
            del words[at:at + 2]
        words = [clang, *words[1:], "-fsyntax-only", entry["file"]]
        seen.add(entry["file"])
        done = subprocess.run(words, cwd=entry["directory"], check=False)
        if done.returncode != 0:
            failed.append(entry["file"])
    print(f"{len(seen)} sources read, {len(failed)} failed")
    return 1 if failed or not seen else 0


if __name__ == "__main__":
    sys.exit(main())
