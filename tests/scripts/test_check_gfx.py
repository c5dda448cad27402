#!/usr/bin/env python3
"""check_gfx.py passes a kernel that is as expected and fails each of those that are spoiled in one way; and a conversion
of gpu.h may stand directly behind what it reads.

usage: test_check_gfx.py CLANG LINKER
"""
import os
import subprocess
import sys
import tempfile

CHECK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_gfx.py")
TARGET = "gfx950"
SOURCES = os.path.join(os.path.dirname(CHECK), "..", "..", "src")
FLAGS = ["-x", "c", "-std=gnu11", "-O3", "-target", "amdgcn-amd-amdhsa", "-nogpulib", "-ffreestanding",
         "-fvisibility=protected", "-I", SOURCES]

SOURCE = """
typedef __bf16 bf16x8 __attribute__((vector_size(16)));
typedef float f32x4 __attribute__((vector_size(16)));
#define GLOBAL __attribute__((address_space(1)))
#define SHARED static __attribute__((address_space(3), loader_uninitialized))
__attribute__((amdgpu_kernel, amdgpu_flat_work_group_size(512, 512)WAVES, visibility("protected")))
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
GOOD = {"SHARED_WORDS": "1024", "WAVES": "", "BEFORE": 'bf16x8 x = a[lane]; asm volatile("" : "+v"(x));', "AFTER": "",
        "PRODUCT": "sum = __builtin_amdgcn_mfma_f32_16x16x32_bf16(x, x, sum, 0, 0, 0);"}
KEEP = """{type} kept[{n}];
_Pragma("unroll") for (int i = 0; i < {n}; i++) {{ kept[i] = ({type})(n + i * {of}); asm volatile("" : "+{kind}"(kept[i])); }}"""
USE = '_Pragma("unroll") for (int i = 0; i < {n}; i++) asm volatile("" :: "{kind}"(kept[i]));'
WAIT, BARRIER = 'asm volatile("s_waitcnt vmcnt(0)" ::: "memory");', "__builtin_amdgcn_s_barrier();"
COUNTER = "((GLOBAL int *)a)"
STORE = f"__scoped_atomic_store_n({COUNTER} + lane, n, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);"
ARRIVE = WAIT + BARRIER + f"""
    if (lane == 0) __scoped_atomic_fetch_add({COUNTER} - 1, 1, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);"""
CONVERT = """unsigned pair; asm("v_cvt_pk_bf16_f32 %0, %1, %2" : "=v"(pair) : "v"({x}), "v"({y}));
    sum[2] += (float)pair;"""
# What is spoiled, a word of the complaint, and what is expected of accesses for other blocks, if any is.
BAD = {
    "scratch": ({"BEFORE": GOOD["BEFORE"] + "float rows[40]; for (int i = 0; i < 40; i++) rows[i] = (float)i * n;",
                 "AFTER": "sum += rows[(n + lane) % 40];"}, "private_segment"),
    "no matrix instruction": ({"PRODUCT": "sum += (float)x[i % 8];"}, "matrix instructions"),
    "one matrix instruction more": ({"PRODUCT": 2 * GOOD["PRODUCT"]}, "matrix instructions"),
    "too much shared memory": ({"SHARED_WORDS": "20000"}, "shared memory"),
    "a wait in the loop": ({"PRODUCT": "x = a[lane + 512 * i];" + GOOD["PRODUCT"]}, "waits for memory"),
    "a scalar load in the loop": ({"PRODUCT": 'asm volatile("s_load_dword s40, %0, 0x0" :: "s"(a) : "s40");'
                                  + GOOD["PRODUCT"]}, "scalar loads"),
    "copies that wait for addresses": ({"PRODUCT": GOOD["PRODUCT"] + 2 * (
        'asm volatile("s_waitcnt lgkmcnt(0)\\n\\tglobal_load_lds_dwordx4 %0, off" :: "v"(a));')}, "between each other"),
    "a flat access": ({"AFTER": "sum += *(volatile float *)(n * 16ull + (unsigned)lane * 4);"}, "flat_"),
    "registers": ({"AFTER": 'asm volatile("v_mov_b32 v200, 0" ::: "v200");'}, "vector registers"),
    "registers for nothing": ({"WAVES": ", amdgpu_waves_per_eu(2, 2)"}, "in the descriptor"),
    "a fence": ({"AFTER": '__builtin_amdgcn_fence(__ATOMIC_RELEASE, "agent");'}, "buffer_wbl2"),
    "an acquiring fence": ({"AFTER": '__builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "agent");'}, "buffer_inv"),
    "a contraction": ({"AFTER": "sum[0] = sum[0] * (float)n + (float)lane;"}, "contracted"),
    "a copy": ({"AFTER": "__builtin_amdgcn_global_load_lds((GLOBAL void *)a, shared, 4, 0, 0);"}, "copies"),
    "a copy of another width": ({"AFTER": "__builtin_amdgcn_global_load_lds((GLOBAL void *)a, shared, 16, 0, 0);"},
                                "1,0 copies"),
    "a copy of a width that nobody counts": (
        {"AFTER": "__builtin_amdgcn_global_load_lds((GLOBAL void *)a, shared, 2, 0, 0);"}, "copies"),
    "vector registers spilled": ({"BEFORE": GOOD["BEFORE"] + KEEP.format(type="float", n=300, kind="v", of="lane"),
                                  "AFTER": USE.format(n=300, kind="v")}, "vgpr_spill_count"),
    "scalar registers spilled": ({"BEFORE": GOOD["BEFORE"] + KEEP.format(type="int", n=130, kind="s", of="0"),
                                  "AFTER": USE.format(n=130, kind="s")}, "sgpr_spill_count"),
    "the product outside of the loop": ({"PRODUCT": 'asm volatile("");', "AFTER": GOOD["PRODUCT"]}, "no loop"),
    "a store for other blocks": ({"AFTER": STORE}, "other blocks' memory"),
    "one of another scope": ({"AFTER": STORE.replace("DEVICE", "WRKGRP") + ARRIVE}, "0,0 stores", "1,0"),
    "stores not waited for": ({"AFTER": STORE + ARRIVE.replace(WAIT, "")}, "counts before", "1,0"),
    "no barrier before the count": ({"AFTER": STORE + ARRIVE.replace(BARRIER, "")}, "counts before", "1,0"),
    "a read behind a product": ({"AFTER": CONVERT.format(x="sum[0]", y="sum[1]")}, "too early behind v_mfma"),
    "a read behind an exponential": (
        {"AFTER": CONVERT.format(x="__builtin_amdgcn_exp2f(sum[0])", y="__builtin_amdgcn_exp2f(sum[1])")}, "too early behind v_exp"),
}
EXPECTED = "gfx950 sums 4 0 65536 v_mfma_f32_16x16x32_bf16 1 0,0 0 0 0,0 0\n"

# gpu.h's conversion with nothing between it and what it reads.
WRAPPED = """
#include "gpu/gpu_matrix.h"
GPU_KERNEL(converted, 64)(const void *from, char *to)
{
    const gpu_u32x4 x = gpu_load16(from);
    gpu_f32x4 sum = {0, 0, 0, 0};
    for (int i = 0; i < gpu_block(); i++) {
        sum = gpu_multiply_bf16(x, x, sum);
        gpu_store4(to + 4 * i, gpu_to_bf16_pair(sum[0], sum[1]));
    }
    gpu_store4(to, gpu_to_bf16_pair(gpu_exp2(gpu_as_f32(x[0])), gpu_exp2(gpu_as_f32(x[1]))));
}
"""
WRAPPED_EXPECTED = {"gfx950": "gfx950 converted 8 0 0 v_mfma_f32_16x16x32_bf16 1 0,0 99 99 0,0 -\n",
                    "gfx942": "gfx942 converted 8 0 0 v_mfma_f32_16x16x16_bf16 2 0,0 99 99 0,0 -\n"}


def source_of(changes):
    text = SOURCE
    for key, value in {**GOOD, **changes}.items():
        text = text.replace(key, value)
    return text


def build(compiler, linker, folder, text, target=TARGET):
    paths = [os.path.join(folder, name) for name in ("kernel.c", "kernel.o", "kernel.co")]
    with open(paths[0], "w", encoding="utf-8") as file:
        file.write(text)
    # one trip a time: the number of instructions is that of the source
    subprocess.run([compiler, *FLAGS, f"-mcpu={target}", "-fno-unroll-loops", "-c", paths[0], "-o", paths[1]], check=True)
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
        code = build(compiler, linker, folder, source_of({}))
        status, text = check(code, TARGET, folder, EXPECTED)
        if status != 0:
            faults.append(f"the good kernel: {text}")
        for name, expected in (("missing", EXPECTED + EXPECTED.replace("sums", "other")), ("not in", "")):
            status, text = check(code, TARGET, folder, expected)
            if status != 1 or name not in text:
                faults.append(f"a kernel {name}: status {status}, {text}")
        status, text = check(code, "gfx942", folder, EXPECTED.replace(TARGET, "gfx942"))
        if status != 1 or "is for gfx950, expected gfx942" not in text:
            faults.append(f"code for another target: status {status}, {text}")
        code = build(compiler, linker, folder, source_of({"AFTER": STORE + ARRIVE}))
        status, text = check(code, TARGET, folder, EXPECTED.replace(" 0,0 0\n", " 1,0 0\n"))
        if status != 0:
            faults.append(f"stores that are waited for and counted: {text}")
        for target, expected in WRAPPED_EXPECTED.items():
            status, text = check(build(compiler, linker, folder, WRAPPED, target), target, folder, expected)
            if status != 0:
                faults.append(f"gpu.h for {target}: {text}")
        for name, (changes, word, *of_device) in BAD.items():
            expected = EXPECTED.replace(" 0,0 0\n", f" {of_device[0]} 0\n") if of_device else EXPECTED
            status, text = check(build(compiler, linker, folder, source_of(changes)), TARGET, folder, expected)
            if status != 1 or word not in text:
                faults.append(f"{name}: status {status}, {text}")
    for fault in faults:
        print("FAILED", fault)
    print(f"{len(BAD) + 7 - len(faults)} passed, {len(faults)} failed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
