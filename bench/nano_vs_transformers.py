#!/usr/bin/env python3
"""models/nano in dsv4 next to transformers: same checkpoint, same processor, same number of threads, one run.

transformers computes in float32 on the dequantized weights with its key-value cache, the faster of its
attention implementations that the model has; dsv4 in both numerics. A prompt of 512 tokens, then 128 tokens
one by one, medians of --reps.

usage: nano_vs_transformers.py [--threads N] [--reps N] [--dsv4 PATH] [--json]
needs torch, transformers with deepseek_v4, tokenizers, safetensors
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
N_PROMPT, N_NEW = 512, 128


def ours(dsv4, numerics, threads, reps):
    """-> tokens per second of the prompt, of generation"""
    out = subprocess.run(
        [dsv4, "bench", "-m", f"{ROOT}/models/nano", "--pp", str(N_PROMPT), "--tg", str(N_NEW),
         "--reps", str(reps), "--threads", str(threads), "--numerics", numerics, "--json"],
        check=True, capture_output=True, text=True).stdout
    rates = {}
    for line in out.splitlines():
        row = json.loads(line)
        rates[row["test"][:2]] = statistics.median(row["rates_per_s"])
    return rates["pp"], rates["tg"]


def theirs(threads, reps):
    import torch
    sys.path.insert(0, f"{ROOT}/tools/nano")
    import export
    torch.set_num_threads(threads)
    _, model, _ = export.read(f"{ROOT}/models/nano")
    model = model.eval()
    ids = torch.randint(3, model.config.vocab_size, (1, N_PROMPT),
                        generator=torch.Generator().manual_seed(0))
    prompt_s, step_s = [], []
    with torch.no_grad():
        for _ in range(reps + 1):  # the first one does not count
            start = time.perf_counter()
            out = model(ids, use_cache=True, logits_to_keep=1)
            prompt_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(N_NEW):
                token = out.logits[:, -1:].argmax(-1)
                out = model(token, past_key_values=out.past_key_values, use_cache=True)
            step_s.append(time.perf_counter() - start)
    return (N_PROMPT / statistics.median(prompt_s[1:]), N_NEW / statistics.median(step_s[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--dsv4", default=f"{ROOT}/build/dsv4")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [("transformers, float32", *theirs(args.threads, args.reps))]
    for numerics in ("exact", "official"):
        rows.append((f"dsv4, {numerics}", *ours(args.dsv4, numerics, args.threads, args.reps)))
    base = rows[0]
    if args.json:
        for name, prompt, step in rows:
            print(json.dumps({"bench": "nano", "engine": name, "n_threads": args.threads,
                              "pp512_per_s": prompt, "tg128_per_s": step,
                              "prompt_ratio": prompt / base[1], "step_ratio": step / base[2]}))
        return
    print(f"| {args.threads} thread{'s' * (args.threads > 1)} | pp512 tokens/s | times | "
          "tg128 tokens/s | times |\n|---|---:|---:|---:|---:|")
    for name, prompt, step in rows:
        print(f"| {name} | {prompt:.0f} | {prompt / base[1]:.1f} | {step:.0f} | {step / base[2]:.1f} |")


if __name__ == "__main__":
    main()
