"""Checks of the NPUs: device files, health, driver, CANN, HCCL and the environment, from what vendor tools print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pivotnet.doctor.machine import ERROR, NOTE, OK, WARNING, Finding, Machine
from pivotnet.doctor.versions import normal_release

MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
CANN_FOLDERS = tuple(f"/usr/local/Ascend/{name}" for name in ("ascend-toolkit/latest", "cann", "latest", "nnae/latest"))
CONNECT_LIMITS = (120, 7200)  # seconds that HCCL_CONNECT_TIMEOUT accepts
EXEC_DEFAULT, EVENT_DEFAULT = 1800, 1868  # seconds
_CONTAINER = "in a container start it with --device=/dev/davinci0 ... " + " ".join(f"--device={m}" for m in MANAGERS)


def npu_numbers(machine: Machine) -> list[int]:
    """Numbers of the NPUs that have a device file."""
    names = (path.name.removeprefix("davinci") for path in machine.path("/dev").glob("davinci*"))
    return sorted(int(name) for name in names if name.isdigit())


def has_npu(machine: Machine) -> bool:
    """Whether there is a sign of an NPU."""
    return bool(npu_numbers(machine)) or machine.path(MANAGERS[0]).exists()


def visible_npus(machine: Machine) -> list[int]:
    """Numbers of the NPUs that a training would see."""
    numbers = npu_numbers(machine)
    chosen = machine.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    return numbers if chosen is None else [number for number in _listed(chosen) if number in numbers]


def _listed(text: str) -> list[int]:
    """Numbers in a list like 0,1,4-7."""
    found = re.findall(r"(?:^|,)\s*(\d+)(?:-(\d+))?\s*(?=,|$)", text)
    return [number for first, last in found for number in range(int(first), int(last or first) + 1)]


def _joined(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


# ---- readers of vendor tools' output; they never fail on other text ----


@dataclass(frozen=True)
class Npu:
    """One chip in ``npu-smi info``. Memory in MB."""

    number: int
    name: str
    health: str
    memory_used: int = 0
    memory_total: int = 0


def parse_npu_smi(text: str) -> tuple[list[Npu], list[tuple[int, int, str]]]:
    """Devices, and processes as (NPU, process number, name), in the table of ``npu-smi info``.

    A device has two rows: number, name and health, then chip, bus and memory, whose last "used / total" is the HBM's.
    """
    devices: list[Npu] = []
    processes: list[tuple[int, int, str]] = []
    first: tuple[int, str, str] | None = None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.strip().startswith("|") else []
        if len(cells) == 3:
            head = re.fullmatch(r"(\d+)\s+(\S.*)", cells[0])
            if head and re.fullmatch(r"[A-Za-z]\w*", cells[1]):
                first = (int(head.group(1)), head.group(2).strip(), cells[1])
            elif first is not None and re.search(r"[0-9A-Fa-f]+:[0-9A-Fa-f]+", cells[1]):
                used, total = [("0", "0"), *re.findall(r"(\d+)\s*/\s*(\d+)", cells[2])][-1]
                devices.append(Npu(*first, int(used), int(total)))
                first = None
        elif len(cells) == 4 and cells[1].isdigit():
            number = re.match(r"\d+", cells[0])
            if number:
                processes.append((int(number.group()), int(cells[1]), cells[2]))
    return devices, processes


def parse_assignments(text: str) -> dict[str, str]:
    """``key=value`` lines, as in version.info, install.info and hccn.conf; comments and other lines are left out."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def parse_cann_release(text: str) -> str | None:
    """The release in CANN's version.cfg (``toolkit_running_version=[7.6.0.1.220:8.0.0]``) or *_install.info
    (``version=8.1.RC1``), as in 8.1.RC1."""
    values = parse_assignments(text)
    for key in ("toolkit_running_version", "runtime_running_version", "compiler_running_version"):
        if key in values:
            return normal_release(values[key].strip("[]").split(":")[-1])
    return normal_release(values["version"]) if values.get("version") else None


def parse_link_status(text: str) -> str | None:
    """UP or DOWN in ``hccn_tool -i N -link -g``; None for other text."""
    match = re.search(r"link status\s*:\s*(\w+)", text, re.IGNORECASE)
    return match.group(1).upper() if match else None


