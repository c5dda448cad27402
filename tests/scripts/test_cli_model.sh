#!/bin/sh
# Test the commands that need a model, on a small one of random weights.
#
# usage: test_cli_model.sh DSV4_BINARY MAKE_MODEL_BINARY FIXTURE_DIR [SLOW_OPEN_LIBRARY]
#   FIXTURE_DIR  holds tokenizer/tokenizer.json
#   SLOW_OPEN_LIBRARY  preloaded, makes opening a model take time
set -u
dsv4=$1
make_model=$2
fixtures=$3
slow_open=${4-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
. "$(dirname "$0")/cli_checks.sh"
# same_as FILE: the last run printed what this file holds.
same_as() { cmp -s "$work/out" "$1" || fail "standard output differs from $1"; }
# differs_from FILE: the last run printed something else.
differs_from() { ! cmp -s "$work/out" "$1" || fail "standard output is the same as $1"; }
keep() { cp "$work/out" "$work/$1"; }

model=$work/model
mkdir "$model" "$work/empty" "$work/v3" "$work/text"
"$make_model" "$model" 2021 300 || exit 1
golden=$model/golden.safetensors
cp -r "$model" "$work/mute"
cp "$fixtures/tokenizer/tokenizer.json" "$model"
cp "$fixtures/tokenizer/tokenizer.json" "$work/text"
sed 's/deepseek_v4/deepseek_v3/' "$model/config.json" >"$work/v3/config.json"

# Wrong usage.
run 2 run; err "option --model is missing"; no_output
run 2 run -m "$model" -p x --temp -1; err "option --temp: '-1' is wrong; expected a number from 0 to 100"
run 2 run -m "$model" -p x --top-p 1.5; err "a number from 0 to 1"
run 2 run -m "$model" -p x --seed 1.5; err "a whole number"
run 2 run -m "$model" -p x --ids; err "unknown option '--ids'"
run 2 inspect; err "expected DIR"
run 2 eval -m "$model"; err "expected --golden FILE, or --task"
for chunk in 0 x 1, ,1 1,,2 -3 1000000000; do
    run 2 eval -m "$model" -g "$golden" --chunk "$chunk"; err "option --chunk: '$chunk' is wrong"
done
run 0 help eval; out "--min-cosine X"

# Directories that are none.
for command in run chat "eval -g $golden"; do
    # shellcheck disable=SC2086  # a list of words
    run 3 $command -m "$work/missing"; err "$work/missing"
    # shellcheck disable=SC2086
    run 3 $command -m "$work/v3"; err "deepseek_v3"
done
run 3 inspect "$work/empty"; err "config.json"; no_output
run 3 inspect "$work/v3"; err "deepseek_v3"; no_output
run 3 tokenize -m "$work/mute" -p x; err "has no tokenizer.json"
run 3 run -m "$work/mute" -p x; err "has no tokenizer.json"
printf 'hello\n' >"$work/in"
run 3 chat -m "$work/mute"; err "has no tokenizer.json"

# Tokens.
run 0 tokenize -m "$work/text" -p 'a<think>"'; silent
out "	\"a\""; out "2004	\"<think>\""; out "	\"\\\"\""
[ "$(wc -l <"$work/out")" -eq 3 ] || fail "expected 3 lines"
run 0 tokenize -m "$work/text" --ids -p 'a<think>"'
python3 - "$work/out" <<'PYTHON' || fail "expected three ids on one line"
import sys
ids = open(sys.argv[1]).read()
assert ids.endswith("\n") and len(ids.split()) == 3 and ids.split()[1] == "2004"
PYTHON
keep ids
printf 'a<think>"' >"$work/in"
run 0 tokenize -m "$work/text" --ids; same_as "$work/ids"
: >"$work/in"
run 0 tokenize -m "$work/text"; no_output
printf '\377\303' >"$work/in"
run 0 tokenize -m "$work/text"; out '"\xff"'; out '"\xc3"'

# Continuing a text.
run 0 run -m "$model" -p 'Hello' -n 20 --temp 0; keep greedy
err "prompt "; err "; generation "
run 0 run -m "$model" -p 'Hello' -n 3 --temp 0; err "; generation 3 tokens, "
run 0 run -m "$model" -p 'Hello' -n 20 --temp 0 --threads 1; same_as "$work/greedy"
run 0 run -m "$model" -p 'Hello' -n 20 --top-k 1 --seed 9; same_as "$work/greedy"
run 0 run -m "$model" -p 'Hello' -n 20 --temp 0 --draft; same_as "$work/greedy"; err "; drafts "
run 0 run -m "$model" -p 'Hello' -n 20 --temp 0 --numerics exact; differs_from "$work/greedy"
printf 'Hello' >"$work/in"
run 0 run -m "$model" -n 20 --temp 0; same_as "$work/greedy"
run 0 run -m "$model" -p '<｜begin▁of▁sentence｜>Hello' -n 20 --temp 0; same_as "$work/greedy"
run 0 run -m "$model" -p 'Hello' -n 20 --seed 1; keep seeded; differs_from "$work/greedy"
run 0 run -m "$model" -p 'Hello' -n 20 --seed 1; same_as "$work/seeded"
run 0 run -m "$model" -p 'Hello' -n 20 --seed 2; differs_from "$work/seeded"
run 0 run -m "$model" -p 'Hello' -n 0; err "generation 0 tokens"
run 0 run -m "$model" -p 'Hello' --context 16 --temp 0; err "generation"
run 2 run -m "$model" -p 'Hello' -n 20 --context 16; err "--tokens do not fit"
run 2 run -m "$model" -p 'Hello there, how are you?' --context 2; err "expected at most 2"

# A talk.
printf 'hi\n/think\nhello\n/reset\n\n/fly\nhi\n/quit\nnever\n' >"$work/in"
run 0 chat -m "$model" -n 12 --temp 0
err "Reasoning is on."; err "The talk is forgotten."; err "Unknown command '/fly'"
printf 'hi\n' >"$work/in"
run 0 chat -m "$model" -n 12 --temp 0; silent; keep first
[ -s "$work/first" ] || fail "no answer"
printf 'hi\n/reset\nhi\n' >"$work/in"
run 0 chat -m "$model" -n 12 --temp 0
cat "$work/first" "$work/first" >"$work/twice"
same_as "$work/twice"
printf 'hi\nhi\n' >"$work/in"
run 0 chat -m "$model" -n 12 --temp 0; differs_from "$work/twice"
printf 'hi\n' >"$work/in"
run 0 chat -m "$model" -n 12 --temp 0 --thinking; differs_from "$work/first"
run 1 chat -m "$model" --context 3; err "the talk has become too long"
# A reset talk and one that never was answer alike, and so does a talk that is computed again.
printf 'one\ntwo\nthree\n' >"$work/in"
run 0 chat -m "$model" -n 90 --temp 0 --thinking; silent
printf '\377 broken \303\n' >"$work/in"
run 0 chat -m "$model" -n 3; silent
# A NUL byte does not end a message: it counts as any other byte that is no UTF-8.
printf 'a\377b\n' >"$work/in"
run 0 chat -m "$model" -n 12 --temp 0; keep broken
printf 'a\0b\n' >"$work/in"
run 0 chat -m "$model" -n 12 --temp 0; same_as "$work/broken"
printf 'a\n' >"$work/in"
run 0 chat -m "$model" -n 12 --temp 0; differs_from "$work/broken"
# Nothing for terminals goes elsewhere.
printf 'hi\n' >"$work/in"
run 0 chat -m "$model" -n 40 --thinking --temp 0
if grep -qF "$(printf '\033[')" "$work/out"; then fail "escape sequences in a file"; fi

# A standard input that cannot be read: a directory.
for command in run chat tokenize; do
    n_tests=$((n_tests + 1))
    last="dsv4 $command </"
    "$dsv4" $command -m "$model" </ >"$work/out" 2>"$work/err"
    code=$?
    [ $code -eq 3 ] || fail "exit code $code, expected 3"
    err "cannot read standard input: Is a directory"
done

# What a checkpoint is made of.
run 0 inspect "$model"; silent
out "layers       4: 2 window, 1 compressed 4, 1 compressed 128; 1 MTP block"
out "routed experts "; out "MTP block "
python3 - "$work/out" "$model" <<'PYTHON' || fail "wrong sums"
import json
import struct
import sys

lines = [line.split() for line in open(sys.argv[1])]
with open(sys.argv[2] + "/model.safetensors", "rb") as file:
    head = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
sizes = [t["data_offsets"][1] - t["data_offsets"][0] for n, t in head.items() if n != "__metadata__"]
rows = {line[0]: line[1:] for line in lines if line}
assert rows["all"][0] == str(len(sizes)) and rows["all"][2] == str(sum(sizes))
parameters = 0
for name, tensor in head.items():
    count = 1
    for size in tensor.get("shape", []):
        count *= size
    if tensor.get("dtype") in ("BF16", "F32", "F8_E4M3"):
        parameters += count
    if tensor.get("dtype") == "I8":
        parameters += 2 * count
assert rows["all"][1] == str(parameters)
start = [line[:2] for line in lines].index(["tensors", "number"])
end = [line[:1] for line in lines].index(["all"])
for column in (-3, -2, -1):
    assert sum(int(line[column]) for line in lines[start + 1:end]) == int(lines[end][column])
# 5 windows of 128 keys; raw rows: 8 of 2 * 2 * (512 + 128) values, 128 of 2 * 512
raw = 4 * (8 * 4 * (512 + 128) + 128 * 2 * 512)
assert rows["official"] == [str(5 * 128 * 584 + raw), "%.2f" % ((584 + 68) / 4 + 584 / 128)]
assert rows["exact"] == [str(5 * 128 * 2048 + raw), "%.2f" % (2560 / 4 + 2048 / 128)]
PYTHON

# Comparing logits: in any chunks the same bits.
exact="--numerics exact"
for chunk in 256 1,7,64 3; do
    # shellcheck disable=SC2086
    run 0 eval -m "$model" -g "$golden" $exact --chunk "$chunk" --max-abs 0 --min-agree 1
    out "300 positions"; out "max abs      0.000e+00"; silent
    # shellcheck disable=SC2086
    run 0 eval -m "$model" -g "$golden" $exact --chunk "$chunk" --max-abs 0 --mtp
    out "(MTP block): 299 positions"
done
# shellcheck disable=SC2086
run 0 eval -m "$model" -g "$golden" $exact --verbose
[ "$(grep -c '^position [0-9]*: max abs 0' "$work/out")" -eq 300 ] || fail "expected 300 positions"
run 0 eval -m "$model" -g "$golden" --isa v2 --threads 1; out "arg-max"
run 1 eval -m "$model" -g "$golden" --max-abs 1e-6; out "FAILED: "; out "breaks --max-abs 1e-06"
run 1 eval -m "$model" -g "$golden" --min-cosine 0.999999; out "breaks --min-cosine 0.999999"
run 1 eval -m "$model" -g "$golden" --min-agree 1; out "breaks --min-agree 1"
run 0 eval -m "$model" -g "$golden" --min-cosine 0.5 --min-agree 0.1 --max-abs 1000

# change NAME ...: a changed copy of the golden file at $work/changed.
change() {
    python3 - "$golden" "$work/changed" "$@" <<'PYTHON'
import json
import struct
import sys

source, target, action, name = sys.argv[1:5]
raw = bytearray(open(source, "rb").read())
size = struct.unpack("<Q", raw[:8])[0]
head, data = json.loads(raw[8:8 + size]), raw[8 + size:]
begin = head[name]["data_offsets"][0] if name in head else 0
if action == "drop":
    head["unused"] = head.pop(name)
elif action == "dtype":
    head[name]["dtype"] = sys.argv[5]
elif action == "shape":
    head[name]["shape"] = [int(n) for n in sys.argv[5].split(",")]
elif action == "value":
    struct.pack_into("<f", data, begin + 4 * int(sys.argv[5]), float(sys.argv[6]))
elif action == "id":
    struct.pack_into("<i", data, begin + 4 * int(sys.argv[6]), int(sys.argv[5]))
elif action == "fill":
    count = head[name]["data_offsets"][1] - begin >> 2
    data[begin:begin + 4 * count] = struct.pack("<f", float(sys.argv[5])) * count
elif action == "tokens":  # the last tensor of the file
    begin, length = head["tokens"]["data_offsets"][0], 4 * int(name)
    head["tokens"].update(shape=[int(name)], data_offsets=[begin, begin + length])
    data[begin:] = bytes(length)
text = json.dumps(head).encode()
text += b" " * (-len(text) % 8)
open(target, "wb").write(struct.pack("<Q", len(text)) + text + data)
PYTHON
}

# refused TEXT ACTION NAME ...: the changed file is refused with this text.
refused() {
    text=$1
    shift
    change "$@"
    run 3 eval -m "$model" -g "$work/changed"
    last="$last ($*)"
    err "$text"
}
run 3 eval -m "$model" -g "$work/missing"; err "$work/missing"
refused "tensor tokens is missing" drop tokens
refused "tensor logits is missing" drop logits
refused "tensor tokens is F32 of rank 1, first size 300; expected I32 [T]" dtype tokens F32
refused "tensor logits is I32 of rank 2, first size 300; expected F32 [300][2021]" dtype logits I32
refused "expected F32 [300][2021]" shape logits 2021,300
refused "$work/changed: tensor tokens[0]: id 2021, expected 0 .. 2020" id tokens 2021 0
refused "$work/changed: tensor tokens[299]: id -1, expected 0 .. 2020" id tokens -1 299
no_output
refused "tensor tokens holds 4097 tokens; expected at most 4096 (max_position_embeddings)" tokens 4097
change drop mtp_logits
run 3 eval -m "$model" -g "$work/changed" --mtp; err "tensor mtp_logits is missing"
for value in nan inf -inf; do
    change value logits 5000 $value
    # shellcheck disable=SC2086
    run 1 eval -m "$model" -g "$work/changed" $exact; out "FAILED: NaN or infinity at 1 positions"
done
# Zeros are unlike any logits, however small.
change fill logits 0
# shellcheck disable=SC2086
run 0 eval -m "$model" -g "$work/changed" $exact; out "cosine       mean 0.0000000, smallest 0.0000000"
# shellcheck disable=SC2086
run 1 eval -m "$model" -g "$work/changed" $exact --min-cosine 0.1; out "FAILED: 0 breaks --min-cosine"

# Measuring.
run 0 bench -m "$model" --pp 5 --tg 2 --depth 0,40 --reps 2 --threads 1; silent
python3 - "$work/out" "$model" <<'PYTHON' || fail "wrong table"
import os
import re
import sys

lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in open(sys.argv[1])]
assert lines[0] == ["model", "size", "params", "backend", "threads", "test", "t/s"]
assert len({len(line) for line in open(sys.argv[1]).read().splitlines()}) == 1
assert [line[5] for line in lines[2:]] == ["pp5", "tg2", "pp5 @ d40", "tg2 @ d40"]
mib = os.path.getsize(os.path.join(sys.argv[2], "model.safetensors")) / 2**20
for line in lines[2:]:
    assert line[0] == "model" and abs(float(line[1].split()[0]) - mib) < 0.1 and line[4] == "1"
    assert line[1].endswith(" MiB") and line[2].endswith(" M") and line[3].startswith("cpu ")
    rate = re.fullmatch(r"([0-9.]+) ± ([0-9.]+)", line[6])
    assert rate and float(rate.group(1)) > 0
