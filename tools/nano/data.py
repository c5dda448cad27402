#!/usr/bin/env python3
"""Training rows: facts, questions, sums, chats and dictionary text, interleaved.

usage: data.py TRAIN_TEXT TOKENIZER_JSON OUT.npz   dictionary text as tokens, for Rows
"""
import functools
import math
import random
import sys

import numpy as np
from tokenizers import Tokenizer

import tasks

# Kinds of token: no answer; an answer; a digit from FAR_TOKENS or more back; text that is read but
# not learned, so that the same text can be filler many times without being learned by heart.
TEXT, NEAR, FAR, UNLEARNED = 0, 1, 2, 3
FAR_TOKENS = 136
UNLEARNED_SHARE = .6


def pack_text(text_path, tokenizer_path, out_path):
    """Every line as it follows other text, with a space before, and where it begins."""
    tokenizer = Tokenizer.from_file(tokenizer_path)
    with open(text_path, encoding="ascii") as file:
        lines = file.read().splitlines()
    encoded = tokenizer.encode_batch([" " + line for line in lines], add_special_tokens=False)
    lengths = [len(e.ids) for e in encoded]
    words = [line.split(":", 1) for line in lines]
    defined = [(word, gloss.split(";")[0].strip(" .")) for word, gloss in words
               if word.isalpha() and len(gloss) < 120]
    np.savez_compressed(out_path, ids=np.concatenate([np.array(e.ids, np.uint16) for e in encoded]),
                        starts=np.concatenate([[0], np.cumsum(lengths)]),
                        words=np.array([w for w, _ in defined]),
                        glosses=np.array([g for _, g in defined]))
    print(f"{len(lines)} lines, {sum(lengths)} tokens, {len(defined)} definitions")


class Corpus:
    def __init__(self, packed_path, tokenizer_path):
        self.tokenizer = Tokenizer.from_file(tokenizer_path)
        packed = np.load(packed_path)
        self.ids, self.starts = packed["ids"], packed["starts"]
        self.words, self.glosses = packed["words"], packed["glosses"]
        self.encode = functools.lru_cache(200_000)(self._encode)

    def _encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def id_of(self, token):
        return self.tokenizer.token_to_id(token)

    def text(self, rng, n_tokens):
        """About n_tokens of dictionary lines; the last is whole."""
        first = rng.randrange(len(self.starts) - 1)
        last = first
        while last < len(self.starts) - 2 and self.starts[last + 1] - self.starts[first] < n_tokens:
            last += 1
        return self.ids[self.starts[first]:self.starts[last + 1]].tolist()


