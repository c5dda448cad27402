#!/bin/sh
# Check what the libraries export.
#   - libdsv4.so exports exactly the names of symbols.txt (sorted, one a line);
#   - those are exactly the functions that the public headers declare with DSV4_API;
#   - every global symbol of libdsv4.a begins with dsv4_.
#
# usage: check_symbols.sh LIBDSV4_SO LIBDSV4_A SYMBOLS_TXT INCLUDE_DIR
set -eu
export LC_ALL=C
shared=$1 static=$2 symbols=$3 include_dir=$4
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT

nm -D --defined-only "$shared" | awk '{ print $NF }' | sort >"$temp/exported"
cat "$include_dir"/dsv4/*.h | tr '\n' ' ' | grep -o 'DSV4_API [^;({]*(' |
    grep -o 'dsv4_[a-z0-9_]*($' | tr -d '(' | sort >"$temp/declared"
nm -g --defined-only "$static" | awk 'NF == 3 && $3 !~ /^dsv4_/ { print $3 }' >"$temp/foreign"

status=0
if ! diff -u "$symbols" "$temp/exported"; then
    echo "$shared does not export the names of $symbols" >&2
    status=1
fi
if ! diff -u "$symbols" "$temp/declared"; then
    echo "the public headers do not declare the names of $symbols" >&2
    status=1
fi
if [ -s "$temp/foreign" ]; then
    echo "global symbols of $static without the prefix dsv4_:" >&2
    cat "$temp/foreign" >&2
    status=1
fi
exit $status
