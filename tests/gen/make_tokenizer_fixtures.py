#!/usr/bin/env python3
"""Writes the fixtures of test_tokenizer: make_tokenizer_fixtures.py <repository> <folder>.

Trains a small byte-level BPE with DeepSeek-V4's pre-tokenizer and special tokens, and lets Hugging
Face's library (pip install tokenizers) say what is right:

  tokenizer.json  the trained tokenizer
  encodings.json  [[text, ids], ...], with a third element, the ids of the text without added
                  tokens, where those differ
  pieces.json     [[text, [bytes of each piece of the pre-tokenizer]], ...]
  classes.json    [[first, last, class], ...] for all code points: how the pre-tokenizer cuts
                  " " + c + "a"; class is w (not at all), p (after c), n (around c), s (before c)

The corpus is what is written here, seeded random text, and the repository's licence, documents and
headers. The output depends on those and on the version of the library.
"""
import json
import pathlib
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

N_TOKENS = 2000
REGEXES = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]
FIRST_TOKENS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
# text, normalized, special: each combination is there, and names that begin or contain others
LAST_TOKENS = [
    ("<｜fim▁hole｜>", True, False), ("<｜User｜>", False, False), ("<｜Assistant｜>", False, False),
    ("<|EOT|>", True, False), ("<think>", False, True), ("</think>", False, True),
    ("｜DSML｜", False, True), ("<｜latest_reminder｜>", False, True), ("<｜action｜>", False, False),
    ("<｜query｜>", False, False), ("<｜authority｜>", False, False), ("<｜domain｜>", False, False),
    ("<｜title｜>", False, False), ("<｜extracted_url｜>", False, False),
    ("<｜read_url｜>", False, False), ("<dsml:", True, False), ("</dsml:", True, False),
    ("<｜search｜>", True, True), ("<｜search｜>!", True, True), ("<｜search▁begin｜>", False, True),
    ("EOT|><", False, False),
]
WORDS = """
the of and to in is that it was for on are with as his they be at one have this from or had by hot
but some what there we can out other were all your when up use word how said an each she which do
their time if will way about many then them would write like so these her long make thing see him
two has look more day could go come did my sound no most number who over know water than call
first people
""".split()
SAMPLES = [
    "深度求索公司创造了一个助手。今天是星期五，天气很好！一起去吃饭吗？",
    "東京タワーへ行きました。ひらがなとカタカナ。ーー",
    "안녕하세요, 세계! 한국어 문장입니다.",
    "Привет, мир! Съешь же ещё этих мягких французских булок.",
    "Γειά σου Κόσμε· τι κάνεις;",
    "مرحبا بالعالم، كيف حالك؟ ١٢٣٤٥",
    "שלום עולם! מה שלומך?",
    "नमस्ते दुनिया! यह एक वाक्य है। १२३४५",
    "สวัสดีชาวโลก วันนี้อากาศดี ๑๒๓",
    "বাংলা ভাষা আমার মাতৃভাষা।",
    "Xin chào thế giới! Tiếng Việt có dấu.",
    "ça et là, été, naïve, Straße, žluťoučký kůň",
    "e\u0301a\u0308o\u0302\u0323 combining: q\u0307\u0323",
    "👨\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 👍🏽 🇩🇪🇫🇷 🫠🩷🫨",
    "∑∫√≠≤≥→⇒∀∃ ½¾ⅣⅫ²³ ①② ㊿",
    "​zero\u200bwidth\u2060joiner\ufeffbom",
    "\u00a0nbsp\u2003em\u3000wide\u180emvs\u2028ls\u2029ps\x85nel",
    "int main(void)\n{\n\treturn printf(\"%d\\n\", 42);\n}\n",
    "def f(x):\n    if x > 0:\n        return x ** 2\n\n\n    return None\n",
    "<div class=\"a\">text &amp; more</div>\r\n<br/>\r\n",
    "SELECT * FROM t WHERE id = 10234567 AND name LIKE '%x%';",
    "https://example.org/path?q=1&r=2#frag",
    "a.b.c,d;e:f!g?h",
    "it's we're I'll they'd don't",
    "3.14159 1,000,000 0x1F 2026-02-21 12:34:56",
    "!!!??? ... --- *** === ### ```",
    "\x00\x01\x02\x1b[0m\x7f",
    "{\"name\": \"get_weather\", \"arguments\": {\"location\": \"Beijing\"}}",
]
BLANKS = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ", "\r", "\x0b", "\x0c", "\u3000",
          "\u00a0", "\u180e", "\x85", "\u2028", "        ", "\n\n\n\n"]


