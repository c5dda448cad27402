#!/usr/bin/env python3
"""Check the machine code of kernels for AMD GPUs against what they are meant to be (tests/gfx/kernels.txt).

usage: check_gfx.py [--counts] CODE_OBJECT TARGET EXPECTED     exit status 0: as expected, 1: not, 2: cannot read

Of every kernel: its target, that nothing goes to scratch memory or is spilled, that its registers and shared memory
leave room for the waves it is designed for, that it has its matrix instructions and its copies to shared memory, no
flat accesses, no waits for memory in its main loop but its own, the fences that order memory between chiplets, and no contraction of products and sums
where bits are compared. A kernel that is not in EXPECTED is a failure,
and so is one that is missing. --counts prints the instructions of each main loop besides.
"""
import re
import subprocess
import sys

OBJDUMP, READELF = "llvm-objdump-22", "llvm-readelf-22"
VECTOR_REGISTERS = 512  # of a lane of a SIMD, in both targets
GRANULE = 8             # they are given out in
SCALARS_IN_LANES = 8    # scalar registers that may be kept in lanes of a vector register: no memory
COLUMNS = ("target", "kernel", "waves_per_simd", "shared_bytes", "matrix", "n_matrix", "n_copies", "n_loop_waits",
           "n_fences", "n_contracted")


class Fault(Exception):
    """The files cannot be understood."""


