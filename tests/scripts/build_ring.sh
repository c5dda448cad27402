#!/bin/sh
# Configure and build one preset in a folder of its own.
#
# usage: build_ring.sh SOURCE_DIR PRESET BUILD_DIR [TARGET]
set -eu
cd "$1"
cmake --preset "$2" -B "$3"
cmake --build "$3" --target "${4-all}"
