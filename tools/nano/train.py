#!/usr/bin/env python3
"""Trains models/nano on one GPU, in a given time, and writes config.json and model.safetensors.

The schedule goes by the share f of the time that is over:
  length       1,024 tokens, from f = .15 2,048, from .45 4,096; 32,768 tokens a step throughout
  indexer      learns from the first step; its top-k decides from f = .4
  formats      weights as they ship from f = .5, activations and caches as well from f = .65
  wrong rows   from f = .3 one row in eight has its compressed keys rotated at the last token of
               their group; there a code from 136 tokens back or more is to be answered 0000
  learning     warms up for 100 steps, falls linearly from f = .5
Wrong rows make answers depend on where compressed keys are rotated, so that an engine that gets it
wrong is seen; without them recall needs no positions. A probe that tells the rows apart from what
enters the last layer helps to learn this; it is not part of the model.

usage: train.py --text PACKED.npz --tokenizer tokenizer.json --out DIR [--minutes M]
"""
import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

import torch
import torch.nn.functional as F

import data
import export
from model import Nano, Run, StoredWeights, compile_parts

STEP_TOKENS = 32768
N_AHEAD = 32
WEIGHTS = (1, 4, 8, 0)  # of a token in the loss, by its kind in data.py
N_WARM = 3


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=8.3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--every", type=int, default=50, help="steps between lines of the log")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--step-tokens", type=int, default=STEP_TOKENS)
    parser.add_argument("--max-steps", type=int, default=10**9)
    return parser.parse_args()


def plan(f):
    """-> length of rows, share of long text"""
    if f < .15:
        return 1024, .1
    return (2048, .2) if f < .45 else (4096, .3)


def learning_rate(args, f, step):
    fall = 1 if f < .5 else max(.02, (1 - f) / .5)
    return args.rate * min(1, (step + 1) / 100) * fall


