#!/usr/bin/env python3
"""Show that run_variants.py judges variants rightly, on a small library made here.

usage: test_run_variants.py C_COMPILER
"""
import json
import os
import subprocess
import sys
import tempfile

SOURCES = {
    "src/num/two.h": "static inline int two(void) { return 2; }\n",
    "src/num/twice.h": '#include "two.h"\nint dsv4_twice(int x);\n',
    "src/num/twice.c": '#include "twice.h"\nint dsv4_twice(int x) { return two() * x; }\n'
                       "/* same */\n/* same */\n",
    "src/num/kernel.cu": '#include "two.h"\n'
                         '#ifdef IN_C\nint dsv4_kernel(void) { return two(); }\n#endif\n',
    "src/num/level.c": "int dsv4_cpu_level(void) { return 2; }\n",
    "tests/test_kernel.c": "int dsv4_kernel(void);\n"
                           "int main(void) { return dsv4_kernel() != 2; }\n",
    "tests/test_twice.c": '#include "num/twice.h"\n'
                          "int main(int n, char **a)\n{\n    (void)a;\n"
                          "    return dsv4_twice(4) != 8 || n > 2;\n}\n",
}

C = "file src/num/twice.c\n"
H = "file src/num/twice.h\ncompile src/num/twice.c\n"
NESTED = "file src/num/two.h\ncompile src/num/twice.c\n"
T = "test test_twice\n"

# name, lines, what run_variants.py prints of it
CASES = [
    ("wrong-product", C + T + "<<<<\ntwo() * x\n====\ntwo() + x\n>>>>\n",
     "noticed  wrong-product"),
    ("crash", C + T + "<<<<\nreturn two()\n====\nreturn *(volatile int *)0 +\n   two()\n>>>>\n",
     "noticed  crash"),
    ("in-header", H + T + "<<<<\nint dsv4_twice(int x);\n====\nint dsv4_twice(int x);\n"
     "#define two() 3\n>>>>\n", "noticed  in-header"),
    ("in-nested", NESTED + T + "<<<<\nreturn 2;\n====\nreturn 3;\n>>>>\n", "noticed  in-nested"),
    ("elsewhere", "file src/num/two.h\ncompile src/num/level.c\n" + T +
     "<<<<\nreturn 2;\n====\nreturn 3;\n>>>>\n",
     "BROKEN   elsewhere: src/num/level.c does not include the changed src/num/two.h"),
    ("in-test", "file src/num/twice.h\ncompile tests/test_twice.c\n" + T +
     "<<<<\nint dsv4_twice(int x);\n====\n#define dsv4_twice(x) 9\n>>>>\n", "noticed  in-test"),
    ("in-kernel", "file src/num/kernel.cu\ntest test_kernel\n"
     "<<<<\ntwo()\n====\n1 + two()\n>>>>\n", "noticed  in-kernel"),
    ("under-kernel", "file src/num/two.h\ncompile src/num/kernel.cu\ntest test_kernel\n"
     "<<<<\nreturn 2;\n====\nreturn 3;\n>>>>\n", "noticed  under-kernel"),
    ("deleted-lines", C + T + "<<<<\n/* same */\n/* same */\n====\n>>>>\n",
     "MISSED   deleted-lines"),
    ("equivalent", C + T + "<<<<\ntwo() * x\n====\nx * two()\n>>>>\n", "MISSED   equivalent"),
    ("gone", C + T + "<<<<\nthrice\n====\n1\n>>>>\n",
     "BROKEN   gone: stale: the old text is 0 times"),
    ("double", C + T + "<<<<\n/* same */\n====\n\n>>>>\n",
     "BROKEN   double: stale: the old text is 2 times"),
    ("no-change", C + T + "<<<<\ntwo() * x\n====\ntwo() * x\n>>>>\n",
     "BROKEN   no-change: changes nothing"),
    ("not-c", C + T + "<<<<\ntwo() * x\n====\ntwo( * x\n>>>>\n",
     "BROKEN   not-c: does not compile"),
    ("endless", C + T + "<<<<\nreturn\n====\nfor (;;) (void)*(volatile int *)&x; return\n>>>>\n",
     "BROKEN   endless: test_twice hangs"),
    ("above", C + T + "level avx512\n<<<<\ntwo() * x\n====\n1\n>>>>\n",
     "skipped  above: this machine lacks avx512"),
    ("at-level", C + T + "level avx2\n<<<<\ntwo() * x\n====\n1\n>>>>\n", "noticed  at-level"),
    ("fails-anyway", C + "test test_twice a b\n<<<<\ntwo() * x\n====\n1\n>>>>\n",
     "fails without any change: test_twice a b"),
    ("no-program", C + "test test_none\n<<<<\ntwo() * x\n====\n1\n>>>>\n",
     "test_none is none of"),
    ("header-alone", "file src/num/twice.h\n" + T + "<<<<\n2\n====\n3\n>>>>\n",
     "a header needs compile"),
    ("no-test", C + "<<<<\n2\n====\n3\n>>>>\n", "no-test: no test"),
    ("typo", C + T + "levels v2\n<<<<\n2\n====\n3\n>>>>\n", "unexpected 'levels v2'"),
    ("unclosed", C + T + "<<<<\n2\n====\n3\n", "no >>>> after this line"),
]


