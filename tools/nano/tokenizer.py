#!/usr/bin/env python3
"""Trains the tokenizer: byte-level BPE with the official pre-tokenizer and special tokens.

Numbers stay single digits: training splits every digit off, so no merge joins two of them, and the
official split into groups of up to three then changes nothing.

usage: tokenizer.py TRAIN_TEXT OUT [--vocab N]   writes OUT/tokenizer.json, tokenizer_config.json
"""
import argparse
import json
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import tasks

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
FIRST = (BOS, EOS, PAD)
# name, whether decoding leaves it out; behind the merges, as in the official vocabulary
LAST = (("<｜fim▁hole｜>", False), ("<｜fim▁begin｜>", False), ("<｜fim▁end｜>", False),
        ("<｜User｜>", False), ("<｜Assistant｜>", False), ("<|EOT|>", False), ("<think>", True),
        ("</think>", True), ("｜DSML｜", True), ("<｜latest_reminder｜>", True),
        ("<｜action｜>", False), ("<｜query｜>", False), ("<｜authority｜>", False),
        ("<｜domain｜>", False), ("<｜title｜>", False), ("<｜extracted_url｜>", False),
        ("<｜read_url｜>", False))
NUMBERS = r"\p{N}{1,3}"
IDEOGRAPHS = "[一-龥\u3040-ゟ゠-ヿ]+"
WORDS = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
         r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+").replace(r'\"', '"')


def pre_tokenizer(numbers):
    splits = [pre_tokenizers.Split(Regex(regex), "isolated")
              for regex in (numbers, IDEOGRAPHS, WORDS)]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*splits, byte_level])


def task_texts():
    """Every word of the tasks often enough to become a token, with and without a space before."""
    rng = random.Random(0)
    for _ in range(20000):
        thing = tasks.new_thing(rng)
        code = tasks.new_code(rng)
        yield f"{tasks.fact(thing, code)} Question: {tasks.recall_question(thing)} Answer: {code}"
        yield f"Question: {tasks.recall_question(thing)} Answer: {tasks.fact(thing, code)}"
        yield tasks.recall_question(thing)
    for _ in range(300):
        for question, answer in tasks.GREETINGS:
            yield question
            yield answer
        yield "Define"


def added(token_id, name, is_special):
    return {"id": token_id, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": is_special}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("out")
    parser.add_argument("--vocab", type=int, default=2944)
    args = parser.parse_args()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer(r"\p{N}")
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=args.vocab - len(LAST), special_tokens=list(FIRST),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    with open(args.text, encoding="ascii") as file:
        lines = file.read().splitlines()
    tokenizer.train_from_iterator([*(" " + line for line in lines), *task_texts()], trainer)
    tokenizer.pre_tokenizer = pre_tokenizer(NUMBERS)
    made = json.loads(tokenizer.to_str())
    n_before = len(made["model"]["vocab"])
    made["added_tokens"] = [added(i, name, True) for i, name in enumerate(FIRST)] + \
        [added(n_before + i, name, special) for i, (name, special) in enumerate(LAST)]
    with open(f"{args.out}/tokenizer.json", "w", encoding="utf-8") as file:
        json.dump(made, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")
    config = {"add_bos_token": False, "add_eos_token": False, "bos_token": BOS, "eos_token": EOS,
              "pad_token": EOS, "clean_up_tokenization_spaces": False, "legacy": True,
              "model_max_length": 8192, "tokenizer_class": "PreTrainedTokenizerFast"}
    with open(f"{args.out}/tokenizer_config.json", "w", encoding="utf-8") as file:
        json.dump(config, file, ensure_ascii=False, indent=2)
        file.write("\n")
    print(f"{n_before + len(LAST)} tokens, {len(made['model']['merges'])} merges")


if __name__ == "__main__":
    main()
