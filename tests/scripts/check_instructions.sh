#!/bin/sh
# Check that only the files meant for a newer CPU hold instructions beyond x86-64-v2, so that one
# binary runs on every x86-64-v2 machine: no VEX or EVEX encoding (mnemonics in v, ymm, zmm and mask
# registers), no BMI, LZCNT or MOVBE.
#
# usage: check_instructions.sh "NEWER_OBJECT ..." FILE ...
#   NEWER_OBJECT  name of an object that may, and must, hold them, for instance attn_avx2.c.o
#   FILE          an object file or a static library
set -eu
newer=$1
shift

objdump -d --no-show-raw-insn "$@" | awk -v newer="$newer" '
    function beyond(mnemonic, line) {
        return mnemonic ~ /^v/ || line ~ /%[yz]mm|%k[0-7]/ ||
            mnemonic ~ /^(andn|bextr|blsi|blsr|blsmsk|bzhi|mulx|pdep|pext)[lq]?$/ ||
            mnemonic ~ /^(rorx|sarx|shlx|shrx)[lq]?$/ || mnemonic ~ /^(lzcnt|movbe)/
    }
    BEGIN { n_newer = split(newer, names, " ") }
    /file format/ {
        object = $1
        sub(/:$/, "", object)
        sub(/^.*\//, "", object)
        n_objects++
    }
    /^ *[0-9a-f]+:\t/ {
        n_instructions++
        if (!beyond($2, $0)) next
        if (index(" " newer " ", " " object " ")) { has[object] = 1; next }
        if (n_bad++ < 20) print object ": " $0
    }
    END {
        if (n_objects == 0 || n_instructions == 0) { print "nothing was disassembled"; exit 1 }
        for (i = 1; i <= n_newer; i++) if (!has[names[i]]) {
            print names[i] ": holds no instruction beyond x86-64-v2, so this check proves nothing"
            n_bad++
        }
        printf "%d objects, %d instructions, %d breaches\n", n_objects, n_instructions, n_bad
        exit n_bad > 0
    }'
