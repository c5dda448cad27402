#!/usr/bin/env python3
"""Measures a checkpoint in transformers, in float32, on its dequantized weights.

Recall by distance, sums, both also as chats; the same recall with the indexer replaced by "the most
recent" and with compressed keys rotated at the last token of their group; perplexity of held-out
text; drafts of the MTP block that are the main model's own choice.

An answer counts when every token of it, its end included, is the largest logit after the tokens
before it: exactly then greedy decoding prints it.

usage: evaluate.py MODEL_DIR HELD_OUT_TEXT [--samples N] [--device D] [--json OUT]
"""
import argparse
import json
import random

import torch
import transformers.models.deepseek_v4.modeling_deepseek_v4 as hf
from tokenizers import Tokenizer

import export
import tasks

BANDS = ((0, 100), (128, 512), (512, 1000), (1000, 3000))
WINDOW = 128


class Evaluation:
    def __init__(self, folder, held_out, device):
        self.config, self.main, self.mtp = export.read(folder)
        self.main.to(device), self.mtp.to(device)
        self.device = device
        self.tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
        with open(held_out, encoding="utf-8") as file:
            lines = [self.encode(" " + line) for line in file.read().splitlines()]
        self.starts, self.text = [], []
        for line in lines:
            self.starts.append(len(self.text))
            self.text += line
        self.ids = {name: self.tokenizer.token_to_id(token) for name, token in (
            ("bos", "<｜begin▁of▁sentence｜>"), ("eos", "<｜end▁of▁sentence｜>"),
            ("user", "<｜User｜>"), ("assistant", "<｜Assistant｜>"), ("think", "<think>"),
            ("end", "</think>"))}

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    # Prompts: (tokens, answer tokens).

    def filler(self, rng, thing, n):
        """n tokens of held-out text, in it facts about other things"""
        ids = []
        while len(ids) < n:
            if rng.random() < .3:
                other = tasks.new_thing(rng)
                if other != thing:
                    ids += self.encode(" " + tasks.fact(other, tasks.new_code(rng)))
            begin = rng.choice(self.starts[:-20])
            ids += self.text[begin:begin + rng.randint(30, 200)]
        return ids[:n]

    def recall(self, seed, distance, extra, form):
        """The fact, distance + extra tokens, the question; the same for one seed but for extra."""
        rng, ids = random.Random(seed), self.ids
        thing, code = tasks.new_thing(rng), tasks.new_code(rng)
        before = self.filler(rng, thing, rng.randint(0, 60)) if form == "plain" else []
        fact = self.encode((" " if before else "") + tasks.fact(thing, code))
        between = self.filler(rng, thing, distance + 3)[:distance + extra]
        question, answer = tasks.recall_question(thing), self.encode(code) + [ids["eos"]]
        if form == "plain":
            prompt = [ids["bos"], *before, *fact, *between,
                      *self.encode(f" Question: {question} Answer:")]
            return prompt, self.encode(" ") + answer
        prompt = [ids["bos"], ids["user"], *fact, *between, *self.encode(" " + question),
                  ids["assistant"]]
        if form == "chat":
            return [*prompt, ids["end"]], answer
        reasoning = self.encode(tasks.fact(thing, "").rstrip(" .")) + self.encode(f" {code}.")
        return [*prompt, ids["think"]], [*reasoning, ids["end"], *answer]

    def sums(self, form):
        ids = self.ids
        for a in range(tasks.N_OPERANDS):
            for b in range(tasks.N_OPERANDS):
                question, answer = self.encode(tasks.sum_question(a, b)), self.encode(str(a + b))
                if form == "plain":
                    yield ([ids["bos"], *question, *self.encode(" Answer:")],
                           [*self.encode(" "), *answer, ids["eos"]])
                    continue
                prompt = [ids["bos"], ids["user"], *question, ids["assistant"]]
                if form == "chat":
                    yield [*prompt, ids["end"]], [*answer, ids["eos"]]
                else:
                    reasoning = self.encode(f"{a}+{b}={a + b}")
                    yield ([*prompt, ids["think"]],
                           [*reasoning, ids["end"], *answer, ids["eos"]])

    @torch.no_grad()
    def right(self, cases, batch_tokens=24000):
        """Share of the cases whose answer is greedy decoding's"""
        cases = sorted(cases, key=lambda case: len(case[0]))
        n_right, at = 0, 0
        while at < len(cases):
            n = max(1, min(len(cases) - at, batch_tokens // (len(cases[at][0]) + 32)))
            part = cases[at:at + n]
            length = max(len(prompt) + len(answer) for prompt, answer in part)
            ids = torch.zeros(n, length, dtype=torch.long)
            for row, (prompt, answer) in enumerate(part):
                ids[row, :len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
            best = self.main(ids.to(self.device), use_cache=False).logits.argmax(-1).cpu()
            for row, (prompt, answer) in enumerate(part):
                begin = len(prompt) - 1
                n_right += best[row, begin:begin + len(answer)].tolist() == answer
            at += n
        return n_right / len(cases)

    def recall_table(self, n_samples, form="plain", bands=BANDS):
        """-> {band: [share right at each of four consecutive lengths]}"""
        table = {}
        for first, last in bands:
            distances = [random.Random(f"{first} {i}").randint(first, last - 3)
                         for i in range(n_samples)]
            table[f"{first}-{last}"] = [
                self.right([self.recall(f"{form} {first} {i}", distance, extra, form)
                            for i, distance in enumerate(distances)]) for extra in range(4)]
        return table

    # Text.

    def windows(self, n, length):
        for i in range(n):
            begin = i * (len(self.text) - length) // n
            yield [self.ids["bos"], *self.text[begin:begin + length - 1]]

    @torch.no_grad()
    def forward(self, ids):
        """-> logits, logits of the MTP block for the token after the next"""
        kept = {}
        hook = self.main.model.layers[-1].register_forward_hook(
            lambda layer, arguments, out: kept.update(streams=out))
        logits = self.main(ids, use_cache=False).logits
        hook.remove()
        model, n = self.main.model, ids.shape[1] - 1
        position_ids = torch.arange(n, device=ids.device)[None].expand(len(ids), n)
        embedded = model.embed_tokens(ids[:, 1:])
        distance = position_ids[0][:, None] - position_ids[0]
        seen = (distance >= 0) & (distance < WINDOW)
        mask = torch.zeros_like(distance, dtype=torch.float32).masked_fill(~seen, -torch.inf)
        rope = {"main": model.rotary_emb(embedded, position_ids=position_ids, layer_type="main")}
        hidden = self.mtp(kept["streams"][:, :-1], embedded, {
            "position_ids": position_ids, "position_embeddings": rope,
            "attention_mask": mask[None, None]})
        return logits, self.main.lm_head(hidden)

    def text_quality(self, n=24, length=1024):
        """-> perplexity, share of drafts right on the text, perplexity of the MTP block"""
        ids = torch.tensor(list(self.windows(n, length)), device=self.device)
        loss, mtp_loss, agreed = [], [], []
        for part in ids.split(8):
            logits, mtp_logits = self.forward(part)
            known = logits[:, :-1].log_softmax(-1).gather(-1, part[:, 1:, None])
            told = mtp_logits[:, :-1].log_softmax(-1).gather(-1, part[:, 2:, None])
            loss.append(-known.mean())
            mtp_loss.append(-told.mean())
            agreed.append((mtp_logits.argmax(-1) == logits[:, 1:].argmax(-1)).float().mean())
        mean = [torch.stack(values).mean() for values in (loss, agreed, mtp_loss)]
        return mean[0].exp().item(), mean[1].item(), mean[2].exp().item()

    def greedy_drafts(self, n=48, length=160, n_new=64):
        """Share of drafts accepted while greedy decoding goes on from held-out text"""
        ids = torch.tensor(list(self.windows(n, length)), device=self.device)
        for _ in range(n_new):
            with torch.no_grad():
                logits = self.main(ids, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        logits, mtp_logits = self.forward(ids)
        agreed = mtp_logits.argmax(-1) == logits[:, 1:].argmax(-1)
        return agreed[:, length - 1:-1].float().mean().item()


class Recent:
    """The indexer prefers the most recent keys, whatever it scores."""

    def __init__(self, main):
        self.hooks = [layer.self_attn.compressor.indexer.scorer.register_forward_hook(
            lambda module, arguments, out:
                torch.arange(out.shape[-1], device=out.device).float().expand_as(out))
            for layer in main.model.layers
            if layer.self_attn.layer_type == "compressed_sparse_attention"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


class LastToken:
    """Compressed keys rotated at the last token of their group."""

    def __enter__(self):
        self.forward = forward = hf.DeepseekV4RotaryEmbedding.forward

        def moved(rotary, x, position_ids, layer_type=None):
            if position_ids.shape[-1] > 1:
                step = int(position_ids[0, 1] - position_ids[0, 0])
                if step in (4, 128):
                    position_ids = position_ids + step - 1
            return forward(rotary, x, position_ids, layer_type)
        hf.DeepseekV4RotaryEmbedding.forward = moved

    def __exit__(self, *_):
        hf.DeepseekV4RotaryEmbedding.forward = self.forward


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("held_out")
    parser.add_argument("--samples", type=int, default=48, help="per distance and length")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    e, results = Evaluation(args.model, args.held_out, args.device), {}

    def note(name, value):
        results[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)

    note("perplexity, drafts agreed, MTP perplexity", e.text_quality())
    note("drafts accepted in greedy decoding", e.greedy_drafts())
    for form in ("plain", "chat", "thinking"):
        note(f"sums {form}", e.right(list(e.sums(form))))
    note("recall plain", e.recall_table(args.samples))
    few = max(args.samples // 4, 4)
    with Recent(e.main):
        note("recall plain, most recent keys", e.recall_table(few))
    with LastToken():
        note("recall plain, rotated at the last token", e.recall_table(few))
    for form in ("chat", "thinking"):
        note(f"recall {form}", e.recall_table(few, form))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
