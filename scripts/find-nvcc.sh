#!/bin/sh
# Print the path of a CUDA compiler, or nothing when there is none.
#
# usage: find-nvcc.sh [--install]
# Looks at $CUDACXX, the PATH, /usr/local/cuda and build-cuda/ of this tree. With --install a missing one is
# put into build-cuda/ from Python packages (about 100 MB, no GPU and no root needed).
set -eu
cd "$(dirname "$0")/.."
packages="nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85"

find_nvcc() {
    for candidate in "${CUDACXX-}" "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc \
        "$PWD"/build-cuda/lib/python3*/site-packages/nvidia/cu13/bin/nvcc; do
        if [ -n "$candidate" ] && [ -x "$candidate" ]; then
            echo "$candidate"
            return
        fi
    done
}

if [ "${1-}" = --install ] && [ -z "$(find_nvcc)" ]; then
    python3 -m venv build-cuda >&2
    # shellcheck disable=SC2086  # a list of words
    build-cuda/bin/pip install --quiet --no-deps $packages >&2
fi
find_nvcc
