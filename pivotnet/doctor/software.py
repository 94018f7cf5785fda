"""Checks of Python and its packages: present, importable, and fitting each other, CANN and this code."""

from __future__ import annotations

from collections.abc import Iterator

from pivotnet.doctor import versions
from pivotnet.doctor.machine import ERROR, NOTE, OK, WARNING, Finding, Machine
from pivotnet.doctor.npu import cann_release, has_npu
from pivotnet.doctor.versions import dotted, parse_version, release_order

# modules that training imports, and the distributions that bring them
REQUIRED = {
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "shapely": ("shapely",),
    "cv2": ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "PIL": ("pillow",),
    "rich": ("rich",),
    "tensorboard": ("tensorboard",),
    "matplotlib": ("matplotlib",),
}
INSTALL = "python -m pip install -r requirements.txt"
INSTALL_NPU = "python -m pip install --no-deps -r requirements-npu.txt"


def check_python(machine: Machine) -> Iterator[Finding]:
    """Python's version and how it was built."""
    oldest, newest = versions.PYTHON
    text = f"{dotted(machine.python)} on {machine.architecture}"
    if oldest <= machine.python <= newest:
        yield Finding("Python", OK, text)
    else:
        status = ERROR if machine.python < oldest else WARNING
        text += f" is not among the tested {dotted(oldest)} to {dotted(newest)}"
        yield Finding("Python", status, text, "make an environment with 3.11")
    options = {"LTO": "--with-lto", "PGO": "--enable-optimizations"}
    missing = [name for name, option in options.items() if option not in machine.python_build]
    if missing:
        remedy = "build Python --with-lto --enable-optimizations: docs/installation.md"
        text = f"built without {' and '.join(missing)}: a slower host side"
        yield Finding("Python", WARNING if has_npu(machine) else NOTE, text, remedy)
    else:
        yield Finding("Python", OK, "built with LTO and PGO")


def check_packages(machine: Machine) -> Iterator[Finding]:
    """Packages that every training needs."""
    missing = [module for module, names in REQUIRED.items() if not any(map(machine.package, names))]
    if missing:
        yield Finding("packages", ERROR, f"missing: {', '.join(missing)}", INSTALL)
    torch, numpy = machine.package("torch"), machine.package("numpy")
    if torch is None:
        yield Finding("torch", ERROR, "not installed", INSTALL)
        return
    oldest, newest = versions.TORCH
    if not oldest <= parse_version(torch)[:2] <= newest:
        text = f"{torch} is not among the tested {dotted(oldest)} to {dotted(newest)}"
        yield Finding("torch", WARNING, text, INSTALL)
    if numpy and parse_version(torch)[:2] < (2, 3) and parse_version(numpy)[0] >= 2:
        text = f"torch {torch} is built for numpy 1, this is {numpy}"
        yield Finding("torch", ERROR, text, "python -m pip install 'numpy<2'")
    problem = machine.import_error("torch", *(module for module in REQUIRED if module not in missing))
    if problem:
        remedy = "install CANN and source its set_env.sh, or uninstall torch_npu" if "libhccl" in problem else INSTALL
        yield Finding("torch", ERROR, f"{torch}, but importing it and the packages fails: {problem}", remedy)
    else:
        yield Finding("torch", OK, f"{torch}, numpy {numpy or '-'}; all packages import")


def check_npu_packages(machine: Machine) -> Iterator[Finding]:
    """torch_npu and mx_driving: there, and fitting torch, Python and CANN."""
    torch, torch_npu = machine.package("torch"), machine.package("torch_npu")
    if not has_npu(machine):
        if torch_npu:
            text = f"torch_npu {torch_npu} is installed, but there is no NPU: torch tries to load it"
            yield Finding("torch_npu", WARNING, text, "python -m pip uninstall torch-npu, or use another environment")
        return
    if torch is None:
        return
    if torch_npu is None:
        yield Finding("torch_npu", ERROR, "not installed: training would run on the CPU", INSTALL_NPU)
    else:
        yield from _check_torch_npu(machine, torch, torch_npu)
    yield from _check_mx_driving(machine, torch)


def _check_torch_npu(machine: Machine, torch: str, torch_npu: str) -> Iterator[Finding]:
    wanted = parse_version(torch)[:3]
    if parse_version(torch_npu)[:3] != wanted:
        text = f"{torch_npu} is made for another torch than {torch}"
        yield Finding("torch_npu", ERROR, text, f"install {dotted(wanted)}.*")
        return
    problem = machine.import_error("torch", "torch_npu")
    if problem:
        remedy = "source CANN's set_env.sh (or test/env_npu.sh); compare the versions below"
        yield Finding("torch_npu", ERROR, f"{torch_npu} does not import: {problem}", remedy)
    else:
        yield Finding("torch_npu", OK, f"{torch_npu}, imports")
    wanted_cann, found = versions.CANN_OF_TORCH_NPU.get(torch_npu), cann_release(machine)
    if wanted_cann is None:
        text = f"no CANN release is known for torch_npu {torch_npu}"
        yield Finding("versions", NOTE, text, "compare with the table in the README of its wheel")
        return
    if found is None:
        return
    release = found[0]
    if release == wanted_cann:
        text = f"torch {torch}, torch_npu {torch_npu} and CANN {release} belong together"
        yield Finding("versions", OK, text)
    elif release_order(release) < release_order(wanted_cann):
        text = f"torch_npu {torch_npu} belongs to CANN {wanted_cann}, this is the older {release}"
        fitting = [npu for npu, cann in versions.CANN_OF_TORCH_NPU.items() if cann == release]
        remedy = f"update CANN, or install torch_npu {' or '.join(fitting)}" if fitting else "update CANN"
        yield Finding("versions", WARNING, text, remedy)
    else:
        text = f"torch_npu {torch_npu} belongs to CANN {wanted_cann}, this is {release}: not a tested pair"
        yield Finding("versions", WARNING, text, f"prefer CANN {wanted_cann}")


def _check_mx_driving(machine: Machine, torch: str) -> Iterator[Finding]:
    found = [version for name in ("mx-driving", "mx-driving-a5") if (version := machine.package(name))]
    if len(found) == 2:
        remedy = "uninstall both, then install the one of this chip (Atlas A2: mx-driving)"
        yield Finding("mx_driving", ERROR, "mx-driving and mx-driving-a5 hold the same files", remedy)
    elif not found:
        yield Finding("mx_driving", ERROR, "not installed: deformable attention on the NPU needs it", INSTALL_NPU)
    elif found[0] not in versions.TORCH_OF_MX_DRIVING:
        yield Finding("mx_driving", NOTE, f"{found[0]} is not in the table of tested versions")
    elif found[0] == (wanted := versions.mx_driving_for(torch)):
        yield Finding("mx_driving", OK, found[0])
    else:
        remedy = f"python -m pip install --no-deps mx-driving=={wanted}" if wanted else "use torch 2.1 to 2.8"
        yield Finding("mx_driving", ERROR, f"{found[0]} is not made for torch {torch}", remedy)
