#!/bin/sh
# The Python package as pip gets it: a source distribution with what the wheel is built from and nothing else, the wheel
# built from that, its name and contents, installed into an environment that has nothing else, imported; it generates
# with the small model, and the plugin's entry point is found.
#
# usage: test_wheel.sh SOURCE_DIR WORK_DIR PYTHON
# Exit status 77: skipped, because the build tool cannot be had (no package index can be reached). The library is
# built for speed of building, and as where no compiler for a GPU's kernels is found; its own tests are elsewhere.
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
version=$(sed -n 's/^project(dsv4 VERSION \([0-9.]*\).*/\1/p' "$source/CMakeLists.txt")
rm -rf "$work/wheel" "$work/sdist"
mkdir "$work/sdist"
# Files keep their times (not reproducible), so that a second run compiles only what has changed.
(cd "$source" && "$work/venv/bin/python" -c 'import sys
from scikit_build_core.build import build_sdist
build_sdist(sys.argv[1], {"sdist.reproducible": "false"})' "$work/sdist" >/dev/null)
tar -xzf "$work/sdist/dsv4-$version.tar.gz" -C "$work/sdist"
unpacked="$work/sdist/dsv4-$version"
# What git does not know yet, somebody's notes for instance, goes in too and is no fault.
git -C "$source" ls-files --others --exclude-standard >"$work/sdist/untracked" 2>/dev/null || true
(cd "$source" && find .clang-format .gitignore CMakeLists.txt CMakePresets.json CONTRIBUTING.md LICENSE README.md \
    bindings cmake include pyproject.toml src -type f ! -path '*/__pycache__/*' && echo PKG-INFO) |
    grep -vxFf "$work/sdist/untracked" | sort >"$work/sdist/expected"
(cd "$unpacked" && find . -type f) | sed 's|^\./||' | grep -vxFf "$work/sdist/untracked" | sort >"$work/sdist/found"
diff "$work/sdist/expected" "$work/sdist/found" >&2 || { echo "a source distribution of other files" >&2; exit 1; }

# DSV4_CUDA and DSV4_HIP stay AUTO; that no compiler for GPUs is found is made so, because these kernels take minutes.
CUDACXX=/nowhere/nvcc PATH="$work/venv/bin:$PATH" $pip wheel "$unpacked" --no-deps --no-build-isolation \
    -w "$work/wheel" --config-settings build-dir="$work/build" --config-settings cmake.define.DSV4_AMD_CLANG= \
    --config-settings cmake.define.CMAKE_C_FLAGS_RELEASE=-O1
wheel=$(ls "$work/wheel")
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
try:
    raise AssertionError(dsv4.attn.choose(backend="cuda"))
except dsv4.Unsupported as error:
    assert "this build has no" in str(error), error
with dsv4.Model(os.path.join(source, "models", "nano"), n_threads=1) as model:
    assert model.generate("What is 2+2? Answer:", max_new=4).strip() == "4"
    with model.session() as session:
        logits = session.forward([model.bos])
        assert isinstance(logits, memoryview) and logits.shape == (1, model.n_vocab), logits
PYTHON
echo "$wheel: $(wc -c <"$work/wheel/$wheel") bytes"
