"""Checks of the host: cores, threads, shared memory, disk, tcmalloc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pivotnet.doctor.machine import NOTE, WARNING, Finding, Machine, error, note, ok, warning
from pivotnet.doctor.npu import has_npu, visible_npus

GIB = 1 << 30
# Loader workers hand batches over in shared memory: a batch of six 512 x 896 images takes 8 MiB, with its targets and
# two batches in waiting for each of some workers about 100 MiB a rank.
SHM_LEAST, SHM_GOOD = 256 << 20, 8 * GIB
DISK_LEAST, DISK_GOOD = 1 * GIB, 10 * GIB  # three checkpoints of Swin-T take 1.5 GiB
CORES_PER_RANK = 4  # the rank's own thread, autograd's, and loader workers
TCMALLOC_FOLDERS = ("usr/local/lib/lib", "usr/local/lib*", "usr/lib64", "usr/lib/*-linux-gnu")


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
    """Free space where outputs go."""
    space = machine.free_space(output)
    if space is None:
        return
    text = f"{space[1] / GIB:.1f} GiB free for {output}"
    if space[1] < DISK_LEAST:
        remedy = "free some space, or choose another --output"
        yield error("disk", f"{text}: too little for checkpoints", remedy)
    elif space[1] < DISK_GOOD:
        yield warning("disk", f"{text}: three checkpoints and result files may fill it", "free some space")
    else:
        yield ok("disk", text)


def check_tcmalloc(machine: Machine) -> Iterator[Finding]:
    """tcmalloc: preloaded, there to be preloaded, or missing."""
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
