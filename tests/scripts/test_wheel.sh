#!/bin/sh
# The Python wheel: build it, look at its name and contents, install it into an environment that has nothing else,
# import it, generate with the small model, find the plugin's entry point.
#
# usage: test_wheel.sh SOURCE_DIR WORK_DIR PYTHON
# Exit status 77: skipped, because the build tool cannot be had (no package index can be reached). The library is
# built for speed of building, without kernels for GPUs; its own tests are elsewhere.
set -eu
source=$1 work=$2 python=$3
mkdir -p "$work"
[ -x "$work/venv/bin/pip" ] || "$python" -m venv "$work/venv"
pip="$work/venv/bin/pip --disable-pip-version-check --quiet"
tool=$(sed -n 's/^requires = \["\(.*\)"\]$/\1/p' "$source/pyproject.toml")
[ -n "$tool" ] || { echo "no build tool in pyproject.toml" >&2; exit 1; }
if ! $pip install --retries 1 --timeout 10 "$tool" 2>"$work/pip.log"; then
    echo "skipped: pip cannot install $tool: $(tail -n 1 "$work/pip.log")"
    exit 77
fi
rm -rf "$work/wheel"
PATH="$work/venv/bin:$PATH" $pip wheel "$source" --no-deps --no-build-isolation -w "$work/wheel" \
    --config-settings build-dir="$work/build" --config-settings cmake.define.DSV4_CUDA=OFF \
    --config-settings cmake.define.DSV4_HIP=OFF --config-settings cmake.define.CMAKE_C_FLAGS_RELEASE=-O1
wheel=$(ls "$work/wheel")
version=$(sed -n 's/^project(dsv4 VERSION \([0-9.]*\).*/\1/p' "$source/CMakeLists.txt")
[ "$wheel" = "dsv4-$version-py3-none-linux_x86_64.whl" ] || { echo "named $wheel" >&2; exit 1; }

"$python" -m venv --clear "$work/installed"
"$work/installed/bin/pip" --disable-pip-version-check --quiet install --no-index "$work/wheel/$wheel"
cd "$work" # not the sources
env -u PYTHONPATH -u DSV4_LIBRARY "$work/installed/bin/python" - "$source" "$version" "$work/wheel/$wheel" <<'PYTHON'
import importlib.metadata
import os
import sys
import zipfile

import dsv4

source, version, wheel = sys.argv[1:]
assert "torch" not in sys.modules and "numpy" not in sys.modules
assert dsv4.__version__ == version == importlib.metadata.version("dsv4"), dsv4.__version__
modules = {"dsv4/" + name for name in os.listdir(os.path.join(source, "bindings", "python", "dsv4")) if "__" not in name}
names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
assert names == modules | {"dsv4/__init__.py", "dsv4/libdsv4.so"}, names
points = importlib.metadata.distribution("dsv4").entry_points
assert [(p.group, p.name, p.load().__name__) for p in points] == [("vllm.general_plugins", "dsv4", "register")]
with dsv4.Model(os.path.join(source, "models", "nano"), n_threads=1) as model:
    assert model.generate("What is 2+2? Answer:", max_new=4).strip() == "4"
    with model.session() as session:
        logits = session.forward([model.bos])
        assert isinstance(logits, memoryview) and logits.shape == (1, model.n_vocab), logits
PYTHON
echo "$wheel: $(wc -c <"$work/wheel/$wheel") bytes"
