"""All checks in the order of the report, and the report for support tickets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pivotnet import __version__
from pivotnet.doctor import host, npu
from pivotnet.doctor.machine import ERROR, Finding, Machine, error
from pivotnet.launch.choices import ROOT, default_data

# Variables whose values go into the report; no others, as they may hold secrets.
PREFIXES = ("ASCEND_", "HCCL_", "TASK_QUEUE_", "COMBINED_", "CPU_AFFINITY_", "PYTORCH_NPU_", "TORCH_", "OMP_")
NAMES = ("LD_PRELOAD", "LD_LIBRARY_PATH", "DATA_ROOT", "PIVOTNET_DIR", "NNODES", "NODE_RANK", "MASTER_ADDR")
# Checks of the machine by the topic under which one that fails itself is reported, in the order of the report.
CHECKS = {
    "NPU": npu.check_devices,
    "driver": npu.check_driver,
    "CANN": npu.check_cann,
    "HCCL": npu.check_hccl,
    "environment": npu.check_variables,
    "Python": host.check_python,
    "packages": host.check_packages,
    "torch_npu": host.check_npu_packages,
    "tcmalloc": host.check_tcmalloc,
    "cores": host.check_cores,
    "shared memory": host.check_shared_memory,
}
OF_NPUS = ("driver", "CANN", "HCCL", "environment")  # asked only where there is one


def machine_checks(machine: Machine) -> dict[str, Callable[[Machine], Iterator[Finding]]]:
    return {topic: check for topic, check in CHECKS.items() if topic not in OF_NPUS or npu.has_npu(machine)}


def examine(
    machine: Machine, data_root: Path | None = None, weights: Path | None = None, output: Path | None = None
) -> list[Finding]:
    """All findings, also about the folders that the options of ``pivotnet doctor`` name; a check that fails becomes a
    finding itself."""
    named = machine.environ.get("PIVOTNET_DIR")
    checkout = Path(named or ROOT / "PivotNet")
    if data_root is None and machine.environ.get("DATA_ROOT"):
        data_root = Path(machine.environ["DATA_ROOT"])
    folders = [weights] if weights else [folder / "assets" / "weights" for folder in (ROOT, checkout)]

    def check_trees(machine: Machine) -> Iterator[Finding]:
        # imported only here: a package that does not import is a finding, not the end of the report
        from pivotnet.doctor.trees import check_checkout, check_data, check_weights

        yield from check_data(data_root, default_data() or ROOT / "data" / "nuscenes")
        yield from check_weights(folders)
        yield from check_checkout(machine, checkout, ROOT / "pivotnet.patch", bool(named))

    def check_disk(machine: Machine) -> Iterator[Finding]:
        return host.check_disk(machine, output or ROOT / "test" / "output")

    findings: list[Finding] = []
    for topic, check in {**machine_checks(machine), "disk": check_disk, "data": check_trees}.items():
        try:
            findings += check(machine)
        except Exception as failure:
            text = f"this check failed: {type(failure).__name__}: {failure}"
            findings.append(error(topic, text, "repair the packages above, else report this line"))
    return findings


def can_train(findings: list[Finding]) -> bool:
    return not any(finding.status == ERROR for finding in findings)


def ticket(findings: list[Finding], machine: Machine) -> dict[str, Any]:
    """The findings and what a support ticket needs besides, for JSON."""
    variables = sorted(machine.environ.items())
    return {
        "pivotnet": __version__,
        "python": sys.version,
        "architecture": machine.architecture,
        "can_train": can_train(findings),
        "findings": [asdict(finding) for finding in findings],
        "environment": {name: value for name, value in variables if name in NAMES or name.startswith(PREFIXES)},
    }
