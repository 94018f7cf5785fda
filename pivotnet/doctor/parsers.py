"""Readers of what vendor tools print and vendor packages leave in files. They take text and never fail on odd text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Npu:
    """One chip in ``npu-smi info``. Memory in MB."""

    number: int
    name: str
    health: str
    bus: str = ""
    memory_used: int = 0
    memory_total: int = 0


@dataclass(frozen=True)
class NpuSmi:
    """``npu-smi info``."""

    version: str = ""
    devices: tuple[Npu, ...] = ()
    processes: tuple[tuple[int, int, str], ...] = ()  # NPU, process number, name


def parse_npu_smi(text: str) -> NpuSmi:
    """Devices and processes in the table of ``npu-smi info``; empty for other text.

    A device has two rows: number, name and health, then chip, bus and memory, whose last "used / total" is the HBM's.
    """
    version = re.search(r"npu-smi\s+(\S+)\s+Version", text)
    devices: list[Npu] = []
    processes: list[tuple[int, int, str]] = []
    first: Optional[tuple[int, str, str]] = None
    for line in text.splitlines():
        line = line.strip()
        if not line.startswith("|"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3:
            head = re.fullmatch(r"(\d+)\s+(\S.*)", cells[0])
            if head and re.fullmatch(r"[A-Za-z]\w*", cells[1]):
                first = (int(head.group(1)), head.group(2).strip(), cells[1])
            elif first is not None and re.search(r"[0-9A-Fa-f]+:[0-9A-Fa-f]+", cells[1]):
                used, total = ([(0, 0), *_pairs(cells[2])])[-1]
                devices.append(Npu(*first, cells[1], used, total))
                first = None
        elif len(cells) == 4 and cells[1].isdigit():
            number = re.match(r"\d+", cells[0])
            if number:
                processes.append((int(number.group()), int(cells[1]), cells[2]))
    return NpuSmi(version.group(1) if version else "", tuple(devices), tuple(processes))


def _pairs(text: str) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in re.findall(r"(\d+)\s*/\s*(\d+)", text)]


def parse_assignments(text: str) -> dict[str, str]:
    """``key=value`` lines, as in version.info, install.info and hccn.conf; comments and other lines are left out."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def parse_cann_release(text: str) -> Optional[str]:
    """The release in CANN's version.cfg (``toolkit_running_version=[7.6.0.1.220:8.0.0]``) or *_install.info
    (``version=8.1.RC1``), as in 8.1.RC1."""
    values = parse_assignments(text)
    for key in ("toolkit_running_version", "runtime_running_version", "compiler_running_version"):
        if key in values:
            return normal_release(values[key].strip("[]").split(":")[-1])
    return normal_release(values["version"]) if values.get("version") else None


def normal_release(text: str) -> str:
    """8.1.RC1 out of 8.1.rc1 or 8.1.RC1.beta1: how the vendor writes the same release elsewhere."""
    release = re.sub(r"[.-](alpha|beta)\d*$", "", text.strip(), flags=re.IGNORECASE)
    return re.sub(r"rc", "RC", release, flags=re.IGNORECASE)


def release_order(release: str) -> tuple[int, ...]:
    """A key that orders releases: 8.1.RC1 < 8.2.RC1 < 8.3.0; a release candidate comes before its release."""
    parts = []
    for part in release.upper().split("."):
        digits = re.sub(r"\D", "", part)
        parts.append((int(digits) if digits else 0) - (1000 if part.startswith("RC") else 0))
    return tuple(parts)


def parse_lscpu(text: str) -> dict[str, str]:
    """``lscpu``'s lines."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def parse_link_status(text: str) -> Optional[str]:
    """UP or DOWN in ``hccn_tool -i N -link -g``; None for other text."""
    match = re.search(r"link status\s*:\s*(\w+)", text, re.IGNORECASE)
    return match.group(1).upper() if match else None


def parse_version(text: str) -> tuple[int, ...]:
    """The numbers at the start of a version: (2, 8, 0) of 2.8.0.post2 or 2.8.0+cpu."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
