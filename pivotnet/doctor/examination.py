"""All checks in the order of the report, and the report for support tickets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pivotnet import __version__
from pivotnet.doctor import host, npu, software
from pivotnet.doctor.machine import ERROR, Finding, Machine
from pivotnet.launch.choices import ROOT

# Variables whose values go into the report; no others, as they may hold secrets.
PREFIXES = ("ASCEND_", "HCCL_", "TASK_QUEUE_", "COMBINED_", "CPU_AFFINITY_", "PYTORCH_NPU_", "TORCH_", "OMP_")
NAMES = ("LD_PRELOAD", "LD_LIBRARY_PATH", "DATA_ROOT", "PIVOTNET_DIR", "NNODES", "NODE_RANK", "MASTER_ADDR")


def examine(
    machine: Machine, data_root: Path | None = None, weights: Path | None = None, output: Path | None = None
) -> list[Finding]:
    """All findings. A check that fails becomes a finding itself.

    Args:
        machine: what is examined.
        data_root: nuScenes tree (DATA_ROOT, else data/nuscenes).
        weights: folder of backbone files (assets/weights, of the checkout of upstream too).
        output: where training outputs would go (test/output).
    """
    checkout = Path(machine.environ.get("PIVOTNET_DIR") or ROOT / "PivotNet")
    if data_root is None and machine.environ.get("DATA_ROOT"):
        data_root = Path(machine.environ["DATA_ROOT"])
    folders = [weights] if weights else [ROOT / "assets" / "weights", checkout / "assets" / "weights"]

    def trees() -> Iterator[Finding]:
        # imported only here: a package that does not import is a finding, not the end of the report
        from pivotnet.doctor.trees import check_checkout, check_data, check_weights

        yield from check_data(data_root, ROOT / "data" / "nuscenes")
        yield from check_weights(folders)
        named = bool(machine.environ.get("PIVOTNET_DIR"))
        yield from check_checkout(machine, checkout, ROOT / "pivotnet.patch", named)

    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "NPU": lambda: npu.check_devices(machine),
        "driver": lambda: npu.check_driver(machine),
        "CANN": lambda: npu.check_cann(machine),
        "Python": lambda: software.check_python(machine),
        "packages": lambda: software.check_packages(machine),
        "torch_npu": lambda: software.check_npu_packages(machine),
        "HCCL": lambda: npu.check_hccl(machine),
        "environment": lambda: npu.check_variables(machine),
        "tcmalloc": lambda: host.check_tcmalloc(machine),
        "cores": lambda: host.check_cores(machine),
        "shared memory": lambda: host.check_shared_memory(machine),
        "disk": lambda: host.check_disk(machine, output or ROOT / "test" / "output"),
        "data": trees,
    }
    findings: list[Finding] = []
    for topic, check in checks.items():
        try:
            findings += check()
        except Exception as error:
            text = f"this check failed: {type(error).__name__}: {error}"
            findings.append(Finding(topic, ERROR, text, "repair the packages above, else report this line"))
    return findings


def can_train(findings: list[Finding]) -> bool:
    """Whether training could start here."""
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
