#!/usr/bin/env bash
# Runs every check of this repository on this machine: style, types and the pytest suites. Installs what it needs.
#
#   bash test/run_tests.sh [--full] [pytest arguments]
#
#   --full   also what takes long: full-size recordings, eight processes, the run scripts end to end
#
# Environment: PYTHON names an interpreter; PIVOTNET_UPSTREAM a checkout of upstream at the pinned commit.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=test/lib.sh
source "$HERE/lib.sh"

marker=(-m "not full")
arguments=()
for argument in "$@"; do
  case "$argument" in
    --full) marker=() ;;
    -h | --help)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) arguments+=("$argument") ;;
  esac
done

choose_python test
cd "$ROOT"
say "ruff"
"$PY" -m ruff check .
say "mypy"
"$PY" -m mypy
say "shellcheck"
if command -v shellcheck >/dev/null; then
  git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck -x
else
  say "skipped: shellcheck is not installed (Debian: apt-get install shellcheck)"
fi
say "simulated NPUs"
PYTHON="$PY" bash tools/cannsim/setup.sh || say "skipped: test/npu, as tools/cannsim/setup.sh says above"
say "pytest"
"$PY" -m pytest -ra "${marker[@]}" "${arguments[@]}"
