#!/bin/sh
# Test the program from outside: exit codes, messages, and results that are checked back.
#
# usage: test_cli.sh DSV4_BINARY FIXTURE_DIR
#   FIXTURE_DIR  holds attn/*.safetensors, case files with their answers
set -u
dsv4=$1
fixtures=$2/attn
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
. "$(dirname "$0")/cli_checks.sh"

# Writes a changed copy of a safetensors file:
#   edit.py IN OUT [set-dtype NAME DTYPE | set-shape NAME 1,2,3 | drop NAME | rename NAME NEW |
#                   meta KEY VALUE | drop-meta KEY | f32 NAME INDEX VALUE | widen NAME BYTES |
#                   from FILE | shift]...
cat >"$work/edit.py" <<'PYTHON'
import json
import struct
import sys


def read(path):
    raw = open(path, "rb").read()
    size = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8:8 + size])
    meta = head.pop("__metadata__", {})
    data = raw[8 + size:]
    return meta, {n: [t["dtype"], t["shape"], bytearray(data[slice(*t["data_offsets"])])]
                  for n, t in head.items()}


def main(source, target, *words):
    meta, tensors = read(source)
    words, padding = list(words), 0
    while words:
        word = words.pop(0)
        if word == "set-dtype":
            name = words.pop(0)
            tensors[name][0] = words.pop(0)
        elif word == "set-shape":
            name = words.pop(0)
            tensors[name][1] = [int(n) for n in words.pop(0).split(",")]
        elif word == "drop":
            del tensors[words.pop(0)]
        elif word == "rename":
            name = words.pop(0)
            new_name = words.pop(0)
            tensors[new_name] = tensors.pop(name)
        elif word == "meta":
            key = words.pop(0)
            meta[key] = words.pop(0)
        elif word == "drop-meta":
            del meta[words.pop(0)]
        elif word == "f32":
            name, index, value = words.pop(0), int(words.pop(0)), float(words.pop(0))
            struct.pack_into("<f", tensors[name][2], 4 * index, value)
        elif word == "widen":
            name, n_bytes = words.pop(0), int(words.pop(0))
            _, (n_rows, row_bytes), data = tensors[name]
            rows = [data[i * row_bytes:(i + 1) * row_bytes] for i in range(n_rows)]
            tensors[name][1:] = [[n_rows, row_bytes + n_bytes],
                                 b"".join(row + b"\xff" * n_bytes for row in rows)]
        elif word == "from":
            tensors.update(read(words.pop(0))[1])
        elif word == "shift":
            padding = 1
        else:
            raise SystemExit("edit.py: " + word)
    head, offset = {"__metadata__": meta}, 0
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8 + padding)
    with open(target, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


main(*sys.argv[1:])
PYTHON

# edit IN OUT WORD ...: as edit.py, which must succeed.
edit() {
    python3 "$work/edit.py" "$@" || {
        echo "FAILED: edit.py $*" >&2
        exit 1
    }
}

n_fixtures=0
good=
for file in "$fixtures"/*.safetensors; do
    [ -f "$file" ] || continue
    n_fixtures=$((n_fixtures + 1))
    [ -n "$good" ] && continue
    # The first one whose answer begins with a row that is not empty and that has no second scope.
    python3 - "$work/edit.py" "$file" <<'PYTHON' && good=$file
import math
import struct
import sys

namespace = {}
source = open(sys.argv[1]).read().replace("main(*sys.argv[1:])", "")
exec(source, namespace)
_, tensors = namespace["read"](sys.argv[2])
lse, = struct.unpack_from("<f", tensors["lse"][2])
out, = struct.unpack_from("<f", tensors["out"][2])
sys.exit(not (math.isfinite(lse) and out != 0 and "extra_kv" not in tensors))
PYTHON
done
if [ -z "$good" ]; then
    echo "FAILED: no usable case in $fixtures" >&2
    exit 1
fi
q_shape=$(python3 - "$good" <<'PYTHON'
import json
import struct
import sys

with open(sys.argv[1], "rb") as file:
    head = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
print(*head["q"]["shape"])
PYTHON
)

# What the program says about itself.
run 0 --version; out "dsv4 0."; silent
run 0 --help; out "attn bench"; silent
run 0 -h; out "Usage: dsv4"
run 0 help; out "Usage: dsv4 COMMAND"
run 0 help attn; out "attn run"
run 0 help attn run; out "Usage: dsv4 attn run"; cp "$work/out" "$work/help"
run 0 attn run --help; cmp -s "$work/out" "$work/help" || fail "differs from dsv4 help attn run"
run 2 in fo; err "unknown command 'in'"
run 2 help in fo; err "unknown command 'in fo'"
run 2 inspect ""; err "dsv4 inspect: argument '' is wrong; expected DIR"; no_output
run 2 help attn fly; err "unknown command 'attn fly'"
run 0 help --man; out ".TH DSV4 1"; out ".SH EXIT STATUS"; silent
run 0 info; out "cpu level"; out "attn "; out "devices"; out "HIP: "; silent
# Nothing says more of the kernels for AMD GPUs than what was done.
label="compiled and ISA-checked for gfx950, functionally tested without hardware, never run on an MI355X"
grep -q "no code for AMD GPUs" "$work/out" || out "HIP: $label"
for text in README.md docs/hip.md docs/kernels-gfx950.md; do
    grep -q "$label" "$fixtures/../../../$text" || fail "$text does not say: $label"
done
level=$(sed -n 's/^cpu level *\([a-z0-9]*\):.*/\1/p' "$work/out")
case $level in v2 | avx2 | avx512 | avx512bf16) ;; *) fail "no known level: '$level'" ;; esac

