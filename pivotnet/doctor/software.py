"""Checks of Python and its packages: present, importable, and fitting each other, CANN and this code."""

from __future__ import annotations

from collections.abc import Iterator

from pivotnet.doctor import versions
from pivotnet.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from pivotnet.doctor.machine import Machine
from pivotnet.doctor.npu import cann_release, has_npu
from pivotnet.doctor.parsers import parse_version, release_order

# modules that training imports, and the distributions that bring them
REQUIRED = (
    ("numpy", ("numpy",)),
    ("scipy", ("scipy",)),
    ("shapely", ("shapely",)),
    ("cv2", ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")),
    ("PIL", ("pillow",)),
    ("rich", ("rich",)),
    ("tensorboard", ("tensorboard",)),
    ("matplotlib", ("matplotlib",)),
)
INSTALL = "python -m pip install -r requirements.txt"
INSTALL_NPU = "python -m pip install --no-deps -r requirements-npu.txt"


def _dots(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def check_python(machine: Machine) -> Iterator[Finding]:
    """Python's version and how it was built."""
    version = machine.python
    text = f"{_dots(version)} on {machine.architecture}"
    if not versions.OLDEST_PYTHON <= version <= versions.NEWEST_PYTHON:
        limits = f"{_dots(versions.OLDEST_PYTHON)} to {_dots(versions.NEWEST_PYTHON)}"
        status = ERROR if version < versions.OLDEST_PYTHON else WARNING
        yield Finding("Python", status, f"{text} is not among the tested {limits}", "make an environment with 3.11")
    else:
        yield Finding("Python", OK, text)
    build = machine.python_build
    missing = [
        name for name, option in (("LTO", "--with-lto"), ("PGO", "--enable-optimizations")) if option not in build
    ]
    if missing:
        status = WARNING if has_npu(machine) else NOTE
        remedy = "README.md, 'Performance tuning': build Python --with-lto --enable-optimizations"
        yield Finding("Python", status, f"built without {' and '.join(missing)}: a slower host side", remedy)
    else:
        yield Finding("Python", OK, "built with LTO and PGO")


def check_packages(machine: Machine) -> Iterator[Finding]:
    """Packages that every training needs."""
    missing = [module for module, names in REQUIRED if machine.first_package(names) is None]
    if missing:
        yield Finding("packages", ERROR, f"missing: {', '.join(missing)}", INSTALL)
    torch = machine.package("torch")
    if torch is None:
        yield Finding("torch", ERROR, "not installed", INSTALL)
        return
    if not versions.OLDEST_TORCH <= parse_version(torch)[:2] <= versions.NEWEST_TORCH:
        limits = f"{_dots(versions.OLDEST_TORCH)} to {_dots(versions.NEWEST_TORCH)}"
        yield Finding("torch", WARNING, f"{torch} is not among the tested {limits}", INSTALL)
    numpy = machine.package("numpy")
    if numpy and parse_version(torch)[:2] < (2, 3) and parse_version(numpy)[0] >= 2:
        text = f"torch {torch} is built for numpy 1, this is {numpy}"
        yield Finding("torch", ERROR, text, "python -m pip install 'numpy<2'")
    modules = [module for module, names in REQUIRED if module not in missing]
    problem = machine.import_error("torch", *modules)
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
    if parse_version(torch_npu)[:3] != parse_version(torch)[:3]:
        wanted = _dots(parse_version(torch)[:3])
        yield Finding("torch_npu", ERROR, f"{torch_npu} is made for another torch than {torch}", f"install {wanted}.*")
        return
    problem = machine.import_error("torch", "torch_npu")
    if problem:
        remedy = "source CANN's set_env.sh (or test/env_npu.sh); compare the versions below"
        yield Finding("torch_npu", ERROR, f"{torch_npu} does not import: {problem}", remedy)
    else:
        yield Finding("torch_npu", OK, f"{torch_npu}, imports")
    wanted_cann, found = versions.cann_of_torch_npu(torch_npu), cann_release(machine)
    if wanted_cann is None:
        text = f"no CANN release is known for torch_npu {torch_npu}"
        yield Finding("versions", NOTE, text, "compare with the table in the README of its wheel")
    elif found is not None and release_order(found[0]) < release_order(wanted_cann):
        text = f"torch_npu {torch_npu} belongs to CANN {wanted_cann}, this is the older {found[0]}"
        fitting = [npu for npu, (cann, _) in versions.CANN_OF_TORCH_NPU.items() if cann == found[0]]
        remedy = f"update CANN, or install torch_npu {' or '.join(fitting)}" if fitting else "update CANN"
        yield Finding("versions", WARNING, text, remedy)
    elif found is not None and found[0] != wanted_cann:
        text = f"torch_npu {torch_npu} belongs to CANN {wanted_cann}, this is {found[0]}: not a tested pair"
        yield Finding("versions", WARNING, text, f"prefer CANN {wanted_cann}")
    elif found is not None:
        yield Finding("versions", OK, f"torch {torch}, torch_npu {torch_npu} and CANN {found[0]} belong together")


def _check_mx_driving(machine: Machine, torch: str) -> Iterator[Finding]:
    both = [name for name in ("mx-driving", "mx-driving-a5") if machine.package(name)]
    if len(both) == 2:
        remedy = "uninstall both, then install the one of this chip (Atlas A2: mx-driving)"
        yield Finding("mx_driving", ERROR, "mx-driving and mx-driving-a5 hold the same files", remedy)
        return
    if not both:
        yield Finding("mx_driving", ERROR, "not installed: deformable attention on the NPU needs it", INSTALL_NPU)
        return
    version = machine.package(both[0]) or ""
    fits = versions.mx_driving_fits(version, torch)
    if fits is False:
        wanted = versions.mx_driving_for(torch)
        remedy = f"python -m pip install --no-deps mx-driving=={wanted}" if wanted else "use torch 2.1 to 2.8"
        yield Finding("mx_driving", ERROR, f"{version} is not made for torch {torch}", remedy)
    elif fits is None:
        yield Finding("mx_driving", NOTE, f"{version} is not in the table of tested versions")
    else:
        yield Finding("mx_driving", OK, version)