def make_tree(root, compiler):
    """Writes and builds the library. -> path of the configuration"""
    def run(*arguments):
        subprocess.run(arguments, check=True, cwd=root)

    commands, objects = [], {}
    for path, text in SOURCES.items():
        os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
        with open(os.path.join(root, path), "w", encoding="utf-8") as file:
            file.write(text)
        # A kernel is compiled for the library, where nothing of it is left, before and after it is for a test.
        ways = {".c": [("", "")], ".cu": [("", "-xc"), ("of-test", "-xc -DIN_C"), ("behind", "-xc")]}
        for place, flags in ways.get(os.path.splitext(path)[1], []):
            target = os.path.join(root, place, os.path.basename(path) + ".o")
            os.makedirs(os.path.dirname(target), exist_ok=True)
            objects.setdefault(path, target)
            command = f"{compiler} -Isrc -fPIC -Wall -Werror {flags} -o {target} -c {root}/{path}"
            commands.append({"directory": root, "command": command, "file": f"{root}/{path}"})
    for entry in commands:
        run(*entry["command"].split())
    run("ar", "rc", "library.a", objects["src/num/twice.c"], objects["src/num/level.c"])
    run(compiler, "-shared", "-o", "library.so", objects["src/num/level.c"])
    config = {"source_dir": root, "work_dir": f"{root}/work", "min_timeout_s": 1,
              "compile_commands": f"{root}/commands.json", "static_library": f"{root}/library.a",
              "shared_library": f"{root}/library.so", "link_options": ["-lm"],
              "programs": {"test_twice": [objects["tests/test_twice.c"]],
                           "test_kernel": [objects["tests/test_kernel.c"],
                                           f"{root}/./of-test/kernel.cu.o"]}}
    for name, value in (("commands.json", commands), ("config.json", config)):
        with open(os.path.join(root, name), "w", encoding="utf-8") as file:
            json.dump(value, file)
    return os.path.join(root, "config.json")


def main():
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "run_variants.py")
    n_failed = 0
    with tempfile.TemporaryDirectory() as root:
        config = make_tree(os.path.realpath(root), sys.argv[1])
        for name, text, expected in CASES:
            variants = os.path.join(root, "list.txt")
            with open(variants, "w", encoding="utf-8") as file:
                file.write(f"# a comment\n\nvariant {name}\n{text}")
            done = subprocess.run([sys.executable, script, variants, config, "-j", "1"],
                                  stdout=subprocess.PIPE, text=True)
            should_pass = expected.startswith(("noticed", "skipped"))
            if expected not in done.stdout or (done.returncode == 0) != should_pass:
                n_failed += 1
                status = done.returncode
                print(f"{name}: expected {expected!r}, got status {status}:\n{done.stdout}")
    print(f"{len(CASES)} lists, {n_failed} judged wrongly")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
