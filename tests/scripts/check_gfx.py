#!/usr/bin/env python3
"""Check the machine code of kernels for AMD GPUs against what they are meant to be (tests/gfx/kernels.txt).

usage: check_gfx.py [--counts] [--tools FOLDER] CODE_OBJECT TARGET EXPECTED
exit status 0: as expected, 1: not, 2: cannot read. --tools: where llvm-objdump and llvm-readelf are, else LLVM 22's.

Of every kernel: its target, that nothing goes to scratch memory or is spilled, that its registers and shared memory
leave room for the waves it is designed for, those that its descriptor takes for nothing among them, that it has its matrix instructions, in one loop, and its copies to shared
memory, no flat accesses, no waits for memory in its main loop but its own, no scalar loads there but for what is rare, none
between a step's copies for shared memory, and no contraction of products and sums where bits are compared; that what other blocks read passes the caches, has arrived behind a wait and a barrier when it is
counted, and no fence touches a whole cache; and that enough wait states stand between an instruction of long latency and
who reads its registers, which the compiler sees to except around assembly. A kernel that is not in EXPECTED is a
failure, and so is one that is missing. --counts prints the instructions of each main loop besides.
"""
import argparse
import os
import re
import subprocess
import sys

TOOLS = {"objdump": "llvm-objdump-22", "readelf": "llvm-readelf-22"}
VECTOR_REGISTERS = 512  # of a lane of a SIMD, in both targets
GRANULE = 8             # they are given out in
# Wait states before an instruction reads what these have written: LLVM 22's, by target where they differ.
TRANSCENDENTAL_STATES = 1
MATRIX_STATES = {"v_mfma_f32_16x16x16_bf16": {"gfx942": 7, "gfx950": 8}, "v_mfma_f32_16x16x32_bf16": {"gfx950": 8},
                 "v_mfma_scale_f32_16x16x128_f8f6f4": {"gfx950": 12}}
COLUMNS = ("target", "kernel", "waves_per_simd", "n_scalars", "shared_bytes", "matrix", "n_matrix", "n_copies", "n_loop_waits",
           "n_loop_loads", "n_device", "n_contracted")


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
    text = run(TOOLS["readelf"], "--notes", path)
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


def read_allocated(path, kernels):
    """-> {kernel: vector registers that its descriptor asks for}"""
    symbols = ",".join(f"{kernel}.kd" for kernel in kernels)
    allocated, kernel = {}, None
    for line in run(TOOLS["objdump"], "-D", f"--disassemble-symbols={symbols}", path).splitlines():
        words = line.split()
        if words[:1] == [".amdhsa_kernel"]:
            kernel = words[1]
        elif words[:1] == [".amdhsa_next_free_vgpr"]:
            allocated[kernel] = int(words[1])
    return allocated


def read_code(path):
    """-> {kernel: [(address, instruction, rest)]}"""
    code, lines = {}, None
    for line in run(TOOLS["objdump"], "-d", path).splitlines():
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


def registers_of(operand):
    """-> numbers of the vector registers that an operand names"""
    found = set()
    for first, last, single in re.findall(r"\bv(?:\[(\d+):(\d+)\]|(\d+))", operand):
        found.update(range(int(first), int(last) + 1) if first else [int(single)])
    return found


def is_transcendental(name):
    return name.startswith(("v_exp_", "v_log_", "v_rcp_", "v_rsq_", "v_sqrt_", "v_sin_", "v_cos_"))


def states_of(name, target):
    """-> wait states before its result may be read; 0: the hardware waits itself"""
    if is_matrix(name):
        if target not in MATRIX_STATES.get(name, {}):
            raise Fault(f"{name} on {target}: no wait states known")
        return MATRIX_STATES[name][target]
    return TRANSCENDENTAL_STATES if is_transcendental(name) else 0


def reads_early(name, rest, writer, registers):
    """-> of these registers, which `writer` has just written, those that an instruction reads without waiting itself"""
    is_vector = name.startswith("v_")
    if is_matrix(name) or not name.startswith(("v_", "global_", "buffer_", "ds_", "flat_", "scratch_")):
        return set()  # matrix instructions have waits of their own for one another
    if is_transcendental(writer) and (is_transcendental(name) or not is_vector):
        return set()
    return registers & registers_of(rest.partition(",")[2] if is_vector and "fmac" not in name else rest)


def hazards_of(lines, target):
    """Yields reads that come too early, on every way through the code behind each instruction of long latency."""
    places = {address: i for i, (address, _, _) in enumerate(lines)}
    for start, (_, writer, operands) in enumerate(lines):
        ways = [(start + 1, states_of(writer, target), registers_of(operands.split(",")[0]))]
        while ways:
            i, n_states, registers = ways.pop()
            if n_states <= 0 or i >= len(lines) or not registers:
                continue
            address, name, rest = lines[i]
            if reads_early(name, rest, writer, registers):
                yield f"{name} at {address:x} reads {n_states} wait states too early behind {writer}"
            if name.startswith("v_"):
                registers = registers - registers_of(rest.split(",")[0])
            n_states -= int(rest.split()[0], 0) + 1 if name == "s_nop" else 1
            label = re.search(r"<\w+\+0x([0-9a-f]+)>", rest)
            if name.startswith(("s_branch", "s_cbranch")) and label:
                ways.append((places.get(lines[0][0] + int(label.group(1), 16), len(lines)), n_states, registers))
            if name not in ("s_branch", "s_endpgm", "s_setpc_b64"):
                ways.append((i + 1, n_states, registers))


def is_of_device(name, rest):
    return name.startswith(("global_store", "global_load")) and "load_lds" not in name and " sc1" in rest


