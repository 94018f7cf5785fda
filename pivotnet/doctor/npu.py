"""Checks of the NPUs: device files, health, driver, CANN, HCCL and the environment, from what vendor tools print."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from pivotnet.doctor.machine import ERROR, NOTE, WARNING, Finding, Machine, error, note, ok, warning
from pivotnet.doctor.versions import normal_release
from pivotnet.limits import OLD_CANN

MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
CANN_FOLDERS = tuple(f"/usr/local/Ascend/{name}" for name in ("ascend-toolkit/latest", "cann", "latest", "nnae/latest"))
CONNECT_LIMITS = (120, 7200)  # seconds that HCCL_CONNECT_TIMEOUT accepts
EXEC_DEFAULT, EVENT_DEFAULT = 1800, 1868  # seconds
# variable: (values that are fine, the best first, and what any other does)
SLOW_VARIABLES = {
    "ASCEND_LAUNCH_BLOCKING": (("0",), "the host waits for every operator, TASK_QUEUE_ENABLE is void"),
    "TASK_QUEUE_ENABLE": (("2",), "the host side is the bottleneck of this training"),
    "ASCEND_GLOBAL_LOG_LEVEL": (("3", "4"), "logging below errors slows the host"),
    "ASCEND_SLOG_PRINT_TO_STDOUT": (("0",), "logs go to the console"),
}
_SOURCE = "source test/env_npu.sh (the run scripts do so)"
_CONTAINER = "in a container start it with --device=/dev/davinci0 ... " + " ".join(f"--device={m}" for m in MANAGERS)


def npu_numbers(machine: Machine) -> list[int]:
    """Numbers of the NPUs that have a device file."""
    names = (path.name.removeprefix("davinci") for path in machine.path("/dev").glob("davinci*"))
    return sorted(int(name) for name in names if name.isdigit())


def has_npu(machine: Machine) -> bool:
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


# ---- readers of vendor tools' output; they never fail on other text ----

# A device has two rows: number, name and health, then chip, bus and memory, whose last "used / total" is the HBM's.
_DEVICE = re.compile(
    r"^\s*\|\s*(\d+)\s+(\S[^|\n]*?)\s*\|\s*([A-Za-z]\w*)\s*\|[^|\n]*\|\s*\n"
    r"\s*\|[^|\n]*\|\s*[0-9A-Fa-f]+:[0-9A-Fa-f][^|\n]*\|([^|\n]*)\|\s*$",
    re.MULTILINE,
)
_PROCESS = re.compile(r"^\s*\|\s*(\d+)[^|\n]*\|\s*(\d+)\s*\|\s*([^|\n]*?)\s*\|[^|\n]*\|\s*$", re.MULTILINE)


class Npu(NamedTuple):
    """One chip in ``npu-smi info``."""

    number: int
    name: str
    health: str
    memory: int  # MB


def parse_npu_smi(text: str) -> tuple[list[Npu], list[tuple[int, int, str]]]:
    """Devices, and processes as (NPU, process number, name), in the tables of ``npu-smi info``."""
    devices = [
        Npu(int(number), name, health, int(["0", *re.findall(r"\d\s*/\s*(\d+)", memory)][-1]))
        for number, name, health, memory in _DEVICE.findall(text)
    ]
    return devices, [(int(number), int(process), name) for number, process, name in _PROCESS.findall(text)]


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


# ---- checks; examination.py asks all but the first only where there is an NPU ----


def check_devices(machine: Machine) -> Iterator[Finding]:
    """Device files, who may use them, and what npu-smi says about the chips."""
    numbers = npu_numbers(machine)
    if not has_npu(machine):
        yield note("NPU", "none here (no /dev/davinci*): training runs on a GPU or the CPU")
        return
    if not numbers:
        yield error("NPU", "driver is loaded, but there is no /dev/davinciN", f"look at npu-smi info; {_CONTAINER}")
        return
    missing = [name for name in MANAGERS if not machine.path(name).exists()]
    if missing:
        yield error("NPU", f"{', '.join(missing)} missing beside {len(numbers)} devices", _CONTAINER)
    locked = [f"/dev/davinci{n}" for n in numbers if not machine.usable(machine.path(f"/dev/davinci{n}"))]
    if locked:
        remedy = "add the user to their group: usermod -aG HwHiAiUser USER, then log in again"
        yield error("NPU", f"no right to use {', '.join(locked)}", remedy)
    chosen = machine.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if chosen is not None:
        text = f"ASCEND_RT_VISIBLE_DEVICES={chosen}"
        if set(_listed(chosen)) - set(numbers) or not _listed(chosen):
            remedy = f"choose among {','.join(map(str, numbers))}, or unset it"
            yield error("NPU", f"{text} names devices that do not exist", remedy)
        else:
            yield note("NPU", f"{text}: training sees these devices only")
    done = machine.run("npu-smi", "info")
    if done is None:
        remedy = "install the driver, or mount /usr/local/bin/npu-smi and /usr/local/Ascend/driver into the container"
        yield warning("NPU", f"{len(numbers)} devices, health unknown: no npu-smi", remedy)
    elif done[0]:
        last = (done[1].strip().splitlines() or [""])[-1]
        remedy = "look at dmesg; reload the driver or restart the server"
        yield error("NPU", f"npu-smi info fails with status {done[0]}: {last}", remedy)
    else:
        yield from _check_health(done[1], numbers)


def _check_health(npu_smi: str, numbers: list[int]) -> Iterator[Finding]:
    devices, processes = parse_npu_smi(npu_smi)
    if not devices:
        yield warning("NPU", "npu-smi info prints no device", "compare driver and firmware versions")
        return
    unhealthy = [device for device in devices if device.health.upper() != "OK"]
    for device in unhealthy:
        status = WARNING if device.health.upper() == "WARNING" else ERROR
        remedy = f"npu-smi info -t health -i {device.number}; restart the server, else report to the vendor"
        yield Finding(status, "NPU", f"device {device.number} ({device.name}): health {device.health}", remedy)
    gone = sorted(set(numbers) - {device.number for device in devices})
    if gone:
        text = f"device(s) {', '.join(map(str, gone))} have a file but npu-smi does not list them"
        yield error("NPU", text, "look at dmesg; restart the server")
    for number, process, name in processes:
        text = f"device {number} is in use by process {process} ({name})"
        yield warning("NPU", text, "wait for it, or choose others: ASCEND_RT_VISIBLE_DEVICES")
    if not unhealthy and not gone:
        memory = f", {devices[0].memory // 1024} GiB each" if devices[0].memory else ""
        yield ok("NPU", f"{len(devices)} x {devices[0].name}{memory}, health OK")


def check_driver(machine: Machine) -> Iterator[Finding]:
    install = parse_assignments(machine.read("/etc/ascend_install.info"))
    for part in ("driver", "firmware"):
        folder = install.get(f"{part.capitalize()}_Install_Path_Param", "/usr/local/Ascend").rstrip("/")
        file = f"{folder}/{part}/version.info"
        version = parse_assignments(machine.read(file)).get("Version")
        if version:
            yield ok(part, version)
        elif part == "driver":
            remedy = "install it, or mount /usr/local/Ascend/driver into the container (read-only)"
            yield error(part, f"{file} cannot be read", remedy)
        else:  # containers have no firmware folder
            yield note(part, f"version unknown: no {file}")


def cann_release(machine: Machine) -> tuple[str, str] | None:
    """Release of CANN and its folder: the one in the environment, else an installed one."""
    chosen = [machine.environ[key] for key in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME") if machine.environ.get(key)]
    info = "ascend_toolkit_install.info"
    for folder in (*chosen, *CANN_FOLDERS):
        for name in (f"{machine.architecture}-linux/{info}", "version.cfg", info):
            release = parse_cann_release(machine.read(f"{folder}/{name}"))
            if release:
                return release, folder
    return None


def check_cann(machine: Machine) -> Iterator[Finding]:
    found, active = cann_release(machine), machine.environ.get("ASCEND_HOME_PATH")
    if found is None:
        where = f"ASCEND_HOME_PATH={active}" if active else "/usr/local/Ascend"
        remedy = "install CANN toolkit and the kernels of this chip, then source its set_env.sh"
        yield error("CANN", f"none found ({where})", remedy)
        return
    release, folder = found
    if active and not machine.path(active).is_dir():
        yield error("CANN", f"ASCEND_HOME_PATH={active} does not exist", "source the set_env.sh of this CANN")
    elif not active:
        yield warning("CANN", f"{release} in {folder}, not in this environment", _SOURCE)
    else:
        yield ok("CANN", f"{release} in {folder}")
    if OLD_CANN.match(release):
        yield note("CANN", f"{release} refuses --graph and does not document all of --amp bf16", "8.5.0 has both")
    if not machine.path(f"{folder}/opp").exists():
        yield error("CANN", f"{folder}/opp is missing: no operators", "install the CANN kernels of this chip")


def check_hccl(machine: Machine) -> Iterator[Finding]:
    """Addresses, time limits and, with several machines, the cards' own network."""
    get = machine.environ.get
    status, text = machine.run("hostname", "-I") or (1, "")
    own = text.split() if status == 0 else []
    address = get("HCCL_IF_IP")
    if address is None:
        remedy = f"source test/env_npu.sh, or export HCCL_IF_IP={own[0] if own else 'ADDRESS_OF_THIS_HOST'}"
        yield note("HCCL", "HCCL_IF_IP is not set: HCCL takes the first network card", remedy)
    elif own and address not in own:
        text = f"HCCL_IF_IP={address} is no address of this host ({', '.join(own[:4])})"
        yield error("HCCL", text, "the start would hang: unset it, or set one of these")
    else:
        yield ok("HCCL", f"HCCL_IF_IP={address}")
    limit, (low, high) = get("HCCL_CONNECT_TIMEOUT"), CONNECT_LIMITS
    if limit is not None and not (limit.isdigit() and low <= int(limit) <= high):
        yield error("HCCL", f"HCCL_CONNECT_TIMEOUT={limit} is not in {low}..{high} s", "set it to 1200")
    limits = {"EXEC": EXEC_DEFAULT, "EVENT": EVENT_DEFAULT}
    given = {name: get(f"HCCL_{name}_TIMEOUT", "") for name in limits}
    execution, event = (int(given[name]) if given[name].isdigit() else default for name, default in limits.items())
    if event <= execution:
        text = f"HCCL_EVENT_TIMEOUT ({event} s) does not exceed HCCL_EXEC_TIMEOUT ({execution} s)"
        yield warning("HCCL", text, f"set HCCL_EVENT_TIMEOUT={execution + 68}")
    yield from _check_network(machine)


