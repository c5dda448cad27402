#!/usr/bin/env python3
"""Draws markdown tables from the JSON lines that `dsv4 attn bench --json` or `dsv4 bench --json` wrote.

usage: bench/report.py bench/results/attn-cpu.jsonl
"""
import json
import sys


def time_text(time_s):
    return f"{time_s * 1e6:.0f} us" if time_s < 1e-2 else f"{time_s * 1e3:.1f} ms"


def print_attn(rows):
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
        print(f"| {sizes['n_heads']} | {keys} | {sizes['n_requests']} | {time_text(result['time_s'])} "
              f"| {result['flop_per_s'] / 1e9:.0f} | {result['bytes_per_s'] / 1e9:.1f} "
              f"| {100 * result['ceiling_fraction']:.0f} % | {result['ref_ratio']:.0f} "
              f"| {result['scaling']:.2f} |")


def print_setup(rows):
    row, rates = rows[0], [row["ceilings"]["read_bytes_per_s"] / 1e9 for row in rows]
    shares = [100 * row["ceilings"]["cpu_share"] for row in rows]
    print(f"{row['machine']['cpu']}, {row['n_threads']} threads, level {row['cpu_level']}, numerics "
          f"{row['numerics']}; ceilings {min(rates):.1f} to {max(rates):.1f} GB/s read; the threads "
          f"had {min(shares):.0f} to {max(shares):.0f} % of the processor time\n")


def print_linears(rows):
    print_setup(rows)
    print("| model | matrix | type | outputs x inputs | batch | time | GB/s | of the ceiling |")
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        result = row["result"]
        print(f"| {row['shape']} | {row['linear']} | {row['type']} | {row['n_out']} x {row['n_in']} "
              f"| {row['batch']} | {time_text(result['time_s'])} | {result['bytes_per_s'] / 1e9:.1f} "
              f"| {100 * result['read_fraction']:.0f} % |")


def print_layers(rows):
    print_setup(rows)
    print("| model | layer | of them | batch | context | time | MB | experts | GB/s | of the ceiling |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        result = row["result"]
        print(f"| {row['shape']} | {row['layer']} | {row['n_layers']} | {row['batch']} "
              f"| {row['context']} | {time_text(result['time_s'])} | {result['bytes'] / 1e6:.0f} "
              f"| {row['experts']['read']:.0f} | {result['bytes_per_s'] / 1e9:.1f} "
              f"| {100 * result['read_fraction']:.0f} % |")


def print_models(rows):
    print("| model | size | params | threads | test | t/s |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        depth = f" @ d{row['depth']}" if row["depth"] else ""
        print(f"| {row['model']} | {row['n_bytes'] / 2**30:.2f} GiB | {row['n_parameters'] / 1e9:.2f} B "
              f"| {row['n_threads']} | {row['test'].split()[0]}{depth} "
              f"| {row['mean_per_s']:.2f} ± {row['deviation_per_s']:.2f} |")


def main(paths):
    all_rows = [json.loads(line) for path in paths for line in open(path, encoding="utf-8")]
    if not all_rows:
        sys.exit("usage: report.py FILE.jsonl ...")
    tables = {"attn": print_attn, "layer": print_layers, "linear": print_linears,
              "model": print_models}
    is_first = True
    for bench, print_table in tables.items():
        rows = [row for row in all_rows if row["bench"] == bench]
        if not rows:
            continue
        if not is_first:
            print()
        is_first = False
        print_table(rows)


main(sys.argv[1:])
