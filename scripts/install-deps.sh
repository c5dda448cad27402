#!/bin/sh
# Install the Debian packages that building (run), testing (test) or testing on an AMD GPU (hip) needs and this machine
# lacks.
#
# usage: install-deps.sh {run|test|hip}
# As root, or where sudo asks no password, missing packages are installed; otherwise the one command
# to type is printed and the exit status is 1. Without dpkg nothing is checked: configuring names
# whatever is missing.
set -eu

run="cmake ninja-build gcc libc6-dev pkg-config libjansson-dev libpcre2-dev libedit-dev"
test="$run clang-22 lld-22 llvm-22 make g++ binutils clang clang-format libclang-rt-14-dev llvm libomp-dev libcmocka-dev
    python3 python3-numpy python3-venv"
case "${1-}" in
run) packages=$run ;;
test) packages=$test ;;
hip) # ROCm's own compiler will do, if it knows gfx950
    packages="$run libcmocka-dev"
    /opt/rocm/llvm/bin/clang -target amdgcn-amd-amdhsa -mcpu=gfx950 -nogpulib -x c -c /dev/null -o /dev/null \
        2>/dev/null || packages="$packages clang-22 lld-22"
    ;;
*)
    echo "usage: install-deps.sh {run|test|hip}" >&2
    exit 2
    ;;
esac
command -v dpkg-query >/dev/null || exit 0

# shellcheck disable=SC2086  # a list of words
present=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $packages 2>/dev/null || true)
missing=
for package in $packages; do
    case "
$present
" in
    *"
$package installed
"*) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

sudo=
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "Missing packages; install them with:" >&2
        echo "  sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends$missing'" >&2
        exit 1
    fi
    sudo="sudo -n"
fi
echo "Installing:$missing"
$sudo apt-get -qq update
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing
