"""Checks of what ranks talk through: HCCL's variables, addresses and links."""

from __future__ import annotations

from collections.abc import Iterator

from pivotnet.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from pivotnet.doctor.machine import Machine
from pivotnet.doctor.npu import has_npu, visible_npus
from pivotnet.doctor.parsers import parse_assignments, parse_link_status

TOPIC = "HCCL"
CONNECT_LIMITS = (120, 7200)  # seconds that HCCL accepts
EXEC_DEFAULT, EVENT_DEFAULT = 1800, 1868  # seconds


def _number(machine: Machine, name: str, default: int) -> int:
    text = machine.environ.get(name, "")
    return int(text) if text.isdigit() else default


def check_hccl(machine: Machine) -> Iterator[Finding]:
    """Addresses, time limits and, with several machines, the cards' own network."""
    if not has_npu(machine):
        return
    yield from _check_address(machine)
    limit = machine.environ.get("HCCL_CONNECT_TIMEOUT")
    low, high = CONNECT_LIMITS
    if limit is not None and not (limit.isdigit() and low <= int(limit) <= high):
        yield Finding(TOPIC, ERROR, f"HCCL_CONNECT_TIMEOUT={limit} is not in {low}..{high} s", "set it to 1200")
    execution = _number(machine, "HCCL_EXEC_TIMEOUT", EXEC_DEFAULT)
    event = _number(machine, "HCCL_EVENT_TIMEOUT", EVENT_DEFAULT)
    if event <= execution:
        text = f"HCCL_EVENT_TIMEOUT ({event} s) does not exceed HCCL_EXEC_TIMEOUT ({execution} s)"
        yield Finding(TOPIC, WARNING, text, f"set HCCL_EVENT_TIMEOUT={execution + 68}")
    yield from _check_network(machine)


def _check_address(machine: Machine) -> Iterator[Finding]:
    done = machine.run("hostname", "-I")
    own = done.text.split() if done is not None and done.status == 0 else []
    address = machine.environ.get("HCCL_IF_IP")
    if address is None:
        first = own[0] if own else "this host's address"
        remedy = f"source test/env_npu.sh, or export HCCL_IF_IP={first}"
        yield Finding(TOPIC, NOTE, "HCCL_IF_IP is not set: HCCL takes the first network card", remedy)
    elif own and address not in own:
        text = f"HCCL_IF_IP={address} is no address of this host ({', '.join(own[:4])})"
        yield Finding(TOPIC, ERROR, text, "the start would hang: unset it, or set one of these")
    else:
        yield Finding(TOPIC, OK, f"HCCL_IF_IP={address}")


def _check_network(machine: Machine) -> Iterator[Finding]:
    """The cards' RoCE ports: needed between machines, not within one."""
    several = machine.environ.get("NNODES", "1") not in ("", "1")
    bad = WARNING if not several else ERROR
    configured = parse_assignments(machine.read("/etc/hccn.conf") or "")
    without = [n for n in visible_npus(machine) if f"address_{n}" not in configured]
    if without:
        status = ERROR if several else NOTE
        text = f"no address in /etc/hccn.conf for device(s) {', '.join(map(str, without))} (needed between machines)"
        yield Finding(TOPIC, status, text, "hccn_tool -i N -ip -s address ADDRESS netmask MASK, for each device")
        return
    down = []
    for number in visible_npus(machine):
        done = machine.run("hccn_tool", "-i", str(number), "-link", "-g")
        if done is None:
            yield Finding(TOPIC, NOTE, "no hccn_tool: the cards' links were not looked at")
            return
        if parse_link_status(done.text) != "UP":
            down.append(number)
    if down:
        text = f"link of device(s) {', '.join(map(str, down))} is not up"
        yield Finding(TOPIC, bad, text, "look at cables, optical modules and the switch (needed between machines)")
    else:
        yield Finding(TOPIC, OK, f"links of {len(visible_npus(machine))} devices are up")


def check_variables(machine: Machine) -> Iterator[Finding]:
    """Variables that slow training down or stop it."""
    if not has_npu(machine):
        return
    get = machine.environ.get
    queue = get("TASK_QUEUE_ENABLE")
    if get("ASCEND_LAUNCH_BLOCKING", "0") == "1":
        text = "ASCEND_LAUNCH_BLOCKING=1: the host waits for every operator, TASK_QUEUE_ENABLE is void"
        yield Finding("environment", WARNING, text, "unset it unless you look for a failing operator")
    elif queue not in (None, "2"):
        text = f"TASK_QUEUE_ENABLE={queue}: the host side is the bottleneck of this training"
        yield Finding("environment", WARNING, text, "export TASK_QUEUE_ENABLE=2")
    level = get("ASCEND_GLOBAL_LOG_LEVEL")
    if level in ("0", "1", "2"):
        text = f"ASCEND_GLOBAL_LOG_LEVEL={level}: logging below errors slows the host"
        yield Finding("environment", WARNING, text, "export ASCEND_GLOBAL_LOG_LEVEL=3")
    if get("ASCEND_SLOG_PRINT_TO_STDOUT", "0") == "1":
        yield Finding("environment", WARNING, "ASCEND_SLOG_PRINT_TO_STDOUT=1: logs go to the console", "set it to 0")
    if queue is None:
        text = "the variables of test/env_npu.sh are not set here"
        yield Finding("environment", NOTE, text, "source test/env_npu.sh (the run scripts do so)")