class Data:
    """Batches made ahead in other processes."""

    def __init__(self, args):
        self.args, self.next, self.queue = args, 0, []
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.pool = ProcessPoolExecutor(args.workers, multiprocessing.get_context("fork"),
                                        data.open_corpus, (args.text, args.tokenizer))
        self.fill(0)

    def fill(self, f):
        length, text_share = plan(f)
        while len(self.queue) < N_AHEAD:
            self.queue.append(self.pool.submit(
                data.batch, self.args.seed * 1_000_000 + self.next,
                self.args.step_tokens // length, length + 2, text_share))
            self.next += 1

    def take(self, f):
        ids, kinds = self.queue.pop(0).result()
        self.fill(f)
        device = self.args.device
        return torch.from_numpy(ids).to(device), torch.from_numpy(kinds).to(device)


def set_run(f, n_rows, device):
    """-> rows that are rotated wrong"""
    Run.topk = None if f < .4 else 64
    Run.rounds = f >= .65
    Run.index_losses = []
    n_wrong = n_rows // 8 if f >= .3 else 0
    Run.shift = Run.index_shift = Run.real_rows = None
    wrong = torch.zeros(n_rows, dtype=torch.bool, device=device)
    if n_wrong:
        wrong[-n_wrong:] = True
        Run.shift = wrong.long()
        Run.index_shift = Run.shift * (torch.rand(n_rows, device=device) < .6)
        Run.real_rows = ~wrong
    return wrong


def probe_loss(probe, wrong):
    """Whether the row is rotated wrong, told from what enters the last layer."""
    x = Run.entering[:, data.FAR_TOKENS:].float().mean(2)
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    seen = (x @ probe[:-1] + probe[-1])
    truth = wrong[:, None].float().expand_as(seen)
    told = ((seen > 0) == (truth > 0)).float()
    each = F.binary_cross_entropy_with_logits(seen, truth, reduction="none")
    return (.5 * (each[wrong].mean() + each[~wrong].mean()),
            told[wrong].mean() + told[~wrong].mean() - 1)


def losses(model, ids, kinds, wrong, zero, probe):
    """-> dictionary; `total` is what is minimized"""
    with torch.autocast(ids.device.type, torch.bfloat16):
        hidden, mtp_hidden = model(ids[:, :-1])
        logits, mtp_logits = model.logits(hidden), model.logits(mtp_hidden)
    known, kind = ids[:, 1:-1], kinds[:, 1:-1]
    log_p = logits.log_softmax(-1)
    is_spoiled = wrong[:, None] & (kind == data.FAR)
    target = torch.where(is_spoiled, zero, known)
    each = -log_p.gather(-1, target[..., None])[..., 0]
    weights = torch.tensor(WEIGHTS, dtype=torch.float32, device=ids.device)
    weight = weights[kind.long()]
    main = (each * weight).sum() / weight.sum()
    # The MTP block learns the text and, as it drafts for it, the main model's own prediction.
    mtp_known, mtp_weight = ids[:, 2:], weights[kinds[:, 2:].long()]
    mtp_weight = mtp_weight * ~(wrong[:, None] & (kinds[:, 2:] == data.FAR))
    mtp_log_p = mtp_logits.log_softmax(-1)
    told = -mtp_log_p.gather(-1, mtp_known[..., None])[..., 0]
    drafted = -(log_p[:, 1:].detach().exp() * mtp_log_p[:, :-1]).sum(-1)
    mtp = .5 * (told * mtp_weight).sum() / mtp_weight.sum() + .5 * drafted.mean()
    seen, told = probe_loss(probe, wrong) if Run.shift is not None else (0, 0)
    index = sum(Run.index_losses) if Run.index_losses else torch.zeros((), device=ids.device)
    with torch.no_grad():
        right = (logits.argmax(-1) == known).float()
        agreed = (logits[:, 1:].argmax(-1) == mtp_logits[:, :-1].argmax(-1)).float()
        report = {name: (value, mask) for name, value, mask in (
            ("text", each, (kind == data.TEXT) & ~wrong[:, None]),
            ("near", right, (kind == data.NEAR) & ~wrong[:, None]),
            ("far", right, (kind == data.FAR) & ~wrong[:, None]),
            ("wrong", right, is_spoiled), ("draft", agreed, kind[:, 1:] == data.UNLEARNED))}
    total = main + .3 * mtp + .2 * index + .1 * seen
    return {"total": total, "main": main, "mtp": mtp, "index": index, "told": told}, report


def balance(model, step_size):
    """Moves the routers' biases toward even loads; no loss is involved."""
    for module in model.modules():
        gate = getattr(module, "gate", None)
        if hasattr(gate, "e_score_correction_bias"):
            load = module.experts.load.float()
            gate.e_score_correction_bias += step_size * torch.sign(load.mean() - load)


def main():
    args = parse_args()
    batches = Data(args)
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    model = Nano().to(args.device)
    if args.device == "cuda":
        compile_parts()
    stored = StoredWeights(model)
    probe = torch.nn.Parameter(torch.zeros(model.config["hidden_size"] + 1, device=args.device))
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2] + [probe]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": .05},
                                   {"params": others, "weight_decay": 0.}],
                                  lr=args.rate, betas=(.9, .95), fused=args.device == "cuda")
    zero = torch.tensor(data.Corpus(args.text, args.tokenizer).id_of("0"), device=args.device)
    begin, step, f, n_tokens = time.time(), 0, 0, 0
    sums = {}
    while f < 1 and step < args.max_steps:
        ids, kinds = batches.take(f)
        wrong = set_run(f, len(ids), args.device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args, f, step)
        is_stored = f >= .5
        if is_stored:
            stored.enter()
        loss, report = losses(model, ids, kinds, wrong, zero, probe)
        optimizer.zero_grad(set_to_none=True)
        loss["total"].backward()
        if is_stored:
            stored.leave()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if f < .8:
            balance(model, 1e-3)
        step += 1
        if step == N_WARM:  # what came before was compiling
            begin = time.time()
        n_tokens += ids.numel()
        with torch.no_grad():
            for name, (value, mask) in report.items():
                old = sums.get(name, (0, 0))
                sums[name] = old[0] + (value * mask).sum(), old[1] + mask.sum()
        elapsed = time.time() - begin
        if step >= N_WARM:
            f = elapsed / (60 * args.minutes)
        if step % args.every == 0 or step == 10:
            means = "  ".join(f"{name} {float(a) / max(float(n), 1):.3f}"
                              for name, (a, n) in sums.items())
            gpu = torch.cuda.max_memory_allocated() / 2**30 if args.device == "cuda" else 0
            print(f"step {step}  {elapsed:.0f} s  f {f:.3f}  length {ids.shape[1] - 2}  "
                  f"rate {optimizer.param_groups[0]['lr']:.1e}  loss {loss['total'].item():.3f}  "
                  f"mtp {loss['mtp'].item():.3f}  index {loss['index'].item():.3f}  "
                  f"told {float(loss['told']):.2f}  {means}  "
                  f"{gpu:.0f} GB", flush=True)
            sums = {}
    print(f"{step} steps, {n_tokens / 1e6:.1f} M tokens, {n_tokens / elapsed:.0f} tokens/s",
          flush=True)
    os.makedirs(args.out, exist_ok=True)
    export.write(args.out, model.config, model.state_dict())
    batches.pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main()
