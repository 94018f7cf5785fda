#!/usr/bin/env bash
# Collects the wheels of requirements.txt and requirements-npu.txt in a folder, for servers without a network.
#
#   bash tools/wheelhouse.sh [--python 3.11] [--platform aarch64|x86_64] [--tests] [--to DIR]
#
#   --python    version of Python on the server (3.11)
#   --platform  architecture of the server (aarch64)
#   --tests     also what the tests need
#   --to        the folder (wheelhouse-<platform>-py<version>)
#
# On the server, with the folder copied there:
#
#   WHEELHOUSE=DIR bash test/train_8p_performance.sh     makes .venv from it, or by hand:
#   python -m pip install --no-index --find-links DIR -r requirements.txt
#   python -m pip install --no-index --find-links DIR --no-deps -r requirements-npu.txt
#
# PYTHON names the interpreter whose pip downloads (python3).
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python=3.11 platform=aarch64 folder="" tests=false

die() {
  printf '[pivotnet] error: %s\n' "$*" >&2
  exit 1
}

while [[ $# -gt 0 ]]; do
  case "$1" in
    -h | --help)
      sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    --tests) tests=true ;;
    --python | --platform | --to)
      [[ -n "${2:-}" ]] || die "$1 needs a value; see --help"
      case "$1" in
        --python) python=$2 ;;
        --platform) platform=$2 ;;
        --to) folder=$2 ;;
      esac
      shift
      ;;
    *) die "unknown option $1; see --help" ;;
  esac
  shift
done
[[ "$python" =~ ^3\.[0-9]+$ ]] || die "--python is $python: give a version such as 3.11"
case "$platform" in
  aarch64 | x86_64) ;;
  *) die "--platform is $platform: choose aarch64 or x86_64" ;;
esac
folder="${folder:-wheelhouse-$platform-py$python}"
mkdir -p "$folder" || die "cannot make $folder; choose another folder with --to"

# The systems of these servers have glibc 2.28 or newer (openEuler 22.03, Ubuntu 22.04).
options=(--dest "$folder" --disable-pip-version-check --only-binary=:all: --implementation cp --python-version "$python")
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014; do options+=(--platform "${tag}_$platform"); done
pip=("${PYTHON:-python3}" -m pip download)

# pip looks up torch's needs for the machine that it runs on; this asks torch's wheel for those of the server
grep '^torch==' "$ROOT/requirements.txt" >"$folder/torch.txt" || die "requirements.txt names no torch"
"${pip[@]}" "${options[@]}" --no-deps -r "$folder/torch.txt" || die "pip could not download torch (see above)"
"${PYTHON:-python3}" - "$folder" "$python" "$platform" >"$folder/needs.txt" <<'PYTHON'
import glob
import sys
import zipfile
from email.parser import Parser

from pip._vendor.packaging.requirements import Requirement

folder, python, platform = sys.argv[1:]
server = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": platform, "extra": ""}
server.update(platform_system="Linux", sys_platform="linux", os_name="posix", implementation_name="cpython")
(wheel,) = glob.glob(f"{folder}/torch-*.whl")
with zipfile.ZipFile(wheel) as archive:
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    needs = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist") or []
for need in map(Requirement, needs):
    if need.marker is None or need.marker.evaluate(server):
        need.marker = None
        print(need)
PYTHON
grep -v '^torch==' "$ROOT/requirements.txt" >>"$folder/needs.txt"
echo 'pip>=22' >>"$folder/needs.txt" # which the run scripts renew an older one to
"${pip[@]}" "${options[@]}" -r "$folder/needs.txt" || die "pip could not download requirements.txt (see above)"
rm "$folder/torch.txt" "$folder/needs.txt"
# torch_npu asks for a torch build of another name; mx_driving's needs are in requirements.txt
"${pip[@]}" "${options[@]}" --no-deps -r "$ROOT/requirements-npu.txt" ||
  die "pip could not download requirements-npu.txt (see above): torch_npu has wheels for Python 3.9 to 3.11"
if [[ "$tests" == true ]]; then
  # one package comes as source only: pure Python, made into a wheel here
  "${PYTHON:-python3}" -m pip wheel --wheel-dir "$folder" --disable-pip-version-check --no-deps fire ||
    die "pip could not make a wheel of fire (see above)"
  "${pip[@]}" "${options[@]}" --find-links "$folder" -r "$ROOT/requirements-test.txt" ||
    die "pip could not download requirements-test.txt (see above)"
fi
printf '[pivotnet] %s wheels, %s, in %s\n' "$(find "$folder" -name '*.whl' | wc -l)" "$(du -sh "$folder" | cut -f1)" "$folder"