# Wrong usage.
run 2; err "the command is missing"; err "Try 'dsv4 --help'."; no_output
run 2 fly; err "unknown command 'fly'"
run 2 attn; err "attn check, attn run or attn bench"
run 2 attn fly; err "unknown command 'attn fly'"
run 2 attn check; err "expected FILE..."
run 2 attn check --fly "$good"; err "unknown option '--fly'"; err "Try 'dsv4 attn check --help'."
run 2 attn check --isa; err "option --isa: the value is missing"
run 2 attn check --isa sse "$good"; err "option --isa: 'sse' is wrong; expected one of auto, v2"
run 2 attn check --threads 0 "$good"; err "option --threads: '0' is wrong"; err "from 1 to 1024"
run 2 attn check --isa v2 --isa v2 "$good"; err "option --isa: given twice"
run 2 attn run "$good"; err "option --output is missing"
run 2 attn bench --shape nope; err "option --shape: 'nope'"; no_output
run 2 attn bench --shape h32-k128-b1; err "option --shape: 'h32-k128-b1'"; no_output # GPUs' alone
run 2 attn check --math bf16 --isa v2 "$good"; err "--isa v2: --math bf16"
run 2 attn run --math bf16 --backend ref "$good" -o "$work/x"; err "--backend ref: --math bf16"
if [ "$level" != avx512bf16 ]; then
    run 2 attn check --isa avx512bf16 "$good"; err "--isa avx512bf16"
fi

