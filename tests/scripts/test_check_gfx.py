#!/usr/bin/env python3
"""check_gfx.py passes a kernel that is as expected and fails each of those that are spoiled in one way.

usage: test_check_gfx.py CLANG LINKER
"""
import os
import subprocess
import sys
import tempfile

CHECK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_gfx.py")
TARGET = "gfx950"
FLAGS = ["-x", "c", "-std=gnu11", "-O3", "-target", "amdgcn-amd-amdhsa", f"-mcpu={TARGET}", "-nogpulib",
         "-ffreestanding", "-fvisibility=protected"]

SOURCE = """
typedef __bf16 bf16x8 __attribute__((vector_size(16)));
typedef float f32x4 __attribute__((vector_size(16)));
#define GLOBAL __attribute__((address_space(1)))
#define SHARED static __attribute__((address_space(3), loader_uninitialized))
__attribute__((amdgpu_kernel, amdgpu_flat_work_group_size(512, 512), visibility("protected")))
void sums(GLOBAL bf16x8 *a, GLOBAL f32x4 *out, int n)
{
    SHARED int shared[SHARED_WORDS];
    int lane = (int)__builtin_amdgcn_workitem_id_x();
    f32x4 sum = {0, 0, 0, 0};
    BEFORE
    shared[lane] = n;
    for (int i = 0; i < n; i++) { PRODUCT }
    AFTER
    out[lane] = sum + (float)shared[n];
}
"""
GOOD = {"SHARED_WORDS": "1024", "BEFORE": 'bf16x8 x = a[lane]; asm volatile("" : "+v"(x));', "AFTER": "",
        "PRODUCT": "sum = __builtin_amdgcn_mfma_f32_16x16x32_bf16(x, x, sum, 0, 0, 0);"}
# What is spoiled, and a word of the complaint.
BAD = {
    "scratch": ({"BEFORE": GOOD["BEFORE"] + "float rows[40]; for (int i = 0; i < 40; i++) rows[i] = (float)i * n;",
                 "AFTER": "sum += rows[(n + lane) % 40];"}, "private_segment"),
    "no matrix instruction": ({"PRODUCT": "sum += (float)x[i % 8];"}, "matrix instructions"),
    "one matrix instruction more": ({"PRODUCT": 2 * GOOD["PRODUCT"]}, "matrix instructions"),
    "too much shared memory": ({"SHARED_WORDS": "20000"}, "shared memory"),
    "a wait in the loop": ({"PRODUCT": "x = a[lane + 512 * i];" + GOOD["PRODUCT"]}, "waits for memory"),
    "a flat access": ({"AFTER": "sum += *(volatile float *)(n * 16ull + (unsigned)lane * 4);"}, "flat_"),
    "registers": ({"AFTER": 'asm volatile("v_mov_b32 v200, 0" ::: "v200");'}, "vector registers"),
    "a fence": ({"AFTER": '__builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");'}, "buffer_wbl2"),
    "a contraction": ({"AFTER": "sum[0] = sum[0] * (float)n + (float)lane;"}, "contracted"),
    "a copy": ({"AFTER": "__builtin_amdgcn_global_load_lds((GLOBAL void *)a, shared, 4, 0, 0);"}, "copies"),
}
EXPECTED = "gfx950 sums 4 65536 v_mfma_f32_16x16x32_bf16 1 0 0 0 0\n"


def build(compiler, linker, folder, changes):
    text = SOURCE
    for key, value in {**GOOD, **changes}.items():
        text = text.replace(key, value)
    paths = [os.path.join(folder, name) for name in ("kernel.c", "kernel.o", "kernel.co")]
    with open(paths[0], "w", encoding="utf-8") as file:
        file.write(text)
    # one trip a time: the number of instructions is that of the source
    subprocess.run([compiler, *FLAGS, "-fno-unroll-loops", "-c", paths[0], "-o", paths[1]], check=True)
    subprocess.run([linker, "-shared", paths[1], "-o", paths[2]], check=True)
    return paths[2]


def check(code, target, folder, expected):
    path = os.path.join(folder, "expected.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write(expected)
    done = subprocess.run([sys.executable, CHECK, code, target, path], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def main():
    compiler, linker = sys.argv[1:3]
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        code = build(compiler, linker, folder, {})
        status, text = check(code, TARGET, folder, EXPECTED)
        if status != 0:
            faults.append(f"the good kernel: {text}")
        for name, expected in (("missing", EXPECTED + EXPECTED.replace("sums", "other")), ("not in", "")):
            status, text = check(code, TARGET, folder, expected)
            if status != 1 or name not in text:
                faults.append(f"a kernel {name}: status {status}, {text}")
        for name, (changes, word) in BAD.items():
            status, text = check(build(compiler, linker, folder, changes), TARGET, folder, EXPECTED)
            if status != 1 or word not in text:
                faults.append(f"{name}: status {status}, {text}")
    for fault in faults:
        print("FAILED", fault)
    print(f"{len(BAD) + 3 - len(faults)} passed, {len(faults)} failed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
