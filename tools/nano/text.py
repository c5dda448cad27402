#!/usr/bin/env python3
"""Dictionary text of WordNet 3.0: one line "word: gloss." per set of synonyms, in a fixed order.

The files data.noun, data.verb, data.adj and data.adv come with Debian's package wordnet-base, whose
licence allows redistribution with its notice:
  apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
One set in a hundred is held out: never trained on, nor used for the tokenizer.

usage: text.py wordnet/usr/share/wordnet OUT    writes OUT/train.txt and OUT/heldout.txt
"""
import argparse
import os
import random

PARTS = ("noun", "verb", "adj", "adv")


def read_glosses(folder):
    for part in PARTS:
        with open(f"{folder}/data.{part}", encoding="ascii", errors="ignore") as file:
            for line in file:
                if line.startswith("  "):  # the licence
                    continue
                fields, gloss = line.split("|", 1)
                word = fields.split()[4].split("(")[0].replace("_", " ")
                yield f"{word}: {' '.join(gloss.split())}."


def split(lines):
    """-> training lines, held-out lines"""
    order = list(lines)
    random.Random(0).shuffle(order)
    n_held_out = len(order) // 100
    return order[n_held_out:], order[:n_held_out]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wordnet")
    parser.add_argument("out")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    train, held_out = split(read_glosses(args.wordnet))
    for name, lines in (("train", train), ("heldout", held_out)):
        with open(f"{args.out}/{name}.txt", "w", encoding="ascii") as file:
            file.write("".join(line + "\n" for line in lines))
        print(f"{name}: {len(lines)} lines, {sum(map(len, lines))} bytes")


if __name__ == "__main__":
    main()