PYTHON
run 0 bench -m "$model/" -p 4 -n 0 -r 3 --numerics exact --isa v2 --json; silent
python3 - "$work/out" <<'PYTHON' || fail "wrong JSON"
import json
import statistics
import sys

line, = [json.loads(line) for line in open(sys.argv[1])]
assert line["bench"] == "model" and line["test"] == "pp4" and line["n_tokens"] == 4
assert line["numerics"] == "exact" and line["cpu_level"] == "v2" and line["model"] == "model"
assert len(line["rates_per_s"]) == 3 and line["depth"] == 0
assert abs(statistics.mean(line["rates_per_s"]) / line["mean_per_s"] - 1) < 1e-4
assert abs(statistics.stdev(line["rates_per_s"]) - line["deviation_per_s"]) < 1e-2 * line["mean_per_s"]
PYTHON
# Names of directories that are long, or no UTF-8.
long=$(python3 -c 'print("x" + 100 * "é")')
for name in "$long" "$(printf 'a\377b')"; do
    mkdir "$work/$name.d"
    cp "$model"/* "$work/$name.d"
    run 0 bench -m "$work/$name.d" --pp 1 --tg 0 --reps 1 --json; silent
    keep json
    run 0 bench -m "$work/$name.d" --pp 1 --tg 0 --reps 1; out "| $name.d "
    python3 - "$work/json" "$name.d" <<'PYTHON' || fail "wrong name"
import json
import os
import sys

name = os.fsencode(sys.argv[2]).decode(errors="replace")
assert json.load(open(sys.argv[1]))["model"] == name
PYTHON
done
run 2 bench -m "$model" --depth 999999999; err "option --depth: 999999999 tokens"; no_output
run 2 bench -m "$model" --depth 5000; err "option --depth: 5000 tokens"; no_output
run 2 bench -m "$model" --depth 1,x; err "option --depth: '1,x' is wrong; expected 1 .. 64 whole"
run 2 bench -m "$model" --pp 0 --tg 0; err "option --pp 0 with --tg 0"
run 2 bench -m "$model" --reps 0; err "option --reps: '0' is wrong"
run 2 bench -m "$model" --batch 2; err "option --batch 2: expected only without --model"
run 3 bench -m "$work/v3"; err "deepseek_v3"; no_output

# A bar while a model opens: on a terminal, and when that takes time.
# on_terminal PRELOADED ARGUMENT ...: what the program writes to its terminal goes to $work/out.
on_terminal() {
    n_tests=$((n_tests + 1))
    last="on a terminal: $*"
    : >"$work/err"
    python3 - "$dsv4" "$@" >"$work/out" <<'PYTHON' || fail "exit code is not 0"
import os
import pty
import sys

program, preloaded, *arguments = sys.argv[1:]
child, terminal = pty.fork()
if child == 0:
    if preloaded:
        os.environ["LD_PRELOAD"] = preloaded
    os.execv(program, [program] + arguments)
while True:
    try:
        seen = os.read(terminal, 4096)
    except OSError:
        seen = b""
    if not seen:
        break
    sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
PYTHON
}
not_out() { ! grep -qaF -e "$1" "$work/out" || fail "output holds '$1'"; }
if python3 -c 'import pty; pty.openpty()' 2>"$work/err"; then
    on_terminal "" run -m "$model" -p Hello -n 2; not_out "opening"; out "generation 2 tokens"
    wipe=$(printf '\r\033[K')
    if [ -n "$slow_open" ]; then
        for command in "run -p Hello -n 2" "eval -g $golden" "bench --pp 2 --tg 0 --reps 1"; do
            # shellcheck disable=SC2086  # a list of words
            on_terminal "$slow_open" $command -m "$model"
            out "${wipe}opening [##############################] 1/1 files$wipe"
        done
        on_terminal "$slow_open" inspect "$model"; out "1/1 files$wipe"
        last="dsv4 inspect, slowly, into a file"
        LD_PRELOAD=$slow_open "$dsv4" inspect "$model" >"$work/out" 2>"$work/err" || fail "exit code"
        silent; not_out "opening"; out "architecture"
    fi
else
    echo "not tested: the bar on a terminal: $(tail -n 1 "$work/err")"
fi

# A full disk under standard output.
if [ -c /dev/full ]; then
    n_tests=$((n_tests + 1))
    last="dsv4 run >/dev/full"
    "$dsv4" run -m "$model" -p Hello -n 20 >/dev/full 2>"$work/err"
    code=$?
    [ $code -eq 3 ] || fail "exit code $code, expected 3"
    err "cannot write to standard output"
    # A talk ends with the first answer that is lost.
    last="dsv4 chat >/dev/full"
    yes hi | head -n 1000 | "$dsv4" chat -m "$model" -n 20 --context 200 >/dev/full 2>"$work/err"
    code=$?
    [ $code -eq 3 ] || fail "exit code $code, expected 3"
    err "cannot write to standard output"
fi

echo "$n_tests runs, $n_failed failures"
[ "$n_failed" -eq 0 ]
