#!/usr/bin/env bash
# Runs every check of this repository on this machine: style, types and the pytest suites. Installs what it needs.
#
#   bash test/run_tests.sh [--full] [--profile NAME] [pytest arguments]
#
#   --full           also what takes long: training steps at full size, eight processes, the run scripts end to end
#   --profile NAME   with the versions of test/profiles/NAME.txt, in an environment of its own: published or newest
#
# Environment: PYTHON names an interpreter; PIVOTNET_UPSTREAM a checkout of upstream at the pinned commit.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=test/lib.sh
source "$HERE/lib.sh"

marker=(-m "not full")
arguments=()
profile=""
while [[ $# -gt 0 ]]; do
  argument=$1
  shift
  case "$argument" in
    --full) marker=() ;;
    --profile)
      [[ $# -gt 0 ]] || die "--profile needs a name; see --help"
      profile=$1
      shift
      ;;
    -h | --help)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) arguments+=("$argument") ;;
  esac
done

if [[ -n "$profile" ]]; then choose_profile "$profile"; else choose_python test; fi
cd "$ROOT"
say "ruff"
"$PY" -m ruff check .
if [[ -n "$profile" ]]; then
  say "skipped: mypy, which knows the default versions' types only"
else
  say "mypy"
  "$PY" -m mypy
fi
say "shellcheck"
if command -v shellcheck >/dev/null; then
  git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck -x
else
  say "skipped: shellcheck is not installed (Debian: apt-get install shellcheck)"
fi
say "simulated NPUs"
PYTHON="$PY" bash tools/cannsim/setup.sh || say "skipped: test/npu, as tools/cannsim/setup.sh says above"
say "pytest"
# threads that wait for each other sleep: where cores are shared, spinning takes the time that the others need
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
"$PY" -m pytest -ra "${marker[@]}" "${arguments[@]}"
