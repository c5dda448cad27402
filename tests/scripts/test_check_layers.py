#!/usr/bin/env python3
"""Show that check_layers.py accepts a good tree and names each breach in bad ones.

Each case is the good tree with one file added or replaced, and the text that must be reported for
it; None when the tree must still be accepted.
"""
import os
import subprocess
import sys
import tempfile

GOOD = {
    "include/dsv4/base.h": "/* b */\n#include <stdint.h>\n",
    "src/base/error.h": '/* e */\n#include "dsv4/base.h"\n',
    "src/base/error.c": '/* e */\n#include "error.h"\n#include <stdio.h>\n',
    "src/num/e4m3.h": "/* n */\n",
    "src/ref/attn_ref.c": '/* r */\n#include "num/e4m3.h"\n#include "base/error.h"\n',
    "src/gpu/thin.h": "/* g */\n",
    "src/cpu/attn_v2.h": '/* c */\n#include "gpu/thin.h"\n#include "num/e4m3.h"\n',
    "src/attn/attn.c": '/* a */\n#include "cpu/attn_v2.h"\n',
    "tools/program.c": '/* t */\n#include "attn/nowhere.h"\nint main(void)\n{\n    exit(1);\n}\n',
    "src/base/CMakeLists.txt": "", "src/num/CMakeLists.txt": "",
    "tests/fuzz/corpus/a/0": "", "tests/fuzz/corpus/b/0": "",
    "build/error.h": "", "build-asan/error.h": "",
}

HEAD = "/* x */\n"


def function(n_body_lines, head="static int f(int a,\n             int b)"):
    return head + "\n{\n" + "    a++;\n" * n_body_lines + "}\n"


CASES = [
    # Layers.
    ("src/num/x.c", HEAD + '#include "ref/attn_ref.h"\n', "neither beside the file"),
    ("src/base/x.c", HEAD + '#include "num/e4m3.h"\n', "layer base may not use layer num"),
    ("src/base/x.c", HEAD + "#include <num/e4m3.h>\n", "layer base may not use layer num"),
    ("src/base/x.c", HEAD + '#  include "../num/e4m3.h"\n', "layer base may not use layer num"),
    ("src/ref/x.c", HEAD + '#include "cpu/attn_v2.h"\n', "layer ref may not use layer cpu"),
    ("src/cuda/x.c", HEAD + '#include "cpu/attn_v2.h"\n', "layer cuda may not use layer cpu"),
    ("src/hip/x.c", HEAD + '#include "cpu/attn_v2.h"\n', "layer hip may not use layer cpu"),
    ("src/gpu/x.c", HEAD + '#include "cpu/attn_v2.h"\n', "layer gpu may not use layer cpu"),
    ("src/hip/x.c", HEAD + '#include "gpu/thin.h"\n', None),
    ("src/api/x.c", HEAD + '#include "cpu/attn_v2.h"\n', None),
    ("src/base/x.c", HEAD + '/* #include "num/e4m3.h" */\n', None),
    ("src/misc/x.c", HEAD, "in no layer"),
    ("src/x.c", HEAD, "in no layer"),
    ("include/dsv4/x.h", HEAD + '#include "base/error.h"\n', "the internal src/base/error.h"),
    ("include/dsv4/x.h", HEAD + '#include "dsv4/base.h"\n', None),
    ("src/attn/x.c", HEAD + '#include "../../tools/program.c"\n', "which is in no layer"),
    # Names.
    ("src/num/error.c", HEAD, "already used by src/base/error.c"),
    ("tools/notes/program.c", HEAD, "already used by tools/program.c"),
    ("docs/error.h", HEAD, "already used by docs/error.h"),
    # Sizes.
    ("src/num/x.c", HEAD + "\n" * 799, None),
    ("src/num/x.c", HEAD + "\n" * 800, "801 lines"),
    ("tests/x.c", HEAD + "\n" * 800, "801 lines"),
    ("src/num/x.c", HEAD + function(60), None),
    ("src/num/x.c", HEAD + function(61), "x.c:4: a function of 61 lines"),
    ("tools/x.c", HEAD + function(61), "a function of 61 lines"),
    ("include/dsv4/x.h", HEAD + 'extern "C" {\n' + function(61) + "}\n", "a function of 61 lines"),
    ("include/dsv4/x.h", HEAD + 'extern "C" {\n' + function(3) * 20 + "}\n", None),
    ("src/num/x.c", HEAD + "static const int t[] = {\n" + "    1,\n" * 90 + "};\n", None),
    ("src/num/x.c", HEAD + 'static const char t[] = "{{{";\n// }}\n' + function(3), None),
    ("src/num/x.c", HEAD + "#define A {\\\n{\n" + function(61), "a function of 61 lines"),
    ("src/num/x.c", HEAD + "int f(void)\n{\n", "brace is missing"),
    ("src/num/x.c", HEAD + "int f(void)\n{\n}\n}\n", "brace too many"),
    # Calls.
    ("src/num/x.c", HEAD + "int f(void)\n{\n    exit(1);\n}\n", "x.c:4: the library must not"),
    ("src/num/x.c", HEAD + "int f(void)\n{\n    abort();\n}\n", "must not use abort"),
    ("src/num/x.c", HEAD + "int f(void)\n{\n    printf(\"\");\n}\n", "must not use printf"),
    ("src/num/x.c", HEAD + "int f(void)\n{\n    puts(\"\");\n}\n", "must not use puts"),
    ("src/num/x.c", HEAD + "int f(void)\n{\n    fprintf(f, \"\");\n}\n", "must not use fprintf"),
    ("src/num/x.c", HEAD + "char *(*f)(const char *) = getenv;\n", "must not use getenv"),
    ("src/num/x.c", HEAD + 'char *f = "exit"; /* abort */ // puts\nint exit_code;\n', None),
    ("src/num/x.c", HEAD + "int f(char *s) __attribute__((format(printf, 1, 2)));\n", None),
    ("src/num/x.c", HEAD + "int f(void)\n{\n    return snprintf(s, n, \"\");\n}\n", None),
    # Head comment.
    ("src/num/x.c", "#include <stdint.h>\n", "does not open with a comment"),
    ("tests/x.h", "\n/* x */\n", "does not open with a comment"),
]


def report(script, extra):
    """Output of the script on the good tree with the extra files."""
    with tempfile.TemporaryDirectory() as root:
        for path, text in {**GOOD, **extra}.items():
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as file:
                file.write(text)
        done = subprocess.run([sys.executable, script, root], capture_output=True, text=True)
        if done.returncode not in (0, 1) or (done.returncode == 0) != (done.stdout == ""):
            return f"status {done.returncode}, {done.stdout}{done.stderr}"
        return done.stdout


def main():
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_layers.py")
    n_failed = 0
    for path, text, expected in [("src/num/ok.c", HEAD, None)] + CASES:
        output = report(script, {path: text})
        lines = output.splitlines()
        is_right = not output if expected is None else len(lines) == 1 and expected in output
        if not is_right:
            n_failed += 1
            print(f"{path}: expected {expected!r}, got {output!r}, for:\n{text[:400]}\n")
    print(f"{len(CASES) + 1} trees, {n_failed} judged wrongly")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
