#!/bin/sh
# Run the examples that need a model, on a small one of random weights.
#
# usage: test_examples.sh GENERATE BATCH_FORWARD DSV4_BINARY MAKE_MODEL_BINARY FIXTURE_DIR
#   FIXTURE_DIR  holds tokenizer/tokenizer.json
set -u
generate=$1 batch_forward=$2 dsv4=$3 make_model=$4 fixtures=$5
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
n_failed=0

fail() {
    n_failed=$((n_failed + 1))
    echo "FAILED: $1" >&2
    cat "$work/out" "$work/err" >&2
}

# run EXPECTED_CODE PROGRAM ARGUMENT ...
run() {
    expected=$1
    shift
    "$@" >"$work/out" 2>"$work/err"
    code=$?
    [ $code -eq "$expected" ] || fail "$*: exit code $code, expected $expected"
}

model=$work/model
mkdir "$model"
"$make_model" "$model" 2021 300 || exit 1
cp "$fixtures/tokenizer/tokenizer.json" "$model"

# Text: the same as the program's with the same sampling, and the same each time.
prompt='The capital of France is'
run 0 "$generate" "$model" "$prompt"
[ ! -s "$work/err" ] || fail "generate writes to standard error"
[ "$(wc -c <"$work/out")" -gt 10 ] || fail "generate prints no text"
cp "$work/out" "$work/text"
run 0 "$generate" "$model" "$prompt"
cmp -s "$work/out" "$work/text" || fail "generate prints another text"
run 0 "$generate" "$model" "$prompt, isn't it?"
if cmp -s "$work/out" "$work/text"; then fail "generate ignores the prompt"; fi
run 0 "$dsv4" run -m "$model" -p "$prompt" -n 64 --temp 0.6 --top-p 0.95
# The program completes broken characters.
python3 - "$work/out" "$work/text" <<'PYTHON' || fail "dsv4 run prints another text"
import sys

mine, theirs = [open(path, "rb").read() for path in sys.argv[1:]]
assert mine.decode(errors="replace").replace("\ufffd", "") == \
    theirs.decode(errors="replace").replace("\ufffd", "")
PYTHON
run 2 "$generate" "$model"
run 1 "$generate" "$work" "$prompt"
grep -q "generate: input/output error: .*config.json" "$work/err" || fail "generate does not name the missing file"

# Sequences: the first is the third in two calls; the second shares a part of the first's past.
run 0 "$batch_forward" "$model"
cp "$work/out" "$work/batch"
for line in "sequence 0: 40 tokens, next [0-9]*" "sequence 1: 21 tokens, next [0-9]*" \
    "sequence 2: 40 tokens, next [0-9]*"; do
    grep -qx "$line" "$work/batch" || fail "no line '$line'"
done
[ "$(sed -n 's/sequence 0://p' "$work/batch")" = "$(sed -n 's/sequence 2://p' "$work/batch")" ] ||
    fail "equal sequences have different next tokens"
# The program's own answer behind the same tokens. Its logits are not compared with any.
# next_after TOKEN ...: the likeliest next token.
next_after() {
    python3 - "$work/tokens" "$@" <<'PYTHON'
import json
import struct
import sys

n_vocab, tokens = 2021, [int(token) for token in sys.argv[2:]]
split = len(tokens) * n_vocab * 4
data = b"\0" * split + struct.pack("<%di" % len(tokens), *tokens)
head = {"logits": {"dtype": "F32", "shape": [len(tokens), n_vocab], "data_offsets": [0, split]},
        "tokens": {"dtype": "I32", "shape": [len(tokens)], "data_offsets": [split, len(data)]}}
text = json.dumps(head).encode()
text += b" " * (-len(text) % 8)
open(sys.argv[1], "wb").write(struct.pack("<Q", len(text)) + text + data)
PYTHON
    "$dsv4" eval -m "$model" -g "$work/tokens" --verbose >"$work/eval" || return
    sed -n 's/^position .* largest \([0-9]*\), .*/\1/p' "$work/eval" | tail -1
}
# shellcheck disable=SC2046  # lists of tokens
for pair in "2 $(next_after 0 $(seq 3 41))" "1 $(next_after 0 $(seq 3 21) 9)"; do
    got=$(sed -n "s/sequence ${pair% *}: .*next //p" "$work/batch")
    [ "$got" = "${pair#* }" ] || fail "sequence ${pair% *}: next $got, dsv4 eval says ${pair#* }"
done
run 2 "$batch_forward"
run 1 "$batch_forward" "$work"

[ $n_failed -eq 0 ]