def _check_network(machine: Machine) -> Iterator[Finding]:
    """The cards' RoCE ports: needed between machines, not within one."""
    several = machine.environ.get("NNODES", "1") not in ("", "1")
    visible = visible_npus(machine)
    configured = parse_assignments(machine.read("/etc/hccn.conf"))
    without = [str(number) for number in visible if f"address_{number}" not in configured]
    if without:
        text = f"no address in /etc/hccn.conf for device(s) {', '.join(without)} (needed between machines)"
        remedy = "hccn_tool -i N -ip -s address ADDRESS netmask MASK, for each device"
        yield Finding(ERROR if several else NOTE, "HCCL", text, remedy)
        return
    outputs = [machine.run("hccn_tool", "-i", str(number), "-link", "-g") for number in visible]
    up = [output is not None and re.search(r"link status\s*:\s*up", output[1].lower()) for output in outputs]
    down = ", ".join(str(number) for number, link in zip(visible, up) if not link)
    if None in outputs:
        yield note("HCCL", "no hccn_tool: the cards' links were not looked at")
    elif down:
        remedy = "look at cables, optical modules and the switch (needed between machines)"
        yield Finding(ERROR if several else WARNING, "HCCL", f"link of device(s) {down} is not up", remedy)
    else:
        yield ok("HCCL", f"links of {len(visible)} devices are up")


def check_variables(machine: Machine) -> Iterator[Finding]:
    for name, (fine, effect) in SLOW_VARIABLES.items():
        value = machine.environ.get(name, fine[0])
        if value not in fine:
            yield warning("environment", f"{name}={value}: {effect}", f"export {name}={fine[0]}")
    if "TASK_QUEUE_ENABLE" not in machine.environ:
        yield note("environment", "the variables of test/env_npu.sh are not set here", _SOURCE)
