#!/usr/bin/env bash
# The pinned checkout of upstream and the patch onto it: see tools/upstream.sh --help, or tools/upstream/checkout.py.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# check imports pivotnet, so it needs its packages: the active environment's, else .venv's
if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=python3
  if [[ -x "$ROOT/.venv/bin/python" ]] &&
    ! python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null; then
    PYTHON="$ROOT/.venv/bin/python"
  fi
fi
PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" -B "$ROOT/tools/upstream/checkout.py" "$@"
