#!/bin/sh
# On a machine with an AMD GPU: what the runtime and the device are, the case files with their answers, the randomized
# checks in parallel shards, queries and keys, graphs that are replayed, the machine code where LLVM's tools are, and the
# tables of times. Ends with one line: PASSED or FAILED.
#
# usage: test_hip.sh BUILD_DIR [bare]      bare: no table, small batches, few cases, for a device that is none
set -u
build=$1
mode=${2-full}
fixtures=$(dirname "$0")/../fixtures/attn
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
failed=

step() { # step NAME COMMAND...: its output, and its name when it failed
    name=$1
    shift
    echo "== $name"
    "$@" || failed="$failed $name"
}

shards() { # the randomized checks: failures, what was skipped, and the sum of cases
    i=0
    while [ "$i" -lt "$n" ]; do
        { "$build/tests/check/check_attn" --hip --shard "$i/$n" "$@" >"$temp/$i" 2>&1 ||
            echo "exit status $? in shard $i/$n" >>"$temp/$i"; } &
        i=$((i + 1))
    done
    wait
    grep -h -E '^FAILED|exit status|skipped|^check_attn' "$temp"/* | sort -u
    cat "$temp"/* | awk '/passed,/ { passed += $1; failed += $3 }
        END { print passed + 0 " passed, " failed + 0 " failed"; exit failed > 0 || passed == 0 }' &&
        ! grep -q 'exit status' "$temp"/*
}

machine_code() { # options of check_gfx.py; what clang 22 makes is held to exactly; another compiler's differences are only told
    status=0
    for target in gfx942 gfx950; do
        python3 "$(dirname "$0")/check_gfx.py" "$@" "$build/src/gpu/dsv4.$target.co" $target \
            "$(dirname "$0")/../gfx/kernels.txt" || status=$?
    done
    "$build/dsv4" info | grep -q 'code is by clang 22' || return 0
    return $status
}

n=$(nproc)
[ "$n" -le 16 ] || n=16
if ! "$build/dsv4" info || ! "$build/dsv4" info | grep -q 'HIP: kernel'; then
    echo "== FAILED: no AMD GPU that this build can use; the lines with HIP above say what is missing"
    exit 1
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # shards are as many as cores
step cases "$build/dsv4" attn check --backend hip "$fixtures"/*.safetensors
if [ "$mode" = bare ]; then
    n=1
    step random shards --cases 1
    step keys "$build/tests/check/check_keys" --hip --threads
    step graphs "$build/tests/check/check_replay" --hip --short --replays 3
else
    step random shards
    step flashmla shards --group flashmla --cases 4476 # all of FlashMLA's
    step keys "$build/tests/check/check_keys" --hip --long
    OMP_NUM_THREADS=$(nproc) # alone on the device: it looks at free memory
    step graphs "$build/tests/check/check_replay" --hip
    step times "$build/dsv4" attn bench --backend hip
    if "$build/dsv4" info | grep -q 'HIP: kernel gfx950'; then
        step times-fp8 "$build/dsv4" attn bench --backend hip --math fp8
    fi
fi
if command -v python3 >/dev/null && command -v llvm-objdump-22 >/dev/null; then
    step machine-code machine_code
elif command -v python3 >/dev/null && [ -x /opt/rocm/llvm/bin/llvm-objdump ]; then
    step machine-code machine_code --tools /opt/rocm/llvm/bin
fi
if [ -n "$failed" ]; then
    echo "== FAILED:$failed"
    exit 1
fi
echo "== PASSED"
