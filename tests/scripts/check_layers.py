#!/usr/bin/env python3
"""Check the structural rules of the tree (CONTRIBUTING.md); print each breach as path:line: text.

usage: check_layers.py ROOT        exit status 0: no breach, 1: some, 2: not a tree
"""
import os
import re
import sys

# Left to right: a layer may include itself and everything before it.
ORDER = ["base", "num", "io", "text", "ref", "gpu", "cpu", "cuda", "hip", "attn", "model", "kv",
         "engine", "api"]
# Devices do not know each other; all of them may use gpu.
DEVICES = {"cpu", "cuda", "hip"}

C_FOLDERS = ("include", "src", "tools", "tests", "examples", "bench")
SKIPPED_FOLDERS = re.compile(r"^(\.git|__pycache__|build|build-.*)$")
# Inputs of fuzzers are named by their content, and some file names are fixed by their readers.
FREE_NAME_FOLDERS = ("tests/fuzz/corpus/", "tests/fixtures/model/", "models/")
FREE_NAMES = {"CMakeLists.txt", "README.md", "__init__.py", ".gitignore"}

MAX_FILE_LINES = 800
MAX_BODY_LINES = 60
MAX_STRAIGHT_LINE_BODY_LINES = 120
STRAIGHT_LINE_FILES = set()  # straight-line layer code, as paths from the root

FORBIDDEN = re.compile(r"\b(_?exit|_Exit|quick_exit|abort|v?f?printf|f?puts|f?putc|putchar|perror"
                       r"|(?:secure_)?getenv)\b")
FORMAT_ATTRIBUTE = re.compile(r"\bformat\s*\(\s*printf\b")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)
DIRECTIVE = re.compile(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", re.MULTILINE)


def blank(match):
    """Whitespace with the same line breaks, so that line numbers stay."""
    return re.sub(r"[^\n]", " ", match.group(0))


def without_comments(text):
    return TOKEN.sub(lambda m: blank(m) if m.group(0).startswith("/") else m.group(0), text)


def code_only(text):
    """Comments and literals blanked."""
    return TOKEN.sub(blank, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def allowed_layers(layer):
    left = ORDER[:ORDER.index(layer) + 1]
    return {other for other in left if other == layer or not {layer, other} <= DEVICES}


def find_header(root, path, quote, name):
    """The path from the root of the header that an include names, or None for a system header."""
    folders = ["include", "src"]
    if quote == '"':
        folders.insert(0, os.path.dirname(path))
    for folder in folders:
        candidate = os.path.normpath(os.path.join(folder, name))
        if os.path.isfile(os.path.join(root, candidate)):
            return candidate.replace(os.sep, "/")
    return None


def check_includes(root, path, text):
    parts = path.split("/")
    if parts[0] not in ("src", "include"):
        return
    for match in INCLUDE.finditer(text):
        line, (quote, name) = line_of(text, match.start()), match.groups()
        header = find_header(root, path, quote, name)
        if header is None:
            if quote == '"':
                yield line, f'"{name}" is neither beside the file nor under include/ or src/'
            continue
        target = header.split("/")
        if target[:2] == ["include", "dsv4"]:
            continue
        if parts[0] == "include":
            yield line, f"a public header includes the internal {header}"
        elif target[0] != "src" or target[1] not in ORDER:
            yield line, f"the library includes {header}, which is in no layer"
        elif parts[1] in ORDER and target[1] not in allowed_layers(parts[1]):
            yield line, f"layer {parts[1]} may not use layer {target[1]} ({header})"


def check_layer_name(path):
    parts = path.split("/")
    if parts[0] == "src" and (len(parts) < 3 or parts[1] not in ORDER):
        yield 1, "a file of src/ that is in no layer of " + ", ".join(ORDER)


def check_forbidden(path, code):
    if not path.startswith("src/"):
        return
    code = FORMAT_ATTRIBUTE.sub(blank, code)
    for match in FORBIDDEN.finditer(code):
        yield line_of(code, match.start()), f"the library must not use {match.group(1)}"


def function_bodies(code):
    """Yields (first line, lines between the braces) of every function of code without directives.

    A function is a brace at depth 0 after a closing parenthesis. `extern "C" {` does not count as
    depth. Raises ValueError when braces do not match.
    """
    depth, start, before = 0, None, ""
    linkage = 0
    for match in re.finditer(r"[^\s]", code):
        char, offset = match.group(0), match.start()
        if char == "{":
            if depth == 0 and re.search(r"\bextern\s*$", code[:offset]):
                linkage += 1
            else:
                if depth == 0:
                    start = line_of(code, offset) if before == ")" else None
                depth += 1
        elif char == "}":
            if depth == 0 and linkage > 0:
                linkage -= 1
            elif depth == 0:
                raise ValueError("a closing brace too many")
            else:
                depth -= 1
                if depth == 0 and start is not None:
                    yield start, line_of(code, offset) - start - 1
        before = char
    if depth or linkage:
        raise ValueError("a closing brace is missing")


def check_sizes(path, text, code):
    n_lines = text.count("\n")
    if n_lines > MAX_FILE_LINES:
        yield n_lines, f"{n_lines} lines; at most {MAX_FILE_LINES}"
    limit = MAX_STRAIGHT_LINE_BODY_LINES if path in STRAIGHT_LINE_FILES else MAX_BODY_LINES
    try:
        for line, n_body_lines in function_bodies(DIRECTIVE.sub(blank, code)):
            if n_body_lines > limit:
                yield line, f"a function of {n_body_lines} lines; at most {limit}"
    except ValueError as error:
        yield 1, str(error)


def check_c_file(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        text = file.read()
    if not text.startswith("/*"):
        yield 1, "does not open with a comment"
    code = code_only(text)
    yield from check_layer_name(path)
    yield from check_includes(root, path, without_comments(text))
    yield from check_forbidden(path, code)
    yield from check_sizes(path, text, code)


def tree_files(root):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not SKIPPED_FOLDERS.match(f))
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def check_tree(root):
    """Yields (path, line, text) for every breach."""
    seen = {}
    for path in tree_files(root):
        name = path.rsplit("/", 1)[-1]
        if name not in FREE_NAMES and not path.startswith(FREE_NAME_FOLDERS):
            if name in seen:
                yield path, 1, f"file name already used by {seen[name]}"
            seen.setdefault(name, path)
        if path.endswith((".c", ".h", ".cpp", ".cu", ".cuh")) and path.startswith(C_FOLDERS):
            for line, text in check_c_file(root, path):
                yield path, line, text


def main():
    if len(sys.argv) != 2 or not os.path.isdir(os.path.join(sys.argv[1], "src")):
        print(__doc__, file=sys.stderr)
        return 2
    n_breaches = 0
    for path, line, text in check_tree(sys.argv[1]):
        print(f"{path}:{line}: {text}")
        n_breaches += 1
    return 1 if n_breaches else 0


if __name__ == "__main__":
    sys.exit(main())
