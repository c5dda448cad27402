#!/bin/sh
# Make the model fixtures again: make_model_fixtures.sh PYTHON OUT_DIR [NAME ...]
# PYTHON has what make_golden.py needs; a fixture is a folder of OUT_DIR. The tree's own were made with
# torch 2.15 and transformers 5.23 on a CPU. The shapes are the smallest that show what a name says:
# more than 256 tokens, so that two compressed-128 keys exist, and fewer chosen keys than visible ones.
set -eu
python=$1 out=$2
shift 2
here=$(dirname "$0")

# make NAME OPTION ...: logits in float32
make() {
    name=$1
    shift
    "$python" "$here/make_golden.py" "$out/$name" --tokens 300 --vocab 48 --experts 4 --index-heads 8 \
        --index-topk 16 --swiglu-limit 1 "$@"
}

# official NAME OPTION ...: and under the official numerics
official() {
    make "$@"
    "$python" "$here/official_ref.py" "$out/$1"
}

small="--hidden 32 --q-lora 32 --inter 32"
for name in ${*:-mixed pro twelve-heads top-one odd-hidden window-mtp ratio-4 ratio-128}; do
    case $name in
    mixed) make mixed --layers 0,4,128,4 $small --heads 1 --groups 1 ;;
    pro) make pro --layers 128,128,4 $small --heads 1 --groups 1 --hash-layers 2 ;;
    twelve-heads) make twelve-heads --layers 4 $small --heads 12 --groups 3 ;;
    top-one) make top-one --layers 0 $small --heads 3 --groups 1 --topk 1 --hash-layers 0 ;;
    odd-hidden)
        make odd-hidden --layers 4 --hidden 96 --q-lora 96 --inter 160 --heads 1 --groups 1 \
            --experts 5 --topk 3 --hash-layers 0
        ;;
    window-mtp) official window-mtp --layers 0 --hidden 128 --heads 1 --groups 1 --mtp ;;
    ratio-4) official ratio-4 --layers 4 --hidden 64 --heads 2 --groups 2 ;;
    ratio-128) official ratio-128 --layers 128 --hidden 64 --heads 2 --groups 2 ;;
    *) echo "$name: not a fixture" >&2 && exit 1 ;;
    esac
done
