#!/usr/bin/env python3
"""Draws a markdown table from the JSON lines that `dsv4 attn bench --json` wrote.

usage: bench/report.py bench/results/attn-cpu.jsonl
"""
import json
import sys

rows = [json.loads(line) for path in sys.argv[1:] for line in open(path, encoding="utf-8")]
if not rows:
    sys.exit("usage: report.py FILE.jsonl ...")
first = rows[0]
ceilings = first["ceilings"]
print(f"{first['machine']['cpu']}, {first['n_threads']} threads, kernel {first['kernel']}, math "
      f"{first['math']}; ceilings {ceilings['flop_per_s'] / 1e9:.0f} GFLOP/s "
      f"({ceilings['flop_loop']}), {ceilings['read_bytes_per_s'] / 1e9:.1f} GB/s read; the threads "
      f"had {100 * ceilings['cpu_share']:.0f} % of the processor time\n")
print("| heads | keys | requests | time | GFLOP/s | GB/s | of the ceiling | ref / time | 1 -> "
      f"{first['n_threads']} threads |")
print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
for row in rows:
    sizes, result = row["sizes"], row["result"]
    keys = str(sizes["n_window"]) + (f"+{sizes['n_extra']}" if sizes["n_extra"] else "")
    time_us = result["time_s"] * 1e6
    time = f"{time_us:.0f} us" if time_us < 1e4 else f"{time_us / 1e3:.1f} ms"
    print(f"| {sizes['n_heads']} | {keys} | {sizes['n_requests']} | {time} "
          f"| {result['flop_per_s'] / 1e9:.0f} | {result['bytes_per_s'] / 1e9:.1f} "
          f"| {100 * result['ceiling_fraction']:.0f} % | {result['ref_ratio']:.0f} "
          f"| {result['one_thread_time_s'] / result['time_s']:.2f} |")
