"""Checks of the NPUs: device files, driver, firmware, health, CANN."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

from pivotnet.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from pivotnet.doctor.machine import Machine
from pivotnet.doctor.parsers import NpuSmi, parse_assignments, parse_cann_release, parse_npu_smi

MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
CANN_FOLDERS = (
    "/usr/local/Ascend/ascend-toolkit/latest",
    "/usr/local/Ascend/cann",
    "/usr/local/Ascend/latest",
    "/usr/local/Ascend/nnae/latest",
)
_CONTAINER = "in a container start it with --device=/dev/davinci0 ... " + " ".join(f"--device={m}" for m in MANAGERS)


def npu_numbers(machine: Machine) -> list[int]:
    """Numbers of the NPUs that have a device file."""
    names = (path.name for path in machine.path("/dev").glob("davinci*"))
    return sorted(int(name[len("davinci") :]) for name in names if name[len("davinci") :].isdigit())


def has_npu(machine: Machine) -> bool:
    """Whether there is a sign of an NPU."""
    return bool(npu_numbers(machine)) or machine.path(MANAGERS[0]).exists()


def visible_npus(machine: Machine) -> list[int]:
    """Numbers of the NPUs that a training would see."""
    numbers = npu_numbers(machine)
    chosen = machine.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if chosen is None:
        return numbers
    return [number for number in _listed(chosen) if number in numbers]


def _listed(text: str) -> list[int]:
    """Numbers in a list like 0,1,4-7."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match:
            numbers += range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1)
    return numbers


def check_devices(machine: Machine) -> Iterator[Finding]:
    """Device files, who may use them, and what npu-smi says about the chips."""
    numbers = npu_numbers(machine)
    if not has_npu(machine):
        yield Finding("NPU", NOTE, "none here (no /dev/davinci*): training runs on a GPU or the CPU")
        return
    if not numbers:
        remedy = f"look at npu-smi info; {_CONTAINER}"
        yield Finding("NPU", ERROR, "driver is loaded, but there is no /dev/davinciN", remedy)
        return
    missing = [name for name in MANAGERS if not machine.path(name).exists()]
    if missing:
        yield Finding("NPU", ERROR, f"{', '.join(missing)} missing beside {len(numbers)} devices", _CONTAINER)
    locked = [f"/dev/davinci{n}" for n in numbers if not machine.usable(machine.path(f"/dev/davinci{n}"))]
    if locked:
        remedy = "add the user to their group: usermod -aG HwHiAiUser USER, then log in again"
        yield Finding("NPU", ERROR, f"no right to use {', '.join(locked)}", remedy)
    yield from _check_visible(machine, numbers)
    done = machine.run("npu-smi", "info")
    if done is None:
        remedy = "install the driver, or mount /usr/local/bin/npu-smi and /usr/local/Ascend/driver into the container"
        yield Finding("NPU", WARNING, f"{len(numbers)} devices, health unknown: no npu-smi", remedy)
    elif done.status != 0:
        last = (done.text.strip().splitlines() or [""])[-1]
        remedy = "look at dmesg; reload the driver or restart the server"
        yield Finding("NPU", ERROR, f"npu-smi info fails with status {done.status}: {last}", remedy)
    else:
        yield from _check_health(parse_npu_smi(done.text), numbers)


def _check_visible(machine: Machine, numbers: list[int]) -> Iterator[Finding]:
    chosen = machine.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if chosen is None:
        return
    foreign = [number for number in _listed(chosen) if number not in numbers]
    if foreign or not _listed(chosen):
        remedy = f"choose among {','.join(map(str, numbers))}, or unset it"
        yield Finding("NPU", ERROR, f"ASCEND_RT_VISIBLE_DEVICES={chosen} names devices that do not exist", remedy)
    else:
        yield Finding("NPU", NOTE, f"ASCEND_RT_VISIBLE_DEVICES={chosen}: training sees these devices only")