def pre_tokenizer():
    splits = [pre_tokenizers.Split(Regex(r), "isolated") for r in REGEXES]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence(splits + [byte_level])


def train(corpus):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_TOKENS, show_progress=False, special_tokens=FIRST_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(corpus, trainer)
    for text, normalized, special in LAST_TOKENS:
        token = AddedToken(text, normalized=normalized, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    return tokenizer


def without_added_tokens(tokenizer):
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(data))


def random_character(rng):
    """An assigned character of any script, or, one time in ten, any scalar value."""
    while True:
        c = chr(rng.randrange(0x110000) if rng.random() < 0.1 else
                rng.choice([rng.randrange(0x300), rng.randrange(0x3000), rng.randrange(0x20000)]))
        if unicodedata.category(c) not in ("Cs", "Cn", "Co"):
            return c


def random_text(rng, special):
    kinds = {
        "word": lambda: rng.choice(["", " "]) + rng.choice(WORDS),
        "blank": lambda: rng.choice(BLANKS),
        "digits": lambda: str(rng.randrange(10 ** rng.randrange(1, 12))),
        "ascii": lambda: "".join(chr(rng.randrange(128)) for _ in range(rng.randrange(1, 6))),
        "any": lambda: "".join(random_character(rng) for _ in range(rng.randrange(1, 4))),
        "sample": lambda: cut(rng, rng.choice(SAMPLES)),
        "special": lambda: rng.choice(special), "broken": lambda: cut(rng, rng.choice(special)),
    }
    weights = [6, 3, 2, 2, 3, 4, 1, 1]
    n_parts = rng.randrange(1, 7)
    return "".join(kinds[kind]() for kind in rng.choices(list(kinds), weights, k=n_parts))


def cut(rng, text):
    begin = rng.randrange(len(text))
    return text[begin:begin + rng.randrange(1, 16)]


def random_surroundings(rng):
    """Texts on which the regexes' alternatives compete: a few characters, of any kind."""
    kinds = ["a", "Z", "9", " ", " ", "\n", "\r", "'", "-", "é", "\u0301", "中", "の", "。", "∑",
             "\u3000", "\t", "\x01", "𝟗", "🩷"]
    return "".join(rng.choice(kinds) for _ in range(rng.randrange(1, 9)))


def piece_bytes(tokenizer, text):
    """ByteLevel maps each byte to one character, so lengths are in bytes."""
    return [len(piece) for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def classes(tokenizer):
    result = []
    for code_point in range(0x110000):
        if 0xd800 <= code_point <= 0xdfff:
            continue
        n = len(chr(code_point).encode())
        pieces = piece_bytes(tokenizer, " " + chr(code_point) + "a")
        shape = {(n + 2,): "w", (n + 1, 1): "p", (1, n, 1): "n", (1, n + 1): "s"}[tuple(pieces)]
        if result and result[-1][2] == shape and result[-1][1] == code_point - 1:
            result[-1][1] = code_point
        else:
            result.append([code_point, code_point, shape])
    return result


def main():
    repository, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    rng = random.Random(4)
    files = [repository / "LICENSE"] + sorted(repository.glob("docs/*.md"))
    files += sorted(repository.glob("include/dsv4/*.h"))
    own_texts = [path.read_text() for path in files]
    special = FIRST_TOKENS + [text for text, _, _ in LAST_TOKENS]
    sentences = [" ".join(rng.choices(WORDS, k=12)) for _ in range(300)]
    tokenizer = train(own_texts + SAMPLES * 3 + sentences)
    plain = without_added_tokens(tokenizer)

    texts = [""] + BLANKS + SAMPLES + special + [a + b for a in special for b in special[-6:]]
    texts += [random_text(rng, special) for _ in range(2600)]
    texts += [random_surroundings(rng) for _ in range(2400)]
    for text in own_texts:
        begin = rng.randrange(max(1, len(text) - 1500))
        texts.append(text[begin:begin + 1500])
    texts += ["a" * 300, " " * 300 + "x", "\n" * 200, "ab" * 150, "中" * 100, "1234567890" * 20]
    cases, pieces = [], []
    for text in texts:
        ids, plain_ids = tokenizer.encode(text).ids, plain.encode(text).ids
        cases.append([text, ids] if ids == plain_ids else [text, ids, plain_ids])
        if text and len(pieces) < 4200:
            pieces.append([text, piece_bytes(tokenizer, text)])

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n")
    for name, rows in (("encodings", cases), ("pieces", pieces), ("classes", classes(tokenizer))):
        lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
        (folder / f"{name}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
