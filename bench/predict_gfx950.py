#!/usr/bin/env python3
"""Times of the decode attention on an MI355X, on paper: docs/kernels-gfx950.md has the tables and what they leave out.

usage: predict_gfx950.py

Nothing here was measured. Instructions are counted in the machine code (tests/scripts/check_gfx.py --counts and the
disassembly of its main loops); rates are the chip's published ones; the times of a launch and of a chain of reads are
guesses, named below.
"""
import math
import sys

CLOCK, UNITS = 2.4e9, 256                      # Hz, compute units
MEMORY, BF16 = 8e12, 2.5e15                    # bytes/s, dense operations/s
STEP_KEYS = 32
ISSUE_CYCLES = 4                               # of a vector instruction of 64 lanes on a SIMD of 16
MATRIX_CYCLES = {"bf16 16x16x32": 16, "codes 16x16x128": 32}  # at the published rates
# Vector instructions of a wave and step: scores, values, the rest of the loop.
VECTOR = {"bf16": (102, 64, 21), "fp8": (32, 64, 21)}
UNIT_BYTES_PER_CYCLE = 64                      # that one compute unit can load at most
# Bytes of shared memory of a wave and step, 4 of each lane at least: scores; values; probabilities of 16 heads; the rest.
SHARED = (10 * 1024 + 2 * 512, 4 * 512 + 8 * 256, 1024, 4 * 512 + 3 * 256)
COPIED_BYTES = 8 * (4 * 37 * 16 + 32)          # of a step's rows into shared memory
# ROCm's HIP documentation (understand/hardware_implementation): two SIMDs share a port of 64 bytes a cycle; CDNA 4's 64
# banks could give 256.
SHARED_BYTES_PER_CYCLE = 128

# Guesses.
LAUNCH_US = 5.0       # of a graph with one kernel, and its end
FIRST_ROWS_US = 2.5   # from the start of a part's first step: plan, index, row, one behind the other
LATER_PART_US = 1.2   # a further part of the same thread block: its queries; rows are on their way
PART_END_US = 1.5     # first reference, sums, output
MERGE_US, MERGE_PART_US = 2.5, 0.15  # of a task in parts, and for each of them
IDLE = 1.3            # what a step takes over the fullest resource: two waves a SIMD do not fill it


def group_of(heads):
    return 16 if heads <= 16 else 32 if heads <= 32 else 64


def step_cycles(group, math_name, n_units, n_groups):
    """-> cycles of a step by resource: vector instructions, matrix instructions, shared memory, memory"""
    tiles = group // 16
    score_waves = {1: 1, 2: 1, 4: 2}[tiles]  # on the SIMD that has most of them
    scores, values, rest = VECTOR[math_name]
    vector = ISSUE_CYCLES * (score_waves * scores + 2 * (values + rest))
    bf16 = MATRIX_CYCLES["bf16 16x16x32"]
    score = 16 * bf16 if math_name == "bf16" else 4 * MATRIX_CYCLES["codes 16x16x128"] + 2 * bf16
    matrix = score_waves * score + 2 * 4 * tiles * bf16
    of_scores, of_values, of_probs, of_rest = SHARED
    shared = 2 * tiles * of_scores + 8 * (of_values + tiles * of_probs + of_rest) + COPIED_BYTES
    step_bytes = STEP_KEYS * 588 / n_groups  # groups of a query share a chiplet's cache
    memory = step_bytes * max(n_units / (MEMORY / CLOCK), 1 / UNIT_BYTES_PER_CYCLE)
    return vector, matrix, shared / SHARED_BYTES_PER_CYCLE, memory


def predict(heads, keys, requests, math_name):
    """-> microseconds, what bounds a step"""
    group = group_of(heads)
    n_groups = math.ceil(heads / group)
    n_tasks, n_blocks = requests * n_groups, math.ceil(keys / 64)
    n_whole, n_tail = divmod(n_tasks, UNITS)
    names = ("vector", "matrix", "shared", "memory")

    def step_us(n_units):
        cycles = step_cycles(group, math_name, n_units, n_groups)
        return IDLE * max(cycles) / CLOCK * 1e6, names[cycles.index(max(cycles))]

    full, bound = step_us(UNITS)
    time = LAUNCH_US + FIRST_ROWS_US - LATER_PART_US
    time += n_whole * (LATER_PART_US + 2 * n_blocks * full + PART_END_US)
    if n_tail:
        best = None
        for n_parts in range(1, min(UNITS // n_tail, n_blocks) + 1):
            step, tail_bound = step_us(n_tail * n_parts)
            part = LATER_PART_US + 2 * math.ceil(n_blocks / n_parts) * step + PART_END_US
            if n_parts > 1:
                part += MERGE_US + MERGE_PART_US * n_parts
            if best is None or part < best[0]:
                best = part, tail_bound
        time += best[0]
        if not n_whole:
            bound = best[1]
    return time, bound


def floors(heads, keys, requests):
    """-> microseconds for the bytes, for the operations in bf16"""
    n_bytes = requests * (keys * 588 + heads * 2052)
    return n_bytes / MEMORY * 1e6, 4 * 512 * requests * keys * heads / BF16 * 1e6


def print_table(keys):
    print(f"\n{keys} keys. Bytes and bf16 operations over the published rates; predicted bf16, FP8 (what bounds bf16).\n")
    print("| requests | " + " | ".join(f"{h} heads" for h in (8, 16, 32, 64, 128)) + " |")
    print("|---:|" + "---|" * 5)
    for requests in (1, 8, 32, 64, 128, 256):
        cells = []
        for heads in (8, 16, 32, 64, 128):
            n_bytes, operations = floors(heads, keys, requests)
            bf16, bound = predict(heads, keys, requests, "bf16")
            fp8, _ = predict(heads, keys, requests, "fp8")
            cells.append(f"{n_bytes:.1f}, {operations:.1f}; **{bf16:.0f}**, {fp8:.0f} ({bound})")
        print(f"| {requests} | " + " | ".join(cells) + " |")


def print_steps():
    print("| kernel | vector | matrix | shared memory | memory, 256 units | all in microseconds for 64 keys |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in ("bf16", "fp8"):
        for group in (16, 32, 64):
            cycles = [2 * c for c in step_cycles(group, name, UNITS, 1)]
            print(f"| `{name}_h{group}` | {cycles[0]:.0f} | {cycles[1]:.0f} | {cycles[2]:.0f} | {cycles[3]:.0f} | "
                  f"{IDLE * max(cycles) / CLOCK * 1e6:.2f} |")


def main():
    if len(sys.argv) > 1:
        print(__doc__, file=sys.stderr)
        return 2
    print_steps()
    for keys in (128, 640, 1152, 8320):
        print_table(keys)
    print("\nPublished elsewhere:\n")
    for what, heads, keys, requests in (("16 heads, 2048 keys", 16, 2048, 4), ("16 heads, 2048 keys", 16, 2048, 64),
                                        ("16 heads, 2048 keys", 16, 2048, 256), ("128 heads", 128, 4096, 4),
                                        ("128 heads", 128, 63333, 33), ("64 heads", 64, 4096, 4),
                                        ("64 heads", 64, 63333, 33)):
        bf16, fp8 = (predict(heads, keys, requests, name)[0] for name in ("bf16", "fp8"))
        print(f"{what}, {keys} keys, {requests} requests: {bf16:.1f}, FP8 {fp8:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
