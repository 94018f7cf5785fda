#!/usr/bin/env bash
# Runs every check of this repository on this machine: style, types and the pytest suites. Installs what it needs.
#
#   bash test/run_tests.sh [--full] [--profile NAME] [pytest arguments]
#
#   --full           also what takes long: training steps at full size, eight processes, the run scripts end to end
#   --profile NAME   with the versions of test/profiles/NAME.txt, in an environment of its own: published or newest
#
# Environment: PYTHON names an interpreter; PIVOTNET_UPSTREAM a checkout of upstream at the pinned commit.
# shellcheck source=test/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

full="" profile="" arguments=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --full) full=yes ;;
    --profile)
      profile=${2:-}
      [[ -n "$profile" ]] || die "--profile needs a name; see --help"
      shift
      ;;
    -h | --help) sed -n '2,/^# shellcheck/{/^# shellcheck/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    *) arguments+=("$1") ;;
  esac
  shift
done
if [[ -z "$full" ]]; then arguments=(-m "not full" "${arguments[@]}"); fi

if [[ -n "$profile" ]]; then choose_profile "$profile"; else choose_python test; fi
CDPATH='' cd -- "$ROOT"
say "ruff"
"$PY" -m ruff check .
"$PY" -m ruff format --check .
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
# Two workers of one thread each; where they share cores, threads that wait sleep: spinning takes the others' time.
# malloc stays as it is: env_npu.sh's settings hold on to memory, a worker of test/golden grew beyond 2 GB with them.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
# in the order of the folders, which starts with the longest tests
exec "$PY" -m pytest -ra -n 2 --no-loadscope-reorder --durations=5 "${arguments[@]}"
