#!/usr/bin/env bash
# Downloads weights into assets/weights: pretrained backbones, and the networks that upstream has trained.
#
#   bash tools/download.sh [NAME...] [--to DIR]
#
# NAME: swint, res50, effb0 (a backbone file each), backbones (these three, the default),
#       swint_ep30, swint_ep110, res50_ep30, effb0_ep30 (upstream's trained networks), checkpoints (these four), all
#
# An interrupted download goes on where it stopped; a file that is there and whole is left alone. Checksums: a file
# whose name ends in digits of its SHA-256 is compared with them; of the others none is published, so the first
# download is written down in DIR/SHA256SUMS and compared with from then on. PIVOTNET_RELEASE names a mirror.
#
# Without a network: fetch the files on another machine with this script, or by hand from
# https://github.com/wenjie710/PivotNet/releases/tag/v1.0, and copy them into assets/weights under their own names.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
RELEASE="${PIVOTNET_RELEASE:-https://github.com/wenjie710/PivotNet/releases/download/v1.0}"
folder="$ROOT/assets/weights"

say() { printf '[pivotnet] %s\n' "$*"; }
die() {
  printf '[pivotnet] error: %s\n' "$*" >&2
  exit 1
}

# files_of NAME: the files that a name stands for
files_of() {
  case "$1" in
    swint) echo upernet_swin_tiny_patch4_window7_512x512.pth ;;
    res50) echo resnet50-0676ba61.pth ;;
    effb0) echo efficientnet-b0-355c32eb.pth ;;
    swint_ep30 | swint_ep110 | res50_ep30 | effb0_ep30) echo "pivotnet_nuscenes_$1.pth" ;;
    backbones) for name in swint res50 effb0; do files_of "$name"; done ;;
    checkpoints) for name in swint_ep30 swint_ep110 res50_ep30 effb0_ep30; do files_of "$name"; done ;;
    all) files_of backbones && files_of checkpoints ;;
    *) die "unknown name $1; see --help" ;;
  esac
}

# is_whole FILE NAME: whether a file's checksum is the known one of that name. Without a known one: whether it starts
# like a weight file (a zip file, or pickle), as a proxy's error page does not.
is_whole() {
  local digest wanted
  digest="$(sha256sum <"$1" | cut -d' ' -f1)"
  wanted="$(sed -n 's/.*-\([0-9a-f]\{8\}\)\.pth$/\1/p' <<<"$2")"
  if [[ -z "$wanted" && -f "$folder/SHA256SUMS" ]]; then
    wanted="$(awk -v name="$2" '$2 == name { print $1 }' "$folder/SHA256SUMS" | head -n 1)"
  fi
  if [[ -n "$wanted" ]]; then
    [[ "$digest" == "$wanted"* ]]
  else
    case "$(head -c 2 "$1" | od -An -tx1 | tr -d ' \n')" in 504b | 8002 | 8004) ;; *) return 1 ;; esac
    printf '%s  %s\n' "$digest" "$2" >>"$folder/SHA256SUMS"
    say "$2: no checksum is published; SHA-256 $digest, written to $folder/SHA256SUMS"
  fi
}

# from_release OPTION...: the file into $part
from_release() {
  curl --fail --location --retry 3 --connect-timeout 20 "$@" --output "$part" "$RELEASE/$file"
}

# fetch FILE: into the folder, under its name only when it is whole
fetch() {
  local file=$1 part="$folder/$1.part" status=0
  if [[ -s "$folder/$file" ]]; then
    if is_whole "$folder/$file" "$file"; then
      say "$file is there"
      return
    fi
    die "$folder/$file is damaged (its SHA-256 is not the known one): remove it, then run this again"
  fi
  say "downloading $file"
  if command -v curl >/dev/null; then
    from_release --continue-at - || status=$?
    # the server cannot go on in the middle (33), or has nothing after it (an HTTP error, 22): once more from the start
    if [[ ($status -eq 33 || $status -eq 22) && -s "$part" ]]; then
      rm -f "$part"
      status=0
      from_release || status=$?
    fi
  elif command -v wget >/dev/null; then
    wget --continue --tries=3 --timeout=20 --output-document="$part" "$RELEASE/$file" || status=$?
  else
    die "neither curl nor wget is installed; see --help for placing files by hand"
  fi
  if [[ $status -ne 0 ]]; then
    die "cannot download $RELEASE/$file (status $status): without a network, fetch it on another machine and copy" \
      "it to $folder/$file; what has arrived is kept, run this again to go on"
  fi
  if ! is_whole "$part" "$file"; then
    rm -f "$part"
    die "what $RELEASE/$file sent is damaged or no weight file; run this again, or fetch it by hand"
  fi
  mv "$part" "$folder/$file"
  say "$folder/$file"
}

names=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --to)
      [[ -n "${2:-}" ]] || die "--to needs a folder"
      folder=$2
      shift
      ;;
    -*) die "unknown option $1; see --help" ;;
    *) names+=("$1") ;;
  esac
  shift
done
if [[ ${#names[@]} -eq 0 ]]; then names=(backbones); fi

files=()
for name in "${names[@]}"; do
  chosen="$(files_of "$name")" || exit 1
  mapfile -t -O "${#files[@]}" files <<<"$chosen"
done
mkdir -p "$folder" || die "cannot make $folder; choose another folder with --to"
for file in "${files[@]}"; do fetch "$file"; done
