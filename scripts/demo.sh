#!/bin/sh
# What `make run` shows: the small model in models/nano answers. usage: demo.sh PATH_OF_DSV4
set -eu
dsv4=$1
nano=models/nano

# ask TEXT [PROMPT]: the text, what the model goes on with, and how fast.
ask() {
    printf '\n%s' "$1"
    "$dsv4" run -m $nano -p "${2:-$1}" --temp 0 -n 40
}

echo "models/nano: DeepSeek-V4 in small, every part of the architecture, 15.8 MB"
ask "What is 2+2? Answer:"
ask "What is 17+8? Answer:"
ask "Who are you? " "<｜User｜>Who are you?<｜Assistant｜></think>"

# A code, some 3,000 tokens of dictionary, the question about it: far outside the window of 128.
filler=$(head -c 11000 $nano/heldout.txt | tr '\n' ' ')
fact="The code of the red door is 4821."
question="Question: What is the code of the red door? Answer:"
printf '\n%s ... (%s more words) ... %s' "$fact" "$(echo "$filler" | wc -w)" "$question"
printf '%s %s %s' "$fact" "$filler" "$question" | "$dsv4" run -m $nano --temp 0 -n 40

printf '\nThe attention alone, against float64:\n'
"$dsv4" attn check tests/fixtures/attn/*.safetensors | tail -n 1
printf '\nAnd its speed, 64 heads, 128 + 512 keys, 8 requests, rows cold in memory (all shapes: make bench):\n'
"$dsv4" attn bench --quick --shape h64-k128+512-b8 | tail -n 2
printf "\nGo on with: %s chat -m %s, %s bench -m %s, %s help\n" "$dsv4" $nano "$dsv4" $nano "$dsv4"
