#!/bin/sh
# Compile every public header alone, in C11 and in C++17, with all warnings as errors.
#
# usage: check_headers.sh INCLUDE_DIR C_COMPILER CXX_COMPILER
set -eu
include_dir=$1
warnings="-Wall -Wextra -Werror -pedantic"
n_headers=0
for header in "$include_dir"/dsv4/*.h; do
    name=dsv4/$(basename "$header")
    for compiler in "$2 -std=c11 -x c" "$3 -std=c++17 -x c++"; do
        # Twice: the include guard must hold.
        printf '#include "%s"\n#include "%s"\n' "$name" "$name" |
            $compiler $warnings -fsyntax-only -I "$include_dir" - || {
                echo "$name does not compile alone with: $compiler $warnings" >&2
                exit 1
            }
    done
    n_headers=$((n_headers + 1))
done
echo "$n_headers headers compile alone"
