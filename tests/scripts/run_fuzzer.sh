#!/bin/sh
# Fuzz for a while, starting from the committed corpus; fails when the fuzzer finds a fault. New
# inputs and the one that failed stay in WORK_DIR.
#
# usage: run_fuzzer.sh FUZZER CORPUS_DIR WORK_DIR SECONDS
set -eu
fuzzer=$1 corpus=$2 work=$3 seconds=$4
if [ -z "$(ls "$corpus")" ]; then
    echo "$corpus is empty" >&2
    exit 1
fi
mkdir -p "$work/new"
exec "$fuzzer" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$work/" "$work/new" "$corpus"
