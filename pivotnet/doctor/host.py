"""Checks of the host, of Python, and of its packages: importable, and fitting each other, CANN and this code."""

from collections.abc import Iterator
from pathlib import Path

from pivotnet.doctor import versions
from pivotnet.doctor.machine import ERROR, NOTE, WARNING, Finding, Machine, error, note, ok, warning
from pivotnet.doctor.npu import cann_release, has_npu, visible_npus
from pivotnet.doctor.versions import dotted, parse_version, release_order

GIB = 1 << 30
# Loader workers hand batches over in shared memory: a batch of six 512 x 896 images takes 8 MiB, with its targets and
# two batches in waiting for each of some workers about 100 MiB a rank.
SHM_LEAST, SHM_GOOD = 256 << 20, 8 * GIB
DISK_LEAST, DISK_GOOD = 1 * GIB, 10 * GIB  # three checkpoints of Swin-T take 1.5 GiB
CORES_PER_RANK = 4  # the rank's own thread, autograd's, and loader workers
TCMALLOC_FOLDERS = ("usr/local/lib/lib", "usr/local/lib*", "usr/lib64", "usr/lib/*-linux-gnu")
# modules that training imports, and the distributions that bring them
REQUIRED = {
    **{name: (name,) for name in ("numpy", "scipy", "shapely", "rich", "tensorboard", "matplotlib")},
    "cv2": ("opencv-python-headless", "opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "PIL": ("pillow",),
}
INSTALL = "python -m pip install -r requirements.txt"
INSTALL_NPU = "python -m pip install --no-deps -r requirements-npu.txt"


def check_cores(machine: Machine) -> Iterator[Finding]:
    """Cores, those that this process may use, and what the ranks make of them."""
    count, usable = machine.cores, machine.usable_cores
    text = f"{count} ({machine.architecture})"
    if usable < count:
        remedy = "start without taskset, or give the container more cores; CPU_AFFINITY_CONF is void under taskset"
        yield Finding(WARNING if usable * 2 < count else NOTE, "cores", f"{text}, only {usable} usable here", remedy)
    else:
        yield ok("cores", text)
    ranks = len(visible_npus(machine)) if has_npu(machine) else 0
    if ranks and usable < CORES_PER_RANK * ranks:
        text = f"{usable} cores for {ranks} ranks: the host side will be the bottleneck"
        yield warning("cores", text, f"use at most {max(1, usable // CORES_PER_RANK)} cards (--cards)")
    threads = machine.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and ranks and int(threads) * ranks > usable:
        text = f"OMP_NUM_THREADS={threads} x {ranks} ranks is more than {usable} cores"
        yield warning("cores", text, f"export OMP_NUM_THREADS={max(1, usable // ranks)}")


def check_shared_memory(machine: Machine) -> Iterator[Finding]:
    """/dev/shm: loader workers die of a bus error when it is full."""
    space = machine.free_space(machine.path("/dev/shm"))
    if space is None:
        return
    total, free = space
    text = f"/dev/shm has {total / GIB:.2f} GiB, {free / GIB:.2f} free"
    remedy = "start the container with --shm-size=16g (or --ipc=host), or train with -- --workers 0"
    if free < SHM_LEAST:
        yield error("shared memory", f"{text}: loader workers would die", remedy)
    elif has_npu(machine) and total < SHM_GOOD:
        yield warning("shared memory", text, remedy)
    else:
        yield ok("shared memory", text)


def check_disk(machine: Machine, output: Path) -> Iterator[Finding]:
    space = machine.free_space(output)
    if space is None:
        return
    free = space[1]
    text = f"{free / GIB:.1f} GiB free for {output}"
    if free < DISK_LEAST:
        yield error("disk", f"{text}: too little for checkpoints", "free some space, or choose another --output")
    elif free < DISK_GOOD:
        yield warning("disk", f"{text}: three checkpoints and result files may fill it", "free some space")
    else:
        yield ok("disk", text)


def check_tcmalloc(machine: Machine) -> Iterator[Finding]:
    preloaded = machine.environ.get("LD_PRELOAD", "").replace(":", " ").split()
    gone = [name for name in preloaded if name.startswith("/") and not machine.path(name).exists()]
    active = [name for name in preloaded if "libtcmalloc" in name]
    found = sorted(str(path) for folder in TCMALLOC_FOLDERS for path in machine.root.glob(f"{folder}/libtcmalloc*.so*"))
    if gone:
        text = f"LD_PRELOAD names {', '.join(gone)}, which does not exist"
        yield warning("tcmalloc", text, "unset LD_PRELOAD, then source test/env_npu.sh")
    elif active:
        yield ok("tcmalloc", f"preloaded: {active[0]}")
    elif found:
        remedy = "source test/env_npu.sh (the run scripts do so)"
        yield note("tcmalloc", f"{found[0]} is there, not preloaded in this environment", remedy)
    else:
        remedy = "Ubuntu: apt-get install libtcmalloc-minimal4; openEuler: docs/installation.md"
        yield Finding(WARNING if has_npu(machine) else NOTE, "tcmalloc", "not found: steps take longer", remedy)


def check_python(machine: Machine) -> Iterator[Finding]:
    oldest, newest = versions.PYTHON
    text = f"{dotted(machine.python)} on {machine.architecture}"
    if oldest <= machine.python <= newest:
        yield ok("Python", text)
    else:
        text += f" is not among the tested {dotted(oldest)} to {dotted(newest)}"
        yield Finding(ERROR if machine.python < oldest else WARNING, "Python", text, "make an environment with 3.11")
    options = {"LTO": "--with-lto", "PGO": "--enable-optimizations"}
    missing = [name for name, option in options.items() if option not in machine.python_build]
    if missing:
        text = f"built without {' and '.join(missing)}: a slower host side"
        remedy = "build Python --with-lto --enable-optimizations: docs/installation.md"
        yield Finding(WARNING if has_npu(machine) else NOTE, "Python", text, remedy)
    else:
        yield ok("Python", "built with LTO and PGO")


def check_packages(machine: Machine) -> Iterator[Finding]:
    missing = [module for module, names in REQUIRED.items() if not any(map(machine.package, names))]
    if missing:
        yield error("packages", f"missing: {', '.join(missing)}", INSTALL)
    torch, numpy = machine.package("torch"), machine.package("numpy")
    if torch is None:
        yield error("torch", "not installed", INSTALL)
        return
    oldest, newest = versions.TORCH
    if not oldest <= parse_version(torch)[:2] <= newest:
        yield warning("torch", f"{torch} is not among the tested {dotted(oldest)} to {dotted(newest)}", INSTALL)
    if numpy and parse_version(torch)[:2] < (2, 3) and parse_version(numpy)[0] >= 2:
        remedy = "python -m pip install 'numpy<2'"
        yield error("torch", f"torch {torch} is built for numpy 1, this is {numpy}", remedy)
    problem = machine.import_error("torch", *(module for module in REQUIRED if module not in missing))
    if problem:
        remedy = "install CANN and source its set_env.sh, or uninstall torch_npu" if "libhccl" in problem else INSTALL
        yield error("torch", f"{torch}, but importing it and the packages fails: {problem}", remedy)
    else:
        yield ok("torch", f"{torch}, numpy {numpy or '-'}; all packages import")


def check_npu_packages(machine: Machine) -> Iterator[Finding]:
    """torch_npu and mx_driving: there, and fitting torch, Python and CANN."""
    torch, torch_npu = machine.package("torch"), machine.package("torch_npu")
    if not has_npu(machine):
        if torch_npu:
            text = f"torch_npu {torch_npu} is installed, but there is no NPU: torch tries to load it"
            yield warning("torch_npu", text, "python -m pip uninstall torch-npu, or use another environment")
        return
    if torch is None:
        return
    if torch_npu is None:
        yield error("torch_npu", "not installed: training would run on the CPU", INSTALL_NPU)
    elif parse_version(torch_npu)[:3] != (wanted := parse_version(torch)[:3]):
        yield error("torch_npu", f"{torch_npu} is made for another torch than {torch}", f"install {dotted(wanted)}.*")
    else:
        yield from _check_torch_npu(machine, torch, torch_npu)
    yield from _check_mx_driving(machine, torch)


def _check_torch_npu(machine: Machine, torch: str, torch_npu: str) -> Iterator[Finding]:
    problem = machine.import_error("torch", "torch_npu")
    if problem:
        remedy = "source CANN's set_env.sh (or test/env_npu.sh); compare the versions below"
        yield error("torch_npu", f"{torch_npu} does not import: {problem}", remedy)
    else:
        yield ok("torch_npu", f"{torch_npu}, imports")
    wanted, found = versions.cann_for(torch_npu), cann_release(machine)
    belongs = f"torch_npu {torch_npu} belongs to CANN {wanted}, this is"
    if wanted is None:
        text = f"no CANN release is known for torch_npu {torch_npu}"
        yield note("versions", text, "compare with the table in the README of its wheel")
    elif found is None:
        return  # check_cann reports it
    elif found[0] == wanted:
        yield ok("versions", f"torch {torch}, torch_npu {torch_npu} and CANN {wanted} belong together")
    elif release_order(found[0]) < release_order(wanted):
        fitting = versions.TORCH_NPU_OF_CANN.get(found[0], ())
        remedy = f"update CANN, or install torch_npu {' or '.join(fitting)}" if fitting else "update CANN"
        yield warning("versions", f"{belongs} the older {found[0]}", remedy)
    else:
        yield warning("versions", f"{belongs} {found[0]}: not a tested pair", f"prefer CANN {wanted}")


def _check_mx_driving(machine: Machine, torch: str) -> Iterator[Finding]:
    found = [version for name in ("mx-driving", "mx-driving-a5") if (version := machine.package(name))]
    if len(found) == 2:
        remedy = "uninstall both, then install the one of this chip (Atlas A2: mx-driving)"
        yield error("mx_driving", "mx-driving and mx-driving-a5 hold the same files", remedy)
    elif not found:
        yield error("mx_driving", "not installed: deformable attention on the NPU needs it", INSTALL_NPU)
    elif found[0] not in versions.TORCH_OF_MX_DRIVING:
        yield note("mx_driving", f"{found[0]} is not in the table of tested versions")
    elif found[0] == (wanted := versions.mx_driving_for(torch)):
        yield ok("mx_driving", found[0])
    else:
        remedy = f"python -m pip install --no-deps mx-driving=={wanted}" if wanted else "use torch 2.1 to 2.8"
        yield error("mx_driving", f"{found[0]} is not made for torch {torch}", remedy)
