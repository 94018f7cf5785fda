#!/usr/bin/env bash
# What needs a CUDA GPU: the tests, then most tables of docs/performance.md. Made to take less than 8 minutes.
#
#   bash test/card.sh CHECKOUT [options of tools/bench.py step]
#
# CHECKOUT is one of upstream (bash tools/upstream.sh fetch makes it); its operator is compiled: nvcc and ninja are needed.
# Environment: PYTHON names an interpreter.
# shellcheck source=test/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in
  -h | --help) sed -n '2,/^# shellcheck/{/^# shellcheck/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
  "" | -*) die "name a checkout of upstream first (bash tools/upstream.sh fetch makes one); see --help" ;;
esac
[[ -d "$1" ]] || die "there is no folder $1: name a checkout of upstream (bash tools/upstream.sh fetch makes one)"
checkout="$(realpath -- "$1")"
# shellcheck disable=SC2034  # read in lib.sh
TEST_MODULES=(pytest)
choose_python test
CDPATH='' cd -- "$ROOT"
"$PY" -m pytest -ra test/card test/unit/test_deformable_attention.py -k "card or cuda"
exec "$PY" tools/bench.py step --device cuda --against "$checkout" --presets swint res50 effb0 --amp none bf16 --graph \
  --profile "${@:2}"
