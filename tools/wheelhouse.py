"""Collect the wheels of requirements.txt and requirements-npu.txt in a folder, for servers without a network.

    python3 tools/wheelhouse.py [--python 3.11] [--platform aarch64|x86_64] [--tests] [--to DIR]

The pip of the Python that runs this downloads them. On the server, with the folder copied there:

    WHEELHOUSE=DIR bash test/train_8p_performance.sh     makes .venv from it, or by hand:
    python -m pip install --no-index --find-links DIR -r requirements.txt
    python -m pip install --no-index --find-links DIR --no-deps -r requirements-npu.txt"""

import argparse
import importlib.metadata
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The systems of these servers have glibc 2.28 or newer (openEuler 22.03, Ubuntu 22.04).
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def pip(what: str, *words: object) -> None:
    """Run pip; end this program where it fails."""
    command = [sys.executable, "-m", "pip", *map(str, words), "--disable-pip-version-check"]
    if subprocess.run(command).returncode:
        print(f"error: pip could not download {what} (see above)", file=sys.stderr)
        sys.exit(2)


def needs_of(wheel: Path, python: str, platform: str) -> list[str]:
    """What a wheel needs on the server. pip looks that up for the machine that it runs on."""
    from pip._vendor.packaging.requirements import Requirement

    server = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": platform, "extra": ""}
    server.update(platform_system="Linux", sys_platform="linux", os_name="posix", implementation_name="cpython")
    (folder,) = (path for path in zipfile.Path(wheel).iterdir() if path.name.endswith(".dist-info"))
    needs = importlib.metadata.PathDistribution(folder).requires or []  # type: ignore[arg-type]
    chosen = [need for need in map(Requirement, needs) if need.marker is None or need.marker.evaluate(server)]
    for need in chosen:
        need.marker = None
    return [str(need) for need in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    versions = ["3.9", "3.10", "3.11"]
    parser.add_argument("--python", default="3.11", choices=versions, help="version of Python on the server (3.11)")
    parser.add_argument("--platform", default="aarch64", choices=["aarch64", "x86_64"], help="of the server (aarch64)")
    parser.add_argument("--tests", action="store_true", help="also what the tests need")
    parser.add_argument("--to", type=Path, metavar="DIR", help="the folder (wheelhouse-<platform>-py<version>)")
    args = parser.parse_args()
    folder = args.to or Path(f"wheelhouse-{args.platform}-py{args.python}")
    folder.mkdir(parents=True, exist_ok=True)

    options = ["download", f"--dest={folder}", "--only-binary=:all:"]
    options += ["--implementation=cp", f"--python-version={args.python}"]
    options += [f"--platform={tag}_{args.platform}" for tag in TAGS]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    (torch,) = (line for line in pinned if line.startswith("torch=="))
    pip("torch", *options, "--no-deps", torch)
    (wheel,) = folder.glob("torch-*.whl")
    needs = [*needs_of(wheel, args.python, args.platform), *(line for line in pinned if line != torch)]
    pip("requirements.txt", *options, *needs, "pip>=22")  # the run scripts renew an older pip
    # torch_npu asks for a torch build of another name; mx_driving's needs are in requirements.txt
    npu = "requirements-npu.txt: torch_npu has wheels for Python 3.9 to 3.11"
    pip(npu, *options, "--no-deps", "-r", ROOT / "requirements-npu.txt")
    if args.tests:
        # one package comes as source only: pure Python, made into a wheel here
        pip("fire", "wheel", "--wheel-dir", folder, "--no-deps", "fire")
        pip("requirements-test.txt", *options, "--find-links", folder, "-r", ROOT / "requirements-test.txt")
    sizes = [path.stat().st_size for path in folder.glob("*.whl")]
    print(f"{len(sizes)} wheels, {sum(sizes) >> 20} MiB, in {folder}")


if __name__ == "__main__":
    main()
