#!/bin/sh
# Check the GPU's kernels: the randomized checks, that of the attention in parallel shards, the case files with their
# answers, graphs that are replayed; the Python package with torch, when it is there; and, in a build with rings, that
# the checks notice broken kernels.
#
# usage: test_gpu.sh BUILD_DIR
set -eu
build=$1
fixtures=$(dirname "$0")/../fixtures/attn
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
n=$(nproc)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # shards are as many as cores
[ "$n" -le 16 ] || n=16

"$build/dsv4" attn check --backend cuda "$fixtures"/*.safetensors
"$build/tests/check/check_keys" --cuda
OMP_NUM_THREADS=$n "$build/tests/check/check_replay" # alone on the device: it looks at free memory
DSV4_LIBRARY="$build/libdsv4.so" PYTHONPATH="$(dirname "$0")/../../bindings/python" PYTHONDONTWRITEBYTECODE=1 \
    python3 "$(dirname "$0")/../python/run_gpu.py"
variants=$(dirname "$0")/../variants
if [ -f "$build/tests/variants.json" ]; then
    python3 "$variants/run_variants.py" -j 4 "$variants/variants_cuda.txt" "$build/tests/variants.json"
fi
for i in $(seq 0 $((n - 1))); do
    { "$build/tests/check/check_attn" --cuda --shard "$i/$n" >"$temp/$i" 2>&1 || echo "exit status $?" >>"$temp/$i"; } &
done
wait
for i in $(seq 0 $((n - 1))); do # all of FlashMLA's cases: four minutes on 16 cores
    { "$build/tests/check/check_attn" --cuda --group flashmla --cases 4476 --shard "$i/$n" >"$temp/flashmla-$i" 2>&1 ||
        echo "exit status $?" >>"$temp/flashmla-$i"; } &
done
wait
grep -h -E '^FAILED|exit status|skipped' "$temp"/* | sort -u || true
awk '/^flashmla +cuda +[0-9]+ cases/ { n += $3 } END { print n + 0 " of FlashMLA'\''s 4476 cases by its tolerances" }' "$temp"/flashmla-*
awk '/passed,/ { passed += $1; failed += $3 } END { print passed + 0 " passed, " failed + 0 " failed"; exit failed > 0 || passed == 0 }' "$temp"/*
! grep -q 'exit status' "$temp"/*
