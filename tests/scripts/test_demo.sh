#!/bin/sh
# What `make run` prints: the answers are the right ones. usage: test_demo.sh ROOT PATH_OF_DSV4
set -eu
cd "$1"
out=$(scripts/demo.sh "$2" 2>&1)
for expected in "What is 2+2? Answer: 4" "What is 17+8? Answer: 25" "Who are you? I am nano" \
    "code of the red door? Answer: 4821" "20 passed, 0 failed" "tokens/s"; do
    case $out in
    *"$expected"*) ;;
    *)
        echo "the demonstration lacks '$expected':"
        echo "$out"
        exit 1
        ;;
    esac
done
