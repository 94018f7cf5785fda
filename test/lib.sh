#!/usr/bin/env bash
# Shared by the scripts of this folder; sourced, never run. Offers:
#   ROOT                     the checkout
#   say, die                 one line to the user; die also leaves with status 1
#   choose_python run|test   sets PY to a Python that can import what is needed, making .venv when there is none
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

say() { printf '[pivotnet] %s\n' "$*"; }
die() {
  printf '[pivotnet] error: %s\n' "$*" >&2
  exit 1
}

# can_import PYTHON MODULE... : whether that Python finds all of the modules. It looks them up without importing them:
# that takes milliseconds where importing torch takes seconds.
can_import() {
  local python=$1
  shift
  "$python" - "$@" >/dev/null 2>&1 <<'PYTHON'
import importlib.util
import sys

if sys.version_info < (3, 9):
    sys.exit(1)
sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))
PYTHON
}

RUN_MODULES=(torch numpy scipy shapely cv2 PIL visvalingamwyatt rich tensorboard matplotlib)
TEST_MODULES=(pytest ruff mypy nuscenes)

# A Python for a new .venv: torch 2.8.0 and numpy 1.26.4 have wheels for 3.9 to 3.12, torch_npu for 3.9 to 3.11.
base_python() {
  local candidate
  for candidate in python3.11 python3.10 python3 python python3.9 python3.12; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' \
      >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.9 to 3.12 with the venv module found; install one (Debian: apt-get install python3-venv)," \
    "or name one: PYTHON=/path/to/python"
}

# make_venv REQUIREMENTS... : .venv in the checkout, holding exactly these files' packages; a second call installs
# nothing. A lock lets scripts that start at the same time wait for the first one.
make_venv() {
  local venv="$ROOT/.venv" stamp="$ROOT/.venv/installed" wanted base file options
  wanted="$(cat "$@" "$ROOT/pyproject.toml" | cksum)"
  exec 9>"$ROOT/.venv.lock"
  if command -v flock >/dev/null; then flock 9; fi
  if [[ "$(cat "$stamp" 2>/dev/null)" != *"$wanted"* ]]; then
    if [[ ! -x "$venv/bin/python" ]]; then
      base="$(base_python)"
      say "making .venv with $("$base" --version) ($base)"
      "$base" -m venv "$venv" || die "cannot make $venv with $base; name another Python: PYTHON=/path/to/python"
    fi
    options=()
    for file in "$@"; do
      say "installing $(basename "$file") into .venv"
      options=(--quiet --disable-pip-version-check --only-binary=:all:)
      if [[ "$file" == *-npu.txt ]]; then options+=(--no-deps); fi
      # nuscenes-devkit's only source-only dependency is pure Python: no compiler is needed for it
      if [[ "$file" == *-test.txt ]]; then options+=(--no-binary=fire); fi
      "$venv/bin/python" -m pip install "${options[@]}" -r "$file" ||
        die "pip could not install $file (see above); check the package index, then run this again"
    done
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e "$ROOT" ||
      die "pip could not install the package pivotnet itself (see above)"
    printf '%s\n' "$wanted" >>"$stamp"
  fi
  exec 9>&-
  PY="$venv/bin/python"
}

# choose_python run|test: sets PY to PYTHON when it is given; else the active environment when it has everything; else .venv.
choose_python() {
  local modules=("${RUN_MODULES[@]}") files=("$ROOT/requirements.txt")
  if [[ "$1" == test ]]; then
    modules+=("${TEST_MODULES[@]}")
    files+=("$ROOT/requirements-test.txt")
  fi
  if [[ -e /dev/davinci_manager ]]; then
    modules+=(torch_npu mx_driving)
    files+=("$ROOT/requirements-npu.txt")
  fi
  if [[ -n "${PYTHON:-}" ]]; then
    command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON is no command; name a Python interpreter"
    can_import "$PYTHON" "${modules[@]}" ||
      die "PYTHON=$PYTHON lacks one of: ${modules[*]}; install them with: $PYTHON -m pip install -r requirements.txt"
    PY="$(command -v "$PYTHON")"
  elif command -v python3 >/dev/null && can_import python3 "${modules[@]}"; then
    PY="$(command -v python3)"
  else
    make_venv "${files[@]}"
  fi
  say "Python: $PY"
}
