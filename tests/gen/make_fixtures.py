#!/usr/bin/env python3
"""Make the decode cases that the tests check, with make_attn_case.py.

usage: make_fixtures.py {small|large} OUT_DIR [NAME ...]

`small` are the committed files of tests/fixtures/attn (run it again after a change of the table);
`large` have the shapes of the real model and are made when the tests run. NAME picks some of them.
"""
import os
import subprocess
import sys

SMALL = {
    # One head and page shape each, the plain rules.
    "h8-page64": "--b 2 --h 8 --topk 16 --sk 48 --block 64",
    "h16-page2": "--b 3 --h 16 --topk 24 --sk 40 --block 2",
    "h64-page64": "--b 1 --h 64 --topk 64 --sk 60 --block 64",
    "h128-page53": "--b 1 --h 128 --topk 40 --sk 48 --block 53",
    "h5-page1": "--b 2 --h 5 --topk 7 --sk 20 --block 1",
    "h12-page61": "--b 2 --h 12 --topk 33 --sk 50 --block 61",
    "h1-page69": "--b 4 --h 1 --topk 31 --sk 64 --block 69",
    "h8-page256": "--b 1 --h 8 --topk 128 --sk 140 --block 256",
    # Several query tokens.
    "sq2-lengths": "--b 2 --sq 2 --h 16 --topk 20 --sk 30 --block 16 --lengths",
    "sq3-extra": "--b 2 --sq 3 --h 8 --topk 8 --sk 20 --block 2 --extra-topk 13 --extra-sk 24"
                 " --extra-block 61",
    # Two scopes.
    "extra-page2": "--b 2 --h 16 --topk 16 --sk 24 --block 64 --extra-topk 64 --extra-sk 70"
                   " --extra-block 2",
    "extra-lengths-sink": "--b 3 --h 12 --topk 17 --sk 24 --block 16 --lengths --extra-topk 29"
                          " --extra-sk 40 --extra-block 53 --extra-lengths --sink",
    "extra-long": "--b 1 --h 8 --topk 128 --sk 130 --block 64 --extra-topk 300 --extra-sk 330"
                  " --extra-block 64 --sink",
    # Requests and lists without keys, sinks, hostile indices.
    "all-invalid": "--b 2 --h 8 --topk 16 --sk 20 --block 2 --all-invalid --sink",
    "zero-seqs": "--b 6 --h 8 --topk 16 --sk 20 --block 16 --zero-seqs --sink",
    "zero-seqs-extra": "--b 6 --sq 2 --h 5 --topk 9 --sk 20 --block 16 --zero-seqs --extra-topk 11"
                       " --extra-sk 16 --extra-block 2 --extra-lengths --sink",
    "wild-indices": "--b 12 --h 5 --topk 9 --sk 16 --block 4 --wild-indices --lengths",
    "wild-indices-extra": "--b 3 --sq 2 --h 5 --topk 31 --sk 40 --block 1 --wild-indices --lengths"
                          " --extra-topk 45 --extra-sk 50 --extra-block 53 --extra-lengths --sink",
    # Sharp and flat softmax.
    "sharp": "--b 2 --h 8 --topk 40 --sk 44 --block 16 --amp 8 --sink",
    "flat": "--b 2 --h 8 --topk 40 --sk 44 --block 16 --amp 0.01 --sink",
}

LARGE = {
    "flash-window": "--b 4 --h 64 --topk 128 --sk 512 --block 64 --lengths --sink",
    "flash-c4": "--b 3 --h 64 --topk 128 --sk 512 --block 64 --lengths --extra-topk 512"
                " --extra-sk 1500 --extra-block 64 --extra-lengths --sink",
    "flash-c128": "--b 3 --h 64 --topk 128 --sk 512 --block 64 --extra-topk 37 --extra-sk 60"
                  " --extra-block 2 --sink",
    "pro-c4": "--b 2 --h 128 --topk 128 --sk 512 --block 64 --lengths --extra-topk 1024"
              " --extra-sk 1500 --extra-block 64 --extra-lengths --sink",
    "pro-tp8-mtp": "--b 5 --sq 3 --h 16 --topk 128 --sk 300 --block 64 --extra-topk 1024"
                   " --extra-sk 1300 --extra-block 61 --extra-lengths",
    "tp8-page256": "--b 8 --h 8 --topk 128 --sk 400 --block 256 --lengths --extra-topk 512"
                   " --extra-sk 700 --extra-block 64 --sink --wild-indices --zero-seqs",
    "h128-sq2-odd": "--b 2 --sq 2 --h 128 --topk 131 --sk 300 --block 53 --extra-topk 517"
                    " --extra-sk 800 --extra-block 69 --lengths --extra-lengths --sink"
                    " --wild-indices",
    "long-list": "--b 1 --h 8 --topk 128 --sk 4000 --block 64 --extra-topk 8000 --extra-sk 9000"
                 " --extra-block 64 --sink",
}


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in ("small", "large"):
        sys.exit(__doc__)
    table = SMALL if sys.argv[1] == "small" else LARGE
    out_dir, names = sys.argv[2], sys.argv[3:] or list(table)
    os.makedirs(out_dir, exist_ok=True)
    make_case = os.path.join(os.path.dirname(os.path.abspath(__file__)), "make_attn_case.py")
    for name in names:
        seed = 1 + list(table).index(name)
        out = os.path.join(out_dir, name + ".safetensors")
        subprocess.run([sys.executable, make_case, out, "--seed", str(seed)] + table[name].split(),
                       check=True)


if __name__ == "__main__":
    main()
