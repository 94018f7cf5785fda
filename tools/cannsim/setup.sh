#!/bin/bash
# Installs the real torch_npu and mx_driving wheels into tools/cannsim/site and builds the simulator; quick when both
# are there already.
#   PYTHON=python3  the interpreter that has torch, 2.8.0 or 2.1.0; another torch than last time changes the wheels
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python3}
site=$here/site

fail() { echo "error: $*" >&2; exit 2; }

command -v "${CXX:-g++}" > /dev/null || fail "no ${CXX:-g++}: install a C++17 compiler or set CXX"
torch=$("$PYTHON" -c 'from importlib.metadata import version; print(version("torch").split("+")[0])') \
    || fail "$PYTHON has no torch"
case $torch in
    2.8.0) wheels=(torch_npu==2.8.0.post2 mx_driving==26.2.0.post2) ;;
    2.1.0) wheels=(torch_npu==2.1.0.post17 mx_driving==26.2.0.post1) ;;
    *) fail "torch $torch: the simulator is made for torch 2.8.0 and 2.1.0" ;;
esac
wheels+=(pyyaml==6.0.3)

# --no-deps: torch_npu asks for "torch==2.8.0+cpu", which the registry does not have. A folder of its own keeps
# `import torch` outside the simulator from loading torch_npu.
if [ "$(cat "$site/.wheels" 2> /dev/null)" != "${wheels[*]}" ]; then
    rm -rf "$site"
    if "$PYTHON" -m pip --version > /dev/null 2>&1; then
        install=("$PYTHON" -m pip install --quiet --disable-pip-version-check)
    elif uv=$(command -v uv || ls "$(dirname "$(command -v "$PYTHON")")/uv" 2> /dev/null); then
        install=("$uv" pip install --quiet --python "$PYTHON")
    else
        fail "$PYTHON has no pip, and there is no uv"
    fi
    "${install[@]}" --no-deps --target "$site" "${wheels[@]}" || fail "cannot install ${wheels[*]}"
    echo "${wheels[*]}" > "$site/.wheels"
fi
"$PYTHON" "$here/build.py"