def run(*words):
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Fault(f"{words[0]}: {error}") from error
    if done.returncode != 0:
        raise Fault(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def read_expected(path, target):
    """-> {kernel: {column: text}} of the target"""
    expected = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            words = line.split("#")[0].split()
            if not words:
                continue
            if len(words) != len(COLUMNS):
                raise Fault(f"{path}:{number}: expected {len(COLUMNS)} words")
            row = dict(zip(COLUMNS, words))
            if row["target"] == target:
                expected[row["kernel"]] = row
    return expected


def read_notes(path):
    """-> target, {kernel: {field: number}}"""
    text = run(READELF, "--notes", path)
    target = re.search(r"amdhsa\.target:\s*\S*--(\S+)", text)
    if target is None:
        raise Fault(f"{path}: no amdhsa.target")
    kernels, fields = {}, {}
    for match in re.finditer(r"^( +- |    )\.([a-z_]+): +(\S+)$", text, re.MULTILINE):
        start, key, value = match.groups()
        if start.strip() == "-" and len(start) == 4:
            fields = {}
        if key == "name" and len(start) == 4:
            kernels[value] = fields
        elif value.isdigit():
            fields[key] = int(value)
    return target.group(1), kernels


def read_code(path):
    """-> {kernel: [(address, instruction, rest)]}"""
    code, lines = {}, None
    for line in run(OBJDUMP, "-d", path).splitlines():
        head = re.match(r"^[0-9a-f]+ <(\w+)>:", line)
        if head:
            lines = code.setdefault(head.group(1), [])
            continue
        match = re.match(r"^\s+(\w+)\s*(.*?)\s*// ([0-9A-F]+):(.*)$", line)
        if match and lines is not None:
            lines.append((int(match.group(3), 16), match.group(1), match.group(2) + match.group(4)))
    return code


def is_matrix(name):
    return name.startswith(("v_mfma", "v_smfmac"))


def main_loop(lines):
    """The shortest loop with matrix instructions that is not inside another one's shortest: [] if there is none."""
    begin = lines[0][0] if lines else 0
    best = []
    for address, name, rest in lines:
        target = re.search(r"<\w+\+0x([0-9a-f]+)>", rest)
        if not name.startswith(("s_branch", "s_cbranch")) or target is None:
            continue
        start = begin + int(target.group(1), 16)
        if start > address:
            continue
        loop = [line for line in lines if start <= line[0] <= address]
        n_matrix = sum(is_matrix(line[1]) for line in loop)
        if n_matrix == sum(is_matrix(line[1]) for line in lines) and n_matrix > 0:
            if not best or len(loop) < len(best):
                best = loop
    return best


def count_loop(loop):
    counts = {"all": len(loop), "vector": 0, "matrix": 0, "scalar": 0, "shared": 0, "copies": 0}
    for _, name, _ in loop:
        if is_matrix(name):
            counts["matrix"] += 1
        elif "load_lds" in name:
            counts["copies"] += 1
        elif name.startswith("v_"):
            counts["vector"] += 1
        elif name.startswith("ds_"):
            counts["shared"] += 1
        elif name.startswith("s_"):
            counts["scalar"] += 1
    return counts


def faults_of(row, notes, lines):
    """Yields what is not as expected."""
    for field in ("private_segment_fixed_size", "vgpr_spill_count"):
        if notes.get(field, 0) != 0:
            yield f"{field} is {notes[field]}"
    if notes.get("sgpr_spill_count", 0) > SCALARS_IN_LANES:
        yield f"sgpr_spill_count is {notes['sgpr_spill_count']}, at most {SCALARS_IN_LANES}"
    n_most = VECTOR_REGISTERS // int(row["waves_per_simd"]) // GRANULE * GRANULE
    n_registers = notes.get("vgpr_count", 0)
    if n_registers > n_most:
        yield f"{n_registers} vector registers, at most {n_most}"
    if notes.get("group_segment_fixed_size", 0) > int(row["shared_bytes"]):
        yield f"{notes['group_segment_fixed_size']} bytes of shared memory, at most {row['shared_bytes']}"
    names = [name for _, name, _ in lines]
    for start in ("scratch_", "flat_"):
        n_found = sum(name.startswith(start) for name in names)
        if n_found:
            yield f"{n_found} instructions {start}*"
    matrix = [name for name in names if is_matrix(name)]
    expected = {} if row["matrix"] == "-" else dict(
        zip(row["matrix"].split(","), map(int, row["n_matrix"].split(","))))
    found = {name: matrix.count(name) for name in matrix}
    if found != expected:
        yield f"matrix instructions {found}, expected {expected}"
    n_copies = sum("load_lds" in name for name in names)
    if n_copies != int(row["n_copies"]):
        yield f"{n_copies} copies to shared memory, expected {row['n_copies']}"
    for name in ("buffer_wbl2", "buffer_inv"):
        if names.count(name) != int(row["n_fences"]):
            yield f"{names.count(name)} of {name}, expected {row['n_fences']}"
    # A division is three fma and two fmac, a square root two fma: what is left contracts a product and a sum.
    n_contracted = sum(re.match(r"v_(pk_)?(fma|fmac|mad|mac)_f32", name) is not None for name in names) \
        - 5 * sum(name.startswith("v_div_fixup_f32") for name in names) \
        - 2 * sum(name.startswith("v_sqrt_f32") for name in names)
    if row["n_contracted"] != "-" and n_contracted != int(row["n_contracted"]):
        yield f"{n_contracted} contracted products, expected {row['n_contracted']}"
    waits = [rest for _, name, rest in main_loop(lines) if name == "s_waitcnt" and "vmcnt" in rest]
    if len(waits) > int(row["n_loop_waits"]):
        yield f"{len(waits)} waits for memory in the main loop, at most {row['n_loop_waits']}"


def check(path, target, expected_path, prints_counts):
    expected = read_expected(expected_path, target)
    actual_target, notes = read_notes(path)
    code = read_code(path)
    n_faults = 0
    if actual_target != target:
        print(f"{path}: is for {actual_target}, expected {target}")
        n_faults += 1
    for kernel in sorted(set(expected) | set(notes)):
        if kernel not in expected or kernel not in notes:
            faults = [f"not in {expected_path}" if kernel in notes else "missing"]
        else:
            faults = list(faults_of(expected[kernel], notes[kernel], code.get(kernel, [])))
        n_faults += len(faults)
        for fault in faults:
            print(f"{target} {kernel}: {fault}")
        if kernel in notes and not faults:
            n = notes[kernel]
            print(f"{target} {kernel}: {n['vgpr_count']} vector registers, {n['sgpr_count']} scalar, "
                  f"{n['group_segment_fixed_size']} bytes shared")
        if prints_counts and kernel in code:
            loop = count_loop(main_loop(code[kernel]))
            print("    main loop: " + ", ".join(f"{key} {n}" for key, n in loop.items()))
    return 1 if n_faults else 0


def main():
    words = [word for word in sys.argv[1:] if word != "--counts"]
    if len(words) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return check(*words, "--counts" in sys.argv)
    except (Fault, OSError, ValueError) as error:
        print(f"check_gfx.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
