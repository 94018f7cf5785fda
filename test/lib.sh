#!/usr/bin/env bash
# Shared by the scripts of this folder; sourced, never run. Offers:
#   ROOT                     the checkout
#   say, die                 one line to the user; die also leaves with status 1
#   supervise COMMAND...     runs a command so that no signal leaves any of its processes behind
#   lock_folder FOLDER       waits for others that work in a folder; unlock_folder lets them go on
#   choose_python run|test   sets PY to a Python that can import what is needed, making .venv when there is none
#   choose_profile NAME      sets PY to the Python of .venv-NAME, made from test/profiles/NAME*.txt
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

exec {console}>&2 # where the user reads, also while a supervised command's output goes into a file
say() { printf '[pivotnet] %s\n' "$*"; }
die() {
  printf '[pivotnet] error: %s\n' "$*" >&2
  exit 1
}

# marked_processes MARK: process numbers that have PIVOTNET_RUN=MARK in the environment that they were started with
marked_processes() {
  { grep -lzsx "PIVOTNET_RUN=$1" /proc/[0-9]*/environ 2>/dev/null || true; } | cut -d/ -f3
}

# end_marked MARK: ends what a supervised command has left behind
end_marked() {
  local attempt pids
  for attempt in {1..50}; do
    pids="$(marked_processes "$1")"
    if [[ -z "$pids" ]]; then return; fi
    # shellcheck disable=SC2086  # a list of numbers
    case "$attempt" in
      1) kill -TERM $pids 2>/dev/null || true ;;
      20 | 30 | 40) kill_marked "$1" ;;
    esac
    sleep 0.1
  done
}

# supervise COMMAND...: runs the command and returns its exit status. The command gets a session of its own, so that
# Ctrl-C reaches this script alone, which asks the command to end (SIGTERM); at the second signal, or after
# PIVOTNET_GRACE seconds (60), it ends it (SIGKILL). Then it leaves with 130 (Ctrl-C) or 143, by way of on_interrupt.
# Whatever the command started has ended by then.
supervise() {
  local mark="$$-$RANDOM$RANDOM$RANDOM" status=0 own_session=() deadline
  if command -v setsid >/dev/null; then own_session=(setsid); fi
  supervised="" supervised_mark=$mark interrupted=""
  trap 'take_signal 130' INT
  trap 'take_signal 143' TERM HUP
  PIVOTNET_RUN="$mark" "${own_session[@]}" "$@" &
  supervised=$!
  if [[ -n "$interrupted" ]]; then kill -TERM "$supervised" 2>/dev/null || true; fi
  wait "$supervised" || status=$?
  # a signal ends wait before the command has ended
  deadline=$((SECONDS + ${PIVOTNET_GRACE:-60}))
  while kill -0 "$supervised" 2>/dev/null; do
    if [[ $SECONDS -ge $deadline ]]; then kill_marked "$mark"; fi
    sleep 0.1
  done
  end_marked "$mark"
  trap - INT TERM HUP
  if [[ -n "$interrupted" ]]; then
    on_interrupt >&"$console"
    exit "$interrupted"
  fi
  return "$status"
}

# kill_marked MARK: SIGKILL
kill_marked() {
  # shellcheck disable=SC2046  # a list of numbers
  kill -KILL $(marked_processes "$1") 2>/dev/null || true
}

take_signal() {
  if [[ -n "$interrupted" ]]; then
    kill_marked "$supervised_mark"
  elif [[ -n "$supervised" ]]; then
    kill -TERM "$supervised" 2>/dev/null || true
  fi
  interrupted=$1
}

# What an interrupted script says; scripts may define their own
on_interrupt() { say "interrupted"; }

# lock_folder FOLDER: returns when this script has the folder for itself. Where the file system or the machine knows no
# locks, it returns at once.
lock_folder() {
  exec {folder_lock}<"$1"
  if command -v flock >/dev/null; then
    if flock --nonblock --conflict-exit-code 75 "$folder_lock" 2>/dev/null || [[ $? -ne 75 ]]; then return; fi
    say "waiting for another run that works in $1"
    supervise flock "$folder_lock" || true
  fi
}

unlock_folder() { exec {folder_lock}<&-; }

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

RUN_MODULES=(torch numpy scipy shapely cv2 PIL rich tensorboard matplotlib)
TEST_MODULES=(pytest ruff mypy nuscenes visvalingamwyatt)

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

# make_venv FOLDER REQUIREMENTS... : a virtual environment of that name in the checkout, holding exactly these files'
# packages; a second call installs nothing. The variable made_with names the interpreter for it. A lock lets scripts that start at the same time wait for the first one. WHEELHOUSE names a folder of
# tools/wheelhouse.sh to install from, without a network.
make_venv() {
  local venv="$ROOT/$1" stamp="$ROOT/$1/installed" wanted base file options source=()
  shift
  if [[ -n "${WHEELHOUSE:-}" ]]; then source=(--no-index --find-links "$WHEELHOUSE"); fi
  wanted="$(cat "$@" "$ROOT/pyproject.toml" | cksum)"
  lock_folder "$ROOT"
  if [[ "$(cat "$stamp" 2>/dev/null)" != *"$wanted"* ]]; then
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
      base="${made_with:-$(base_python)}"
      say "making $(basename "$venv") with $("$base" --version) ($base)"
      supervise "$base" -m venv --clear "$venv" ||
        die "cannot make $venv with $base; name another Python: PYTHON=/path/to/python"
    fi
    # Python 3.9 comes with a pip that cannot install a project of pyproject.toml alone
    supervise "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${source[@]}" 'pip>=22' ||
      die "pip could not renew itself (see above); check the package index, then run this again"
    for file in "$@"; do
      say "installing $(basename "$file") into $(basename "$venv")"
      options=(--quiet --disable-pip-version-check --only-binary=:all: "${source[@]}")
      if [[ "$file" == *-npu.txt || "$file" == *-nodeps.txt ]]; then options+=(--no-deps); fi
      # nuscenes-devkit's only source-only dependency is pure Python: no compiler is needed for it
      if grep -q nuscenes "$file"; then options+=(--no-binary=fire); fi
      supervise "$venv/bin/python" -m pip install "${options[@]}" -r "$file" ||
        die "pip could not install $file (see above); check the package index, then run this again"
    done
    supervise "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
      -e "$ROOT" || die "pip could not install the package pivotnet itself (see above)"
    printf '%s\n' "$wanted" >>"$stamp"
  fi
  unlock_folder
  PY="$venv/bin/python"
}

# choose_profile NAME: sets PY to the Python of .venv-NAME, which holds what test/profiles/NAME*.txt name; PYTHON names the
# interpreter that it is made with.
choose_profile() {
  local made_with="${PYTHON:-}" names files=("$ROOT/test/profiles/$1.txt")
  names="$(find "$ROOT/test/profiles" -name '*.txt' ! -name '*-nodeps.txt' -printf '%f ')"
  [[ -f "${files[0]}" ]] || die "--profile is $1: choose from ${names//.txt/}"
  if [[ -f "$ROOT/test/profiles/$1-nodeps.txt" ]]; then files+=("$ROOT/test/profiles/$1-nodeps.txt"); fi
  make_venv ".venv-$1" "${files[@]}"
  say "Python: $PY"
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
    make_venv .venv "${files[@]}"
  fi
  if [[ "$PY" != /* ]]; then PY="$PWD/$PY"; fi
  say "Python: $PY"
}
