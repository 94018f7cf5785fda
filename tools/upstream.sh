#!/usr/bin/env bash
# The pinned checkout of upstream and the patch onto it, for maintainers.
#
#   tools/upstream.sh fetch [--from URL-or-DIR]   lay out PivotNet/ at the pinned commit
#   tools/upstream.sh apply | revert              put the patch on, take it off
#   tools/upstream.sh pack                        diff of the checkout -> pivotnet.patch, its header kept
#   tools/upstream.sh check                       check the patch, on the real tree too if a checkout is at hand
#
# PIVOTNET_DIR names another place than PivotNet/; PIVOTNET_UPSTREAM a clean checkout that check may read.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PATCH="${PIVOTNET_PATCH:-$ROOT/pivotnet.patch}"
COMMIT="$(cat "$ROOT/tools/upstream_commit")"
URL=https://github.com/wenjie710/PivotNet.git
CHECKOUT="${PIVOTNET_DIR:-$ROOT/PivotNet}"
if [[ "$CHECKOUT" != /* ]]; then CHECKOUT="$PWD/$CHECKOUT"; fi

die() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

# The commit of a checkout; empty if the folder is none of its own
commit_of() {
  if [[ -e "$1/.git" ]]; then git -C "$1" rev-parse --verify --quiet HEAD || true; fi
}

require_checkout() {
  local found
  [[ -d "$CHECKOUT" ]] || die "there is no checkout in $CHECKOUT; make it with: tools/upstream.sh fetch"
  found="$(commit_of "$CHECKOUT")"
  [[ "$found" == "$COMMIT" ]] ||
    die "$CHECKOUT is at commit ${found:-none}, not at the pinned $COMMIT; move it away and run: tools/upstream.sh fetch"
}

# Whether the patch is on: its reverse applies
is_patched() { git -C "$CHECKOUT" apply --reverse --check "$PATCH" 2>/dev/null; }

fetch() {
  local source=$URL temporary
  if [[ $# -gt 0 ]]; then
    [[ "$1" == --from && $# -eq 2 ]] || die "usage: tools/upstream.sh fetch [--from URL-or-DIR]"
    source=$2
    if [[ -d "$source" ]]; then source="$(cd "$source" && pwd)"; fi
  fi
  if [[ -e "$CHECKOUT" ]]; then
    require_checkout
    printf '%s is at the pinned commit already\n' "$CHECKOUT"
    return
  fi
  mkdir -p "$(dirname "$CHECKOUT")"
  temporary="$(mktemp -d "$(dirname "$CHECKOUT")/.upstream.XXXXXX")"
  # shellcheck disable=SC2064 # the folder's name of now
  trap "rm -rf '$temporary'" EXIT
  # The pictures of upstream's README are left out: big, and not all clones have them.
  git clone --quiet --no-checkout "$source" "$temporary/tree" ||
    die "cannot clone $source; without a network, copy a clone of $URL here and run:" \
      "tools/upstream.sh fetch --from DIR"
  git -C "$temporary/tree" cat-file -e "$COMMIT^{commit}" 2>/dev/null ||
    die "$source does not have the pinned commit $COMMIT; name a complete clone of $URL"
  git -C "$temporary/tree" config core.autocrlf false
  git -C "$temporary/tree" config core.sparseCheckout true
  printf '%s\n' '/*' '!/assets/figures/' >"$temporary/tree/.git/info/sparse-checkout"
  git -C "$temporary/tree" -c advice.detachedHead=false checkout --quiet "$COMMIT" ||
    die "cannot check out $COMMIT from $source; the clone is damaged, name another one"
  mv "$temporary/tree" "$CHECKOUT"
  printf 'laid out %s at %s\n' "$CHECKOUT" "$COMMIT"
}

apply_patch() {
  require_checkout
  if is_patched; then
    printf '%s has the patch already\n' "$CHECKOUT"
    return
  fi
  git -C "$CHECKOUT" apply --check "$PATCH" ||
    die "the patch does not fit $CHECKOUT: it has changes of its own; see git -C $CHECKOUT status"
  git -C "$CHECKOUT" apply --whitespace=fix "$PATCH"
  printf 'applied %s\n' "$PATCH"
}

revert_patch() {
  require_checkout
  is_patched || die "$CHECKOUT does not have the patch; nothing was changed"
  # the lines that come back are upstream's, whatever their white space
  git -C "$CHECKOUT" apply --reverse --whitespace=nowarn "$PATCH"
  printf 'reverted %s\n' "$PATCH"
}

pack() {
  require_checkout
  local packed
  packed="$(mktemp "$(dirname "$PATCH")/.pivotnet.XXXXXX.patch")"
  # shellcheck disable=SC2064 # the file's name of now
  trap "rm -f '$packed'" EXIT
  if [[ -f "$PATCH" ]]; then sed '/^diff --git /,$d' "$PATCH" >"$packed"; fi
  git -C "$CHECKOUT" -c core.quotePath=false diff --no-ext-diff --no-color --no-renames --src-prefix=a/ --dst-prefix=b/ \
    --abbrev=7 -U1 "$COMMIT" -- . ':!assets' >>"$packed"
  grep -q '^diff --git ' "$packed" || die "$CHECKOUT has no changes to pack; $PATCH was left as it is"
  chmod 644 "$packed"
  mv "$packed" "$PATCH"
  printf 'packed %s\n' "$PATCH"
}

check() {
  local python=${PYTHON:-} upstream=${PIVOTNET_UPSTREAM:-}
  # the check imports pivotnet, so it needs its packages: the active environment's, else .venv's
  if [[ -z "$python" ]]; then
    python=python3
    if ! python3 -c 'import torch' >/dev/null 2>&1 && [[ -x "$ROOT/.venv/bin/python" ]]; then
      python="$ROOT/.venv/bin/python"
    fi
  fi
  "$python" -c 'import torch' >/dev/null 2>&1 ||
    die "$python has no torch, which the check needs: PYTHON=/path/to/python, or make .venv with bash test/run_tests.sh"
  if [[ -z "$upstream" && -e "$CHECKOUT/.git" ]]; then upstream=$CHECKOUT; fi
  PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$python" "$ROOT/tools/upstream/check_patch.py" "$PATCH" \
    ${upstream:+--upstream "$upstream"} --commit "$COMMIT"
}

command=${1:-}
if [[ $# -gt 0 ]]; then shift; fi
case "$command" in
  fetch) fetch "$@" ;;
  apply) apply_patch ;;
  revert) revert_patch ;;
  pack) pack ;;
  check) check ;;
  -h | --help) usage ;;
  *)
    usage >&2
    die "unknown command '${command}'"
    ;;
esac