def _check_health(table: NpuSmi, numbers: list[int]) -> Iterator[Finding]:
    if not table.devices:
        yield Finding("NPU", WARNING, "npu-smi info prints no device", "compare driver and firmware versions")
        return
    ill = [device for device in table.devices if device.health.upper() != "OK"]
    for device in ill:
        status = WARNING if device.health.upper() == "WARNING" else ERROR
        remedy = f"npu-smi info -t health -i {device.number}; restart the server, else report to the vendor"
        yield Finding("NPU", status, f"device {device.number} ({device.name}): health {device.health}", remedy)
    gone = sorted(set(numbers) - {device.number for device in table.devices})
    if gone:
        text = f"device(s) {', '.join(map(str, gone))} have a file but npu-smi does not list them"
        yield Finding("NPU", ERROR, text, "look at dmesg; restart the server")
    for number, process, name in table.processes:
        text = f"device {number} is in use by process {process} ({name})"
        yield Finding("NPU", WARNING, text, "wait for it, or choose others: ASCEND_RT_VISIBLE_DEVICES")
    if not ill and not gone:
        first = table.devices[0]
        memory = f", {first.memory_total // 1024} GiB each" if first.memory_total else ""
        yield Finding("NPU", OK, f"{len(table.devices)} x {first.name}{memory}, health OK")


def check_driver(machine: Machine) -> Iterator[Finding]:
    """Driver and firmware."""
    if not has_npu(machine):
        return
    install = parse_assignments(machine.read("/etc/ascend_install.info") or "")
    for part, key in (("driver", "Driver_Install_Path_Param"), ("firmware", "Firmware_Install_Path_Param")):
        folder = install.get(key, "/usr/local/Ascend").rstrip("/")
        version = parse_assignments(machine.read(f"{folder}/{part}/version.info") or "").get("Version")
        if version:
            yield Finding(part, OK, version)
        elif part == "driver":
            remedy = "install it, or mount /usr/local/Ascend/driver into the container (read-only)"
            yield Finding(part, ERROR, f"{folder}/{part}/version.info cannot be read", remedy)
        else:  # containers have no firmware folder
            yield Finding(part, NOTE, f"version unknown: no {folder}/{part}/version.info")


def cann_release(machine: Machine) -> Optional[tuple[str, str]]:
    """Release of CANN and its folder: the one in the environment, else an installed one."""
    chosen = [machine.environ[key] for key in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME") if machine.environ.get(key)]
    for folder in (*chosen, *CANN_FOLDERS):
        names = [f"{folder}/{machine.architecture}-linux/ascend_toolkit_install.info", f"{folder}/version.cfg"]
        names.append(f"{folder}/ascend_toolkit_install.info")
        for name in names:
            release = parse_cann_release(machine.read(name) or "")
            if release:
                return release, folder
    return None


def check_cann(machine: Machine) -> Iterator[Finding]:
    """CANN is there and in the environment."""
    if not has_npu(machine):
        return
    found = cann_release(machine)
    active = machine.environ.get("ASCEND_HOME_PATH")
    if found is None:
        where = f"ASCEND_HOME_PATH={active}" if active else "/usr/local/Ascend"
        remedy = "install CANN toolkit and the kernels of this chip, then source its set_env.sh"
        yield Finding("CANN", ERROR, f"none found ({where})", remedy)
        return
    release, folder = found
    if active and not machine.path(active).is_dir():
        yield Finding("CANN", ERROR, f"ASCEND_HOME_PATH={active} does not exist", "source the set_env.sh of this CANN")
    elif not active:
        remedy = "source test/env_npu.sh (the run scripts do so)"
        yield Finding("CANN", WARNING, f"{release} in {folder}, not in this environment", remedy)
    else:
        yield Finding("CANN", OK, f"{release} in {folder}")
    kernels = machine.path(f"{folder}/opp")
    if not kernels.exists():
        yield Finding("CANN", ERROR, f"{folder}/opp is missing: no operators", "install the CANN kernels of this chip")