# ---- checks ----


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
    chosen = machine.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if chosen is not None:
        if set(_listed(chosen)) - set(numbers) or not _listed(chosen):
            remedy = f"choose among {','.join(map(str, numbers))}, or unset it"
            yield Finding("NPU", ERROR, f"ASCEND_RT_VISIBLE_DEVICES={chosen} names devices that do not exist", remedy)
        else:
            yield Finding("NPU", NOTE, f"ASCEND_RT_VISIBLE_DEVICES={chosen}: training sees these devices only")
    done = machine.run("npu-smi", "info")
    if done is None:
        remedy = "install the driver, or mount /usr/local/bin/npu-smi and /usr/local/Ascend/driver into the container"
        yield Finding("NPU", WARNING, f"{len(numbers)} devices, health unknown: no npu-smi", remedy)
    elif done.status != 0:
        last = (done.text.strip().splitlines() or [""])[-1]
        remedy = "look at dmesg; reload the driver or restart the server"
        yield Finding("NPU", ERROR, f"npu-smi info fails with status {done.status}: {last}", remedy)
    else:
        yield from _check_health(done.text, numbers)


def _check_health(npu_smi: str, numbers: list[int]) -> Iterator[Finding]:
    devices, processes = parse_npu_smi(npu_smi)
    if not devices:
        yield Finding("NPU", WARNING, "npu-smi info prints no device", "compare driver and firmware versions")
        return
    ill = [device for device in devices if device.health.upper() != "OK"]
    for device in ill:
        status = WARNING if device.health.upper() == "WARNING" else ERROR
        remedy = f"npu-smi info -t health -i {device.number}; restart the server, else report to the vendor"
        yield Finding("NPU", status, f"device {device.number} ({device.name}): health {device.health}", remedy)
    gone = sorted(set(numbers) - {device.number for device in devices})
    if gone:
        text = f"device(s) {_joined(gone)} have a file but npu-smi does not list them"
        yield Finding("NPU", ERROR, text, "look at dmesg; restart the server")
    for number, process, name in processes:
        text = f"device {number} is in use by process {process} ({name})"
        yield Finding("NPU", WARNING, text, "wait for it, or choose others: ASCEND_RT_VISIBLE_DEVICES")
    if not ill and not gone:
        memory = f", {devices[0].memory_total // 1024} GiB each" if devices[0].memory_total else ""
        yield Finding("NPU", OK, f"{len(devices)} x {devices[0].name}{memory}, health OK")


def check_driver(machine: Machine) -> Iterator[Finding]:
    """Driver and firmware."""
    if not has_npu(machine):
        return
    install = parse_assignments(machine.read("/etc/ascend_install.info") or "")
    for part in ("driver", "firmware"):
        folder = install.get(f"{part.capitalize()}_Install_Path_Param", "/usr/local/Ascend").rstrip("/")
        version = parse_assignments(machine.read(f"{folder}/{part}/version.info") or "").get("Version")
        if version:
            yield Finding(part, OK, version)
        elif part == "driver":
            remedy = "install it, or mount /usr/local/Ascend/driver into the container (read-only)"
            yield Finding(part, ERROR, f"{folder}/{part}/version.info cannot be read", remedy)
        else:  # containers have no firmware folder
            yield Finding(part, NOTE, f"version unknown: no {folder}/{part}/version.info")


