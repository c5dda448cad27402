#!/bin/sh
# Install into an empty folder and use the result in each way that is offered: pkg-config with the
# shared and with the static library, find_package with both, the program, its manual page.
#
# usage: test_install.sh BUILD_DIR SOURCE_DIR
set -eu
build=$1 source=$2
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
prefix=$temp/prefix
example=$source/examples/decode_attention.c

fail() {
    echo "test_install: $*" >&2
    exit 1
}

needs_library() {
    readelf -d "$1" | grep -q 'NEEDED.*libdsv4\.so\.0'
}

# A staged installation, then moved: nothing may remember where it was.
DESTDIR=$temp/stage cmake --install "$build" --prefix /somewhere >/dev/null
mv "$temp/stage/somewhere" "$prefix"
libdir=$(dirname "$(find "$prefix" -name libdsv4.a)")
for file in "$prefix/include/dsv4/attn.h" "$prefix/bin/dsv4" "$libdir/libdsv4.so.0" \
    "$prefix/share/man/man1/dsv4.1"; do
    [ -s "$file" ] || fail "$file is missing"
done
cd "$temp"

export PKG_CONFIG_PATH="$libdir/pkgconfig" LD_LIBRARY_PATH="$libdir"
strict="-std=c11 -Wall -Wextra -Werror"
# shellcheck disable=SC2046,SC2086  # lists of options
cc $strict "$example" -o by_shared $(pkg-config --cflags --libs dsv4)
needs_library by_shared || fail "the shared library is not linked"
for other in generate batch_forward; do
    # shellcheck disable=SC2046,SC2086
    cc $strict "$source/examples/$other.c" -o "$other" $(pkg-config --cflags --libs dsv4)
    needs_library "$other" || fail "$other does not use the shared library"
done
# The whole static library, so that a dependency that this example does not reach is noticed too.
# shellcheck disable=SC2046,SC2086
cc $strict -static "$example" -o by_static -Wl,--whole-archive "$libdir/libdsv4.a" \
    -Wl,--no-whole-archive $(pkg-config --static --cflags --libs dsv4)
if readelf -d by_static | grep -q NEEDED; then fail "by_static is not static"; fi

mkdir project
cat >project/CMakeLists.txt <<END
cmake_minimum_required(VERSION 3.25)
project(user LANGUAGES C)
set(CMAKE_C_STANDARD 11)
find_package(dsv4 $(pkg-config --modversion dsv4) REQUIRED)
add_executable(find_package_shared $example)
target_link_libraries(find_package_shared PRIVATE dsv4::shared)
add_executable(find_package_static $example)
target_link_libraries(find_package_static PRIVATE \$<LINK_LIBRARY:WHOLE_ARCHIVE,dsv4::static>)
END
cmake -S project -B project/build -G Ninja -DCMAKE_PREFIX_PATH="$prefix" >/dev/null
cmake --build project/build >/dev/null
needs_library project/build/find_package_shared || fail "dsv4::shared is not linked"
if needs_library project/build/find_package_static; then fail "dsv4::static is not linked"; fi

./by_shared >expected
[ "$(grep -c '^head [0-7]: lse [0-9.-]*, out' expected)" = 8 ] || fail "unexpected: $(cat expected)"
for program in ./by_static project/build/find_package_shared project/build/find_package_static; do
    "$program" | diff expected - || fail "$program prints something else"
done

[ "$("$prefix/bin/dsv4" --version)" = "dsv4 $(pkg-config --modversion dsv4)" ] ||
    fail "dsv4 --version and dsv4.pc differ"
cat expected
