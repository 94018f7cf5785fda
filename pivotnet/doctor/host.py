"""Checks of the host: cores, threads, shared memory, disk, tcmalloc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pivotnet.doctor.machine import ERROR, NOTE, OK, WARNING, Finding, Machine
from pivotnet.doctor.npu import has_npu, visible_npus

GIB = 1 << 30
# Loader workers hand batches over in shared memory: a batch of six 512 x 896 images takes 8 MiB, with its targets and
# two batches in waiting for each of some workers about 100 MiB a rank.
SHM_LEAST, SHM_GOOD = 256 << 20, 8 * GIB
DISK_LEAST, DISK_GOOD = 1 * GIB, 10 * GIB  # three checkpoints of Swin-T take 1.5 GiB
CORES_PER_RANK = 4  # the rank's own thread, autograd's, and loader workers
TCMALLOC_PATTERNS = (
    "usr/local/lib/lib/libtcmalloc*.so*",
    "usr/local/lib*/libtcmalloc*.so*",
    "usr/lib64/libtcmalloc*.so*",
    "usr/lib/*-linux-gnu/libtcmalloc*.so*",
)


def check_cores(machine: Machine) -> Iterator[Finding]:
    """Cores, those that this process may use, and what the ranks make of them."""
    count, usable = machine.cores
    lscpu = machine.run("lscpu")
    lines = lscpu.text.splitlines() if lscpu is not None and lscpu.status == 0 else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    nodes = f", {facts['NUMA node(s)']} NUMA nodes" if "NUMA node(s)" in facts else ""
    text = f"{count} ({facts.get('Model name', machine.architecture)}{nodes})"
    if usable < count:
        remedy = "start without taskset, or give the container more cores; CPU_AFFINITY_CONF is void under taskset"
        yield Finding("cores", WARNING if usable * 2 < count else NOTE, f"{text}, only {usable} usable here", remedy)
    else:
        yield Finding("cores", OK, text)
    ranks = len(visible_npus(machine)) if has_npu(machine) else 0
    if ranks and usable < CORES_PER_RANK * ranks:
        text = f"{usable} cores for {ranks} ranks: the host side will be the bottleneck"
        yield Finding("cores", WARNING, text, f"use at most {max(1, usable // CORES_PER_RANK)} cards (--cards)")
    threads = machine.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and ranks and int(threads) * ranks > usable:
        text = f"OMP_NUM_THREADS={threads} x {ranks} ranks is more than {usable} cores"
        yield Finding("cores", WARNING, text, f"export OMP_NUM_THREADS={max(1, usable // ranks)}")


def check_shared_memory(machine: Machine) -> Iterator[Finding]:
    """/dev/shm: loader workers die of a bus error when it is full."""
    space = machine.free_space(machine.path("/dev/shm"))
    if space is None:
        return
    total, free = space
    text = f"{total / GIB:.2f} GiB, {free / GIB:.2f} free"
    remedy = "start the container with --shm-size=16g (or --ipc=host), or train with -- --workers 0"
    if free < SHM_LEAST:
        yield Finding("shared memory", ERROR, f"/dev/shm has {text}: loader workers would die", remedy)
    elif has_npu(machine) and total < SHM_GOOD:
        yield Finding("shared memory", WARNING, f"/dev/shm has {text}", remedy)
    else:
        yield Finding("shared memory", OK, f"/dev/shm has {text}")


def check_disk(machine: Machine, output: Path) -> Iterator[Finding]:
    """Free space where outputs go."""
    space = machine.free_space(output)
    if space is None:
        return
    free = space[1]
    text = f"{free / GIB:.1f} GiB free for {output}"
    if free < DISK_LEAST:
        remedy = "free some space, or choose another --output"
        yield Finding("disk", ERROR, f"{text}: too little for checkpoints", remedy)
    elif free < DISK_GOOD:
        yield Finding("disk", WARNING, f"{text}: three checkpoints and result files may fill it", "free some space")
    else:
        yield Finding("disk", OK, text)


def check_tcmalloc(machine: Machine) -> Iterator[Finding]:
    """tcmalloc: preloaded, there to be preloaded, or missing."""
    preloaded = [name for name in machine.environ.get("LD_PRELOAD", "").replace(" ", ":").split(":") if name]
    gone = [name for name in preloaded if name.startswith("/") and not machine.path(name).exists()]
    if gone:
        text = f"LD_PRELOAD names {', '.join(gone)}, which does not exist"
        yield Finding("tcmalloc", WARNING, text, "unset LD_PRELOAD, then source test/env_npu.sh")
        return
    active = [name for name in preloaded if "libtcmalloc" in name]
    if active:
        yield Finding("tcmalloc", OK, f"preloaded: {active[0]}")
        return
    found = sorted(str(path) for pattern in TCMALLOC_PATTERNS for path in machine.root.glob(pattern))
    if found:
        remedy = "source test/env_npu.sh (the run scripts do so)"
        yield Finding("tcmalloc", NOTE, f"{found[0]} is there, not preloaded in this environment", remedy)
    else:
        status = WARNING if has_npu(machine) else NOTE
        remedy = "Ubuntu: apt-get install libtcmalloc-minimal4; openEuler: docs/installation.md"
        yield Finding("tcmalloc", status, "not found: steps take longer", remedy)
