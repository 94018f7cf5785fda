#!/usr/bin/env bash
# Shared by the scripts of this folder; sourced, never run. Chooses the Python that they need, or makes .venv.
set -euo pipefail

ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
RUN_MODULES=(torch numpy scipy shapely cv2 PIL rich tensorboard matplotlib)
TEST_MODULES=(pytest xdist ruff mypy nuscenes visvalingamwyatt)

say() { printf '[pivotnet] %s\n' "$*"; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

# can_import PYTHON MODULE...: whether that Python finds the modules. It does not import them: torch takes seconds.
can_import() {
  "$1" -c 'import sys, importlib.util as u
sys.exit(sys.version_info < (3, 9) or any(u.find_spec(name) is None for name in sys.argv[1:]))' "${@:2}" >/dev/null 2>&1
}

# A Python for a new .venv: torch 2.8.0, numpy 1.26.4 and torch_npu have wheels for 3.9 to 3.11.
base_python() {
  local candidate
  for candidate in python3.11 python3.10 python3 python python3.9; do
    "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 11))' \
      >/dev/null 2>&1 && command -v "$candidate" && return
  done
  die "no Python 3.9 to 3.11 with the venv module found; install one (Debian: apt-get install python3-venv)," \
    "or name one: PYTHON=/path/to/python"
}

# run COMMAND...: runs it so that a signal to this script alone ends it, too
run() {
  local status=0
  "$@" &
  # shellcheck disable=SC2064  # the number of now
  trap "kill $! 2>/dev/null; exit 130" INT && trap "kill $! 2>/dev/null; exit 143" TERM HUP
  wait $! || status=$?
  trap - INT TERM HUP
  return $status
}

# make_venv PYTHON NAME REQUIREMENTS...: a virtual environment of that name in the checkout, holding these files'
# packages; a second call installs nothing. Scripts that start at the same time wait for the first one. WHEELHOUSE
# names a folder of tools/wheelhouse.py to install from, without a network.
make_venv() {
  local base=$1 venv="$ROOT/$2" stamp="$ROOT/$2/installed" wanted file options source=()
  shift 2
  if [[ -n "${WHEELHOUSE:-}" ]]; then source=(--no-index --find-links "$WHEELHOUSE"); fi
  wanted="$(cat "$@" "$ROOT/pyproject.toml" | cksum)"
  PY="$venv/bin/python"
  local pip=("$PY" -m pip install --quiet --disable-pip-version-check)
  exec {lock}<"$ROOT"
  if command -v flock >/dev/null; then
    flock --nonblock --conflict-exit-code 75 "$lock" 2>/dev/null || [[ $? -ne 75 ]] ||
      { say "waiting for another script that makes an environment" && run flock "$lock"; }
  fi
  if [[ "$(cat "$stamp" 2>/dev/null)" != *"$wanted"* ]]; then
    if ! "$PY" -m pip --version >/dev/null 2>&1; then
      say "making $(basename "$venv") with $("$base" --version) ($base)"
      run "$base" -m venv --clear "$venv" || die "cannot make $venv with $base; name another one: PYTHON=/path/to/python"
    fi
    # Python 3.9 comes with a pip that cannot install a project of pyproject.toml alone
    run "${pip[@]}" "${source[@]}" 'pip>=22' ||
      die "pip could not renew itself (see above); check the package index, then run this again"
    for file in "$@"; do
      say "installing $(basename "$file") into $(basename "$venv")"
      options=(--only-binary=:all: "${source[@]}")
      if [[ "$file" == *-npu.txt || "$file" == *-nodeps.txt ]]; then options+=(--no-deps); fi
      # nuscenes-devkit's only source-only dependency is pure Python: no compiler is needed for it
      if grep -q nuscenes "$file"; then options+=(--no-binary=fire); fi
      run "${pip[@]}" "${options[@]}" -r "$file" ||
        die "pip could not install $file (see above); check the package index and the disk (8 GB), then run this again"
    done
    run "${pip[@]}" --no-deps --no-build-isolation -e "$ROOT" ||
      die "pip could not install the package pivotnet itself (see above)"
    printf '%s\n' "$wanted" >>"$stamp"
  fi
  exec {lock}<&-
}

# choose_profile NAME: sets PY to the Python of .venv-NAME, which holds what test/profiles/NAME*.txt name; PYTHON names
# the interpreter that it is made with.
choose_profile() {
  local base files=("$ROOT/test/profiles/$1".txt)
  [[ -f "${files[0]}" ]] || die "--profile is $1: choose published or newest"
  if [[ -f "$ROOT/test/profiles/$1-nodeps.txt" ]]; then files+=("$ROOT/test/profiles/$1-nodeps.txt"); fi
  base="${PYTHON:-$(base_python)}"
  make_venv "$base" ".venv-$1" "${files[@]}"
  say "Python: $PY"
}

# choose_python run|test [COMMAND...]: sets PY to PYTHON when it is given; else to the active environment's when it has
# everything; else to .venv's. COMMAND gets the Python that .venv will be made with, as a last word.
choose_python() {
  local base modules=("${RUN_MODULES[@]}") files=("$ROOT/requirements.txt")
  if [[ "$1" == test ]]; then
    modules+=("${TEST_MODULES[@]}")
    files+=("$ROOT/requirements-test.txt")
  fi
  if [[ -e /dev/davinci_manager ]]; then
    modules+=(torch_npu mx_driving)
    files+=("$ROOT/requirements-npu.txt")
  fi
  PY="${PYTHON:-python3}"
  if [[ -n "${PYTHON:-}" ]]; then
    command -v "$PY" >/dev/null || die "PYTHON=$PY is no command; name a Python interpreter"
    can_import "$PY" "${modules[@]}" ||
      die "PYTHON=$PY lacks one of: ${modules[*]}; install them with: $PY -m pip install -r requirements.txt"
  elif ! can_import "$PY" "${modules[@]}"; then
    base="$(base_python)"
    if [[ $# -gt 1 ]]; then "${@:2}" "$base"; fi
    make_venv "$base" .venv "${files[@]}"
  fi
  PY="$(command -v "$PY")"
  if [[ "$PY" != /* ]]; then PY="$PWD/$PY"; fi
  say "Python: $PY"
}

# check_options KIND OPTIONS... PYTHON: shows what is wrong with the options, or --help, before minutes of installing
check_options() {
  local said
  said="$("${@: -1}" -m pivotnet run "$1" --check "${@:2:$#-2}")" || exit
  if [[ -n "$said" ]]; then printf '%s\n' "$said" && exit; fi
}

# run_training KIND OPTIONS...: becomes pivotnet run
run_training() {
  # shellcheck source=test/env_npu.sh
  source "$ROOT/test/env_npu.sh"
  choose_python run check_options "$@"
  exec "$PY" -m pivotnet run "$@"
}