def cann_release(machine: Machine) -> tuple[str, str] | None:
    """Release of CANN and its folder: the one in the environment, else an installed one."""
    chosen = [machine.environ[key] for key in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME") if machine.environ.get(key)]
    info = "ascend_toolkit_install.info"
    for folder in (*chosen, *CANN_FOLDERS):
        for name in (f"{machine.architecture}-linux/{info}", "version.cfg", info):
            release = parse_cann_release(machine.read(f"{folder}/{name}") or "")
            if release:
                return release, folder
    return None


def check_cann(machine: Machine) -> Iterator[Finding]:
    """CANN is there and in the environment."""
    if not has_npu(machine):
        return
    found, active = cann_release(machine), machine.environ.get("ASCEND_HOME_PATH")
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
    if not machine.path(f"{folder}/opp").exists():
        yield Finding("CANN", ERROR, f"{folder}/opp is missing: no operators", "install the CANN kernels of this chip")


def check_hccl(machine: Machine) -> Iterator[Finding]:
    """Addresses, time limits and, with several machines, the cards' own network."""
    if not has_npu(machine):
        return
    get = machine.environ.get
    done = machine.run("hostname", "-I")
    own = done.text.split() if done is not None and done.status == 0 else []
    address = get("HCCL_IF_IP")
    if address is None:
        remedy = f"source test/env_npu.sh, or export HCCL_IF_IP={own[0] if own else 'ADDRESS_OF_THIS_HOST'}"
        yield Finding("HCCL", NOTE, "HCCL_IF_IP is not set: HCCL takes the first network card", remedy)
    elif own and address not in own:
        text = f"HCCL_IF_IP={address} is no address of this host ({', '.join(own[:4])})"
        yield Finding("HCCL", ERROR, text, "the start would hang: unset it, or set one of these")
    else:
        yield Finding("HCCL", OK, f"HCCL_IF_IP={address}")
    limit, (low, high) = get("HCCL_CONNECT_TIMEOUT"), CONNECT_LIMITS
    if limit is not None and not (limit.isdigit() and low <= int(limit) <= high):
        yield Finding("HCCL", ERROR, f"HCCL_CONNECT_TIMEOUT={limit} is not in {low}..{high} s", "set it to 1200")
    execution, event = (
        int(text) if (text := get(f"HCCL_{name}_TIMEOUT", "")).isdigit() else default
        for name, default in (("EXEC", EXEC_DEFAULT), ("EVENT", EVENT_DEFAULT))
    )
    if event <= execution:
        text = f"HCCL_EVENT_TIMEOUT ({event} s) does not exceed HCCL_EXEC_TIMEOUT ({execution} s)"
        yield Finding("HCCL", WARNING, text, f"set HCCL_EVENT_TIMEOUT={execution + 68}")
    yield from _check_network(machine)


def _check_network(machine: Machine) -> Iterator[Finding]:
    """The cards' RoCE ports: needed between machines, not within one."""
    several = machine.environ.get("NNODES", "1") not in ("", "1")
    visible = visible_npus(machine)
    configured = parse_assignments(machine.read("/etc/hccn.conf") or "")
    without = [number for number in visible if f"address_{number}" not in configured]
    if without:
        text = f"no address in /etc/hccn.conf for device(s) {_joined(without)} (needed between machines)"
        remedy = "hccn_tool -i N -ip -s address ADDRESS netmask MASK, for each device"
        yield Finding("HCCL", ERROR if several else NOTE, text, remedy)
        return
    outputs = [machine.run("hccn_tool", "-i", str(number), "-link", "-g") for number in visible]
    links = [None if output is None else parse_link_status(output.text) for output in outputs]
    down = [number for number, link in zip(visible, links) if link != "UP"]
    if None in outputs:
        yield Finding("HCCL", NOTE, "no hccn_tool: the cards' links were not looked at")
    elif down:
        remedy = "look at cables, optical modules and the switch (needed between machines)"
        yield Finding("HCCL", ERROR if several else WARNING, f"link of device(s) {_joined(down)} is not up", remedy)
    else:
        yield Finding("HCCL", OK, f"links of {len(visible)} devices are up")


def check_variables(machine: Machine) -> Iterator[Finding]:
    """Variables that slow training down or stop it."""
    if not has_npu(machine):
        return
    get = machine.environ.get
    queue, level = get("TASK_QUEUE_ENABLE"), get("ASCEND_GLOBAL_LOG_LEVEL")
    if get("ASCEND_LAUNCH_BLOCKING", "0") == "1":
        text = "ASCEND_LAUNCH_BLOCKING=1: the host waits for every operator, TASK_QUEUE_ENABLE is void"
        yield Finding("environment", WARNING, text, "unset it unless you look for a failing operator")
    elif queue not in (None, "2"):
        text = f"TASK_QUEUE_ENABLE={queue}: the host side is the bottleneck of this training"
        yield Finding("environment", WARNING, text, "export TASK_QUEUE_ENABLE=2")
    if level in ("0", "1", "2"):
        text = f"ASCEND_GLOBAL_LOG_LEVEL={level}: logging below errors slows the host"
        yield Finding("environment", WARNING, text, "export ASCEND_GLOBAL_LOG_LEVEL=3")
    if get("ASCEND_SLOG_PRINT_TO_STDOUT", "0") == "1":
        yield Finding("environment", WARNING, "ASCEND_SLOG_PRINT_TO_STDOUT=1: logs go to the console", "set it to 0")
    if queue is None:
        text = "the variables of test/env_npu.sh are not set here"
        yield Finding("environment", NOTE, text, "source test/env_npu.sh (the run scripts do so)")