def is_counted_early(lines):
    """Whether a counter is reached with stores for other blocks that no wait and no barrier stand behind."""
    stage, is_early = None, False
    for _, name, rest in lines:
        if name.startswith("global_store") and is_of_device(name, rest):
            stage = "stored"
        elif name == "s_waitcnt" and "vmcnt(0)" in rest and stage == "stored":
            stage = "arrived"
        elif name == "s_barrier" and stage == "arrived":
            stage = "met"
        elif name.startswith("global_atomic"):
            is_early |= stage in ("stored", "arrived")
            stage = None
    return is_early


def waits_between_copies(loop):
    """Whether a wait for shared memory stands between two of a step's copies of 16 bytes."""
    copies = [i for i, (_, name, _) in enumerate(loop) if name == "global_load_lds_dwordx4"]
    return bool(copies) and any(name == "s_waitcnt" and "lgkmcnt" in rest
                                for _, name, rest in loop[copies[0]:copies[-1]])


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


def faults_of(row, notes, allocated, lines):
    """Yields what is not as expected."""
    for field in ("private_segment_fixed_size", "vgpr_spill_count"):
        if notes.get(field, 0) != 0:
            yield f"{field} is {notes[field]}"
    if notes.get("sgpr_spill_count", 0) > int(row["n_scalars"]):
        yield f"sgpr_spill_count is {notes['sgpr_spill_count']}, at most {row['n_scalars']}"
    n_most = VECTOR_REGISTERS // int(row["waves_per_simd"]) // GRANULE * GRANULE
    n_registers = notes.get("vgpr_count", 0)
    if n_registers > n_most:
        yield f"{n_registers} vector registers, at most {n_most}"
    elif allocated > n_most:
        yield f"{allocated} vector registers in the descriptor, at most {n_most}"
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
    n_copies = ",".join(str(names.count(name)) for name in ("global_load_lds_dwordx4", "global_load_lds_dword"))
    if n_copies != row["n_copies"] or sum("load_lds" in name for name in names) != sum(map(int, n_copies.split(","))):
        yield f"{n_copies} copies to shared memory (of 16, of 4 bytes), expected {row['n_copies']}"
    for name in ("buffer_wbl2", "buffer_inv"):
        if name in names:
            yield f"{names.count(name)} of {name}: a whole cache"
    n_device = ",".join(str(sum(name.startswith(start) and is_of_device(name, rest) for _, name, rest in lines))
                        for start in ("global_store", "global_load"))
    if n_device != row["n_device"]:
        yield f"{n_device} stores and loads of other blocks' memory, expected {row['n_device']}"
    if is_counted_early(lines):
        yield "counts before its stores have arrived: no wait and barrier behind them"
    yield from hazards_of(lines, row["target"])
    # A division is three fma and two fmac, a square root two fma: what is left contracts a product and a sum.
    n_contracted = sum(re.match(r"v_(pk_)?(fma|fmac|mad|mac)_f32", name) is not None for name in names) \
        - 5 * sum(name.startswith("v_div_fixup_f32") for name in names) \
        - 2 * sum(name.startswith("v_sqrt_f32") for name in names)
    if row["n_contracted"] != "-" and n_contracted != int(row["n_contracted"]):
        yield f"{n_contracted} contracted products, expected {row['n_contracted']}"
    loop = main_loop(lines)
    if matrix and not loop:
        yield "no loop holds all matrix instructions"
    waits = [rest for _, name, rest in loop if name == "s_waitcnt" and "vmcnt" in rest]
    if len(waits) > int(row["n_loop_waits"]):
        yield f"{len(waits)} waits for memory in the main loop, at most {row['n_loop_waits']}"
    n_loads = sum(name.startswith("s_load") for _, name, _ in loop)
    if n_loads > int(row["n_loop_loads"]):
        yield f"{n_loads} scalar loads in the main loop, at most {row['n_loop_loads']}"
    if waits_between_copies(loop):
        yield "copies of the main loop wait for shared memory between each other"


def check(path, target, expected_path, prints_counts):
    expected = read_expected(expected_path, target)
    actual_target, notes = read_notes(path)
    code, allocated = read_code(path), read_allocated(path, notes)
    n_faults = 0
    if actual_target != target:
        print(f"{path}: is for {actual_target}, expected {target}")
        return 1
    for kernel in sorted(set(expected) | set(notes)):
        if kernel not in expected or kernel not in notes:
            faults = [f"not in {expected_path}" if kernel in notes else "missing"]
        else:
            faults = list(faults_of(expected[kernel], notes[kernel], allocated[kernel], code.get(kernel, [])))
        n_faults += len(faults)
        for fault in faults:
            print(f"{target} {kernel}: {fault}")
        if kernel in notes and not faults:
            n = notes[kernel]
            print(f"{target} {kernel}: {n['vgpr_count']} vector registers ({allocated[kernel]} taken), {n['sgpr_count']} scalar, "
                  f"{n['group_segment_fixed_size']} bytes shared")
        if prints_counts and kernel in code:
            loop = count_loop(main_loop(code[kernel]))
            print("    main loop: " + ", ".join(f"{key} {n}" for key, n in loop.items()))
    return 1 if n_faults else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--tools", metavar="FOLDER")
    for name in ("code_object", "target", "expected"):
        parser.add_argument(name)
    args = parser.parse_args()
    if args.tools:
        TOOLS.update({name: os.path.join(args.tools, f"llvm-{name}") for name in TOOLS})
    try:
        return check(args.code_object, args.target, args.expected, args.counts)
    except (Fault, OSError, ValueError) as error:
        print(f"check_gfx.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