# Good files.
run 0 attn check "$fixtures"/*.safetensors; out "$n_fixtures passed, 0 failed"; silent
run 0 attn check --backend ref "$good"; out "backend ref"; out " ok"; out "1 passed, 0 failed"
run 0 attn check --isa v2 --threads 3 "$good"; out "kernel v2, math exact"
run 0 attn check --math exact "$good"; out "math exact"
run 0 attn check --math official "$fixtures"/*.safetensors; out "math official"
out "$n_fixtures passed, 0 failed"; silent
run 0 attn check --math official --backend ref "$good"; out "kernel scalar, math official"
edit "$good" "$work/shifted" shift
run 0 attn check "$work/shifted"; out "1 passed, 0 failed"
edit "$good" "$work/wide" widen kv 37
run 0 attn check "$work/wide"; out "1 passed, 0 failed"

# Files that cannot be read.
run 3 attn check "$work/missing"; err "$work/missing"; out "0 passed, 0 failed, 1 not checked"
run 3 attn check "$work"; err "$work"
: >"$work/empty"
run 3 attn check "$work/empty"; err "$work/empty"
head -c 1000 "$good" >"$work/truncated"
run 3 attn check "$work/truncated"; err "$work/truncated"
head -c -1 "$good" >"$work/cut"
run 3 attn check "$work/cut"; err "$work/cut"
run 3 attn run "$work/missing" -o "$work/x"; err "$work/missing"
[ ! -e "$work/x" ] || fail "wrote a result"
run 3 attn check "$good" "$work/missing" "$good"; out "2 passed, 0 failed, 1 not checked"

# bad TEXT WORD ...: the good case changed by the words is refused with this text.
bad() {
    text=$1
    shift
    edit "$good" "$work/bad" "$@"
    run 3 attn check "$work/bad"
    last="$last ($*)"
    err "$work/bad: $text"
}

# shellcheck disable=SC2086
set -- $q_shape
b=$1 s_q=$2 h=$3
bad "tensor q has dtype F16; expected BF16" set-dtype q F16
bad "tensor kv has dtype I8; expected U8" set-dtype kv I8
bad "tensor indices has dtype F32; expected I32" set-dtype indices F32
bad "tensor out has dtype I32; expected F32" set-dtype out I32
bad "tensor lse has dtype I32; expected F32" set-dtype lse I32
bad "tensor q has shape [$b][$s_q][$((2 * h))][256]; expected [*][*][*][512]" \
    set-shape q "$b,$s_q,$((2 * h)),256"
bad "tensor q has shape [$((b * s_q))][$h][512]; expected [*][*][*][512]" \
    set-shape q "$((b * s_q)),$h,512"
bad "tensor lse has shape [$((b * s_q * h))]; expected [$b][$s_q][$h]" \
    set-shape lse "$((b * s_q * h))"
bad "tensor out has shape [$b][$s_q][$((2 * h))][256]; expected [$b][$s_q][$h][512]" \
    set-shape out "$b,$s_q,$((2 * h)),256"
bad "tensor q is missing" drop q
bad "tensor kv is missing" drop kv
bad "tensor indices is missing" drop indices
bad "tensor out is missing" drop out
bad "tensor lse is missing" drop lse
bad "tensor attn_sinks is no part of a case" rename lse attn_sinks
bad "extra_indices is present but tensor extra_kv is missing" rename lse extra_indices
bad "extra_block_size is present but tensor extra_kv is missing" meta extra_block_size 64
bad "tensor extra_kv has dtype F32; expected U8" rename lse extra_kv
bad "tensor attn_sink has shape [$b][$s_q][$h]; expected [$h]" rename lse attn_sink
bad "tensor topk_length has dtype F32; expected I32" rename lse topk_length
bad "metadata block_size is missing" drop-meta block_size
bad "metadata softmax_scale is missing" drop-meta softmax_scale
for value in 0 -1 1048577 64x "" 1e2; do
    bad "metadata block_size is '$value'; expected a whole number" meta block_size "$value"
done
for value in 0 -1 nan inf 1e99 1x ""; do
    bad "metadata softmax_scale is '$value'; expected a finite number" meta softmax_scale "$value"
done
bad "tensor kv has shape" meta block_size 1048576; err "expected at least [1][612368384]"

# Wrong answers.
edit "$good" "$work/wrong" f32 out 0 1000
run 1 attn check "$work/wrong"; out "FAILED; relative error above 1.95e-03"; out "0 passed, 1 failed"
edit "$good" "$work/wrong" f32 out 3 nan
run 1 attn check "$work/wrong"; out "NaN in 1 rows"
edit "$good" "$work/wrong" f32 lse 0 1000
run 1 attn check "$work/wrong"; out "FAILED; lse outside its bound in 1 rows"
edit "$good" "$work/wrong" f32 lse 0 inf
run 1 attn check "$work/wrong"; out "FAILED; lse outside its bound in 1 rows"
edit "$good" "$work/wrong" f32 lse 0 nan
run 1 attn check "$good" "$work/wrong"; out "1 passed, 1 failed"
run 3 attn check "$work/wrong" "$work/missing"; out "0 passed, 1 failed, 1 not checked"

# An answer of zeros: the cosine is a number all the same.
python3 - "$good" "$work/wrong" <<'PYTHON'
import json
import struct
import sys

raw = bytearray(open(sys.argv[1], "rb").read())
size = struct.unpack("<Q", raw[:8])[0]
begin, end = (8 + size + offset for offset in json.loads(raw[8:8 + size])["out"]["data_offsets"])
raw[begin:end] = bytes(end - begin)
open(sys.argv[2], "wb").write(raw)
PYTHON
run 1 attn check "$work/wrong"; out "cosine 0.00000000"

# A row of zeros in the answer that is not zero in ours, while the relative error stays small.
words=
i=0
while [ $i -lt 512 ]; do
    words="$words f32 out $i 0"
    i=$((i + 1))
done
# shellcheck disable=SC2086
edit "$good" "$work/wrong" $words
run 1 attn check "$work/wrong"; out "1 rows are not zero where the answer is"

# Results, checked back as the answer of the same case.
edit "$good" "$work/question" drop out drop lse
run 0 attn run "$work/question" -o "$work/answer"; out "backend cpu"; silent
edit "$work/question" "$work/case" from "$work/answer"
run 0 attn check --backend ref "$work/case"; out "1 passed, 0 failed"
cp "$work/answer" "$work/first"
run 0 attn run --threads 3 "$good" -o "$work/answer"
cmp -s "$work/answer" "$work/first" || fail "3 threads, and an answer in the case, change the result"
run 0 attn run --math official "$good" -o "$work/answer"; out "math official"
run 0 attn run --backend ref "$good" --output="$work/answer"; out "kernel scalar"
grep -qaF '"kernel":"scalar"' "$work/answer" || grep -qaF '"kernel": "scalar"' "$work/answer" ||
    fail "the result's metadata do not name the kernel"
run 0 attn run --out-dtype bf16 "$good" -o "$work/answer"
edit "$work/question" "$work/case" from "$work/answer"
run 3 attn check "$work/case"; err "tensor out has dtype BF16; expected F32"
run 0 attn run --out-dtype fp8 "$good" -o "$work/answer"
grep -qaF '"out_scales"' "$work/answer" || fail "the result has no scales"
edit "$work/question" "$work/case" from "$work/answer"
run 3 attn check "$work/case"; err "$work/case: tensor out"
run 3 attn run "$good" -o "$work/missing/x"; err "$work/missing/x"
mkfifo "$work/pipe"
run 3 attn run "$good" -o "$work/pipe"; err "$work/pipe: cannot replace: expected a regular file"
[ -p "$work/pipe" ] || fail "the pipe is gone"

# Measuring.
run 0 attn bench --quick --shape h8-k128-b1 --threads 1; out "h8-k128-b1 "; out "ceilings"; silent
run 0 attn bench --quick --math official --shape h8-k128-b1 --threads 1; out "math official"; silent
run 0 attn bench --quick --shape 'h8-k128+*-b1' --threads 2 --json; silent
python3 - "$work/out" <<'PYTHON' || fail "wrong JSON"
import json
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]
assert [line["shape"] for line in lines] == ["h8-k128+512-b1", "h8-k128+1024-b1"]
for line in lines:
    keys = line["sizes"]["n_window"] + line["sizes"]["n_extra"]
    result = line["result"]
    assert result["flop"] == 2 * 8 * keys * 1024
    assert result["bytes"] == keys * 588 + 8 * 2048
    assert result["time_s"] > 0 and result["ref_time_s"] > 0
    assert line["n_threads"] == 2 and line["ceilings"]["flop_per_s"] > 1e8
    assert line["ceilings"]["read_bytes_per_s"] > 1e7
PYTHON

run 0 bench --shape tiny --quick --context 200 --batch 1,3 --threads 2; silent
out "ceiling   reading"; out "64 of 64 experts in memory, "; out "wo_a "; out "hyper fn "
out "tiny, batch 3, context 200: 3 layers "
run 0 bench --shape tiny --quick --part linears --batch 2; out "expert w1, w3"
if grep -q "^c128 " "$work/out"; then fail "layers among the matrices"; fi
run 0 bench --shape tiny --quick --part layers --numerics exact --isa v2 --threads 1 --batch 1 \
    --context 5; out "numerics exact"; out "c128 "; silent
# Memory for fewer experts: others share it.
run 0 bench --shape tiny --quick --part layers --memory-limit 8 --context 130 --batch 1 --json; silent
cp "$work/out" "$work/layers"
run 0 bench --shape tiny --quick --layer c4 --batch 4 --context 1000 --json; silent
cat "$work/out" >>"$work/layers"
python3 - "$work/layers" <<'PYTHON' || fail "wrong JSON"
import json
import sys

lines = [json.loads(line) for line in open(sys.argv[1])]
layers = [line for line in lines if line["bench"] == "layer"]
linears = {line["linear"]: line for line in lines if line["bench"] == "linear"}
assert [line["layer"] for line in layers] == ["window-hash", "c4", "c128", "c4"]
assert len(linears) == 16 and all(line["batch"] == 4 for line in linears.values())
d, low, heads, ranks, width, key = 256, 128, 8, 256, 128, 584


def fp8(n_out, n_in):
    return n_out * n_in + -(-n_out // 128) * -(-n_in // 128)


def expert_bytes():
    return 3 * (d * width // 2 + d * width // 32)


assert linears["wo_a"]["result"]["bytes"] == fp8(ranks, heads * 512 // 2)
assert linears["expert w2"]["result"]["bytes"] == expert_bytes() / 3
assert linears["hyper fn"]["result"]["bytes"] == 24 * 4 * d * 4
attention = (fp8(low, d) + fp8(heads * 512, low) + fp8(512, d) + fp8(ranks, 2048) + fp8(d, ranks)
             + 4 * heads + 2 * (d + low + 512))
mixing = 2 * 4 * (24 * 4 * d + 27) + 4 * (4 * 4 * d + 5) + 2 * d
shared = 64 * d * 2 + 2 * fp8(width, d) + fp8(d, width) + 2 * d


def compressor(rows, dim):
    return 2 * rows * d * 2 + 4 * rows + 2 * dim


def expected(line):
    n, context, ratio = line["batch"], line["context"], {"w": 0, "c": 4}[line["layer"][0]]
    if line["layer"] == "c128":
        ratio = 128
    total = attention + mixing + shared + line["experts"]["read"] * expert_bytes()
    total += n * 2 * 4 if line["layer"].endswith("hash") else 64 * 4
    rows, visible = 128, (context + 1) // ratio if ratio else 0
    if ratio == 128:
        total, rows = total + compressor(512, 512), rows + visible
    if ratio == 4:
        total += compressor(1024, 512) + compressor(256, 128)
        if visible > 32:
            total += fp8(256, low) + 2 * d * 2 + n * visible * 68
        rows += min(visible, 32)
    return total + n * (rows * key + 2 * d)


for line in layers:
    result = line["result"]
    assert abs(result["bytes"] / expected(line) - 1) < 1e-4, (line, expected(line))
    assert result["time_s"] > 0 and result["n_samples"] >= 3
    assert 2 <= line["experts"]["read"] <= 2 * line["batch"]
    share = result["bytes"] / result["time_s"] / line["ceilings"]["read_bytes_per_s"]
    # Medians of ratios and the ratio of medians: near each other, however noisy the machine.
    assert 1 / 4 < share / result["read_fraction"] < 4, line
assert layers[0]["experts"]["held"] < 64 == layers[0]["experts"]["number"]
assert layers[3]["experts"]["held"] == 64
PYTHON
run 2 bench --shape huge; err "option --shape: 'huge' is wrong; expected one of all, flash, pro or"
run 2 bench --shape pro --layer window; err "option --layer: pro has no layers 'window'"; no_output
run 2 bench --layer c5; err "option --layer: 'c5' is wrong"; no_output
run 2 bench --shape tiny --batch 0; err "option --batch: '0' is wrong; expected 1 .. 64 whole numbers"
run 2 bench --shape tiny --batch 1,2000; err "option --batch: '1,2000' is wrong; expected numbers of"
run 2 bench --shape tiny --context x; err "option --context: 'x' is wrong"
run 2 bench --shape tiny --context 9999999; err "expected numbers of at most 1048576"
run 2 bench --shape tiny --layer c4 --quick --context 100000 --batch 8 --memory-limit 16
err "option --context: 8 sequences of 100000 tokens have caches of "; err "(--memory-limit)"
run 2 bench --shape tiny --part layers --quick --context 1048576 --batch 200; err "have caches of "
run 2 bench --shape flash --quick --memory-limit 100; err "option --memory-limit: '100' is too little"
run 2 bench --memory-limit 0; err "option --memory-limit: '0' is wrong"
run 2 bench --pp 5; err "option --pp 5: expected only with --model"; no_output
run 3 bench -m "$work/missing"; err "$work/missing"; no_output

# A full disk under standard output.
if [ -c /dev/full ]; then
    n_tests=$((n_tests + 1))
    last="dsv4 info >/dev/full"
    "$dsv4" info >/dev/full 2>"$work/err"
    code=$?
    [ $code -eq 3 ] || fail "exit code $code, expected 3"
    err "cannot write to standard output"
fi

echo "$n_tests runs, $n_failed failures"
[ "$n_failed" -eq 0 ]