class Row:
    """One row of `length` tokens, drawn from `seed`. text_share raises the share of long text."""

    def __init__(self, corpus, seed, length, text_share):
        self.corpus, self.rng, self.length = corpus, random.Random(seed), length
        self.ids, self.kinds = [], []
        self.known = {}  # thing -> [code, position behind its last mention]
        self.eos = corpus.id_of("<｜end▁of▁sentence｜>")
        self.bos = corpus.id_of("<｜begin▁of▁sentence｜>")
        self.user, self.assistant = corpus.id_of("<｜User｜>"), corpus.id_of("<｜Assistant｜>")
        self.think, self.end_think = corpus.id_of("<think>"), corpus.id_of("</think>")
        self.fill(text_share)

    def fill(self, text_share):
        rng = self.rng
        n_facts = round(math.exp(rng.uniform(0, math.log(40))))
        if rng.random() < .95:
            self.put([self.bos])
        while len(self.ids) < self.length:
            kind = rng.random()
            if kind < text_share:
                self.put_text(round(math.exp(rng.uniform(math.log(20), math.log(1500)))))
            elif kind < text_share + .15:
                self.put_chat()
            elif kind < text_share + .25:
                for _ in range(rng.randint(1, 3)):
                    self.put_sum()
            elif len(self.known) < n_facts and (not self.known or rng.random() < .45):
                for _ in range(rng.randint(1, 3)):
                    self.put_fact()
            elif self.known:
                for _ in range(rng.randint(1, 3)):
                    self.put_question()
                if rng.random() < .3:
                    self.put_text(rng.randint(10, 60))

    def put(self, ids, kind=TEXT):
        self.ids += ids
        self.kinds += [kind] * len(ids)

    def put_words(self, text, kind=TEXT):
        """Text after a space, or none at the beginning and behind an answer."""
        is_first = not self.ids or self.ids[-1] in (self.bos, self.eos)
        self.put(self.corpus.encode(text if is_first else " " + text), kind)

    def put_text(self, n_tokens):
        kind = UNLEARNED if self.rng.random() < UNLEARNED_SHARE else TEXT
        self.put(self.corpus.text(self.rng, n_tokens), kind)

    def new_thing(self):
        for _ in range(20):
            thing = tasks.new_thing(self.rng)
            if thing not in self.known:
                return thing
        return None

    def put_code(self, code, position, before):
        """The digits, far when what they repeat ended at `position`; -1: said right here."""
        is_far = position >= 0 and len(self.ids) - position >= FAR_TOKENS
        self.put(self.corpus.encode(before) if before else [], NEAR)
        for digit in code:
            self.put(self.corpus.encode(digit), FAR if is_far else NEAR)

    def put_fact(self):
        thing = self.new_thing()
        if thing is not None:
            code = tasks.new_code(self.rng)
            self.put_words(tasks.fact(thing, code).split(code)[0].rstrip())
            self.put(self.corpus.encode(" "))
            self.put(self.corpus.encode(code))
            self.put(self.corpus.encode("."))
            self.known[thing] = [code, len(self.ids)]

    def pick_known(self):
        """Rather one that was not mentioned for long."""
        things = [self.rng.choice(list(self.known)) for _ in range(2)]
        return min(things, key=lambda thing: self.known[thing][1])

    def put_question(self):
        thing = self.pick_known()
        code, position = self.known[thing]
        self.put_words(f"Question: {tasks.recall_question(thing)} Answer:")
        self.put_code(code, position, " ")
        self.known[thing][1] = len(self.ids)
        self.put([self.eos], NEAR)

    def put_sum(self):
        a, b = (self.rng.randrange(tasks.N_OPERANDS) for _ in range(2))
        prefix = "Question: " if self.rng.random() < .3 else ""
        self.put_words(f"{prefix}{tasks.sum_question(a, b)} Answer:")
        self.put(self.corpus.encode(" ") + self.corpus.encode(str(a + b)) + [self.eos], NEAR)

    # Chats, as the official encoder writes them.

    def put_chat(self):
        if self.rng.random() < .85:
            self.put([self.bos])
        for _ in range(self.rng.randint(1, 4)):
            self.put([self.user])
            turn = self.rng.random()
            if turn < .35:
                self.chat_sum()
            elif turn < .75:
                self.chat_recall()
            elif turn < .9:
                question, answer = self.rng.choice(tasks.GREETINGS)
                self.put(self.corpus.encode(question))
                self.answer(None, answer)
            else:
                i = self.rng.randrange(len(self.corpus.words))
                self.put(self.corpus._encode(f"Define {self.corpus.words[i]}"))
                self.answer(None, f"{self.corpus.glosses[i]}.")

    def answer(self, reasoning, text):
        """An answer that is no code; `reasoning` None: the question needs none."""
        self.put([self.assistant])
        if self.rng.random() < .25:
            self.put([self.think])
            if reasoning:
                self.put(self.corpus._encode(reasoning), NEAR)
        kind = NEAR if reasoning else TEXT
        self.put([self.end_think])
        self.put(self.corpus._encode(text), kind)
        self.put([self.eos], kind)

    def chat_sum(self):
        a, b = (self.rng.randrange(tasks.N_OPERANDS) for _ in range(2))
        self.put(self.corpus.encode(tasks.sum_question(a, b)))
        self.answer(f"{a}+{b}={a + b}", str(a + b))

    def chat_recall(self):
        rng, is_first = self.rng, True
        if not self.known or rng.random() < .5:
            thing = self.new_thing()
            if thing is not None:
                code = tasks.new_code(rng)
                self.put(self.corpus._encode(tasks.fact(thing, code)))
                self.known[thing] = [code, len(self.ids)]
                is_first = False
                if rng.random() < .4:
                    self.put([self.assistant, self.end_think])
                    self.put(self.corpus.encode("I will remember it.") + [self.eos], NEAR)
                    return
                if rng.random() < .6:
                    self.put_text(round(math.exp(rng.uniform(math.log(10), math.log(1200)))))
        if not self.known:
            self.put(self.corpus.encode("Hello"))
            self.answer(None, tasks.GREETINGS[0][1])
            return
        thing = self.pick_known()
        code, position = self.known[thing]
        question = tasks.recall_question(thing)
        self.put(self.corpus.encode(question if is_first else " " + question))
        self.put([self.assistant])
        if rng.random() < .25:
            self.put([self.think])
            self.put(self.corpus.encode(tasks.fact(thing, "")[:-2]))
            self.put_code(code, position, " ")
            self.put(self.corpus.encode("."), NEAR)
            position = -1
        self.put([self.end_think])
        self.put_code(code, position, "")
        self.known[thing][1] = len(self.ids)
        self.put([self.eos], NEAR)


_corpus = None


def open_corpus(packed_path, tokenizer_path):
    """In a worker process, before its first batch."""
    global _corpus
    _corpus = Corpus(packed_path, tokenizer_path)


def batch(seed, n_rows, length, text_share):
    """-> ids [n_rows, length], kinds [n_rows, length]"""
    rows = [Row(_corpus, seed * 1_000_003 + i, length, text_share) for i in range(n_rows)]
    return (np.array([row.ids[:length] for row in rows], np.int64),
            np.array([row.kinds[:length] for row in rows], np.uint8))


if __name__ == "__main__":
    pack_text(*sys.argv[1:4])
