"""``pivotnet doctor``: what this machine has and what is wrong, each finding with its remedy."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pivotnet import __version__
from pivotnet.doctor import checkout, communication, host, npu, software
from pivotnet.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from pivotnet.doctor.machine import Machine

_CHECKOUT = Path(__file__).resolve().parents[2]
ROOT = _CHECKOUT if (_CHECKOUT / "test" / "env_npu.sh").is_file() else Path.cwd()  # installed without its checkout
MARKS = {OK: "[green]ok[/]", NOTE: "[cyan]note[/]", WARNING: "[yellow]warning[/]", ERROR: "[bold red]error[/]"}
# Variables whose values go into --json; no others, as they may hold secrets.
VARIABLES = ("ASCEND_", "HCCL_", "TASK_QUEUE_", "COMBINED_", "CPU_AFFINITY_", "PYTORCH_NPU_", "TORCH_", "OMP_")
NAMED_VARIABLES = ("LD_PRELOAD", "LD_LIBRARY_PATH", "DATA_ROOT", "PIVOTNET_DIR", "NNODES", "NODE_RANK", "MASTER_ADDR")


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of ``pivotnet doctor``."""
    parser.add_argument("--data-root", type=Path, help="nuScenes tree to look at (DATA_ROOT, else data/nuscenes)")
    parser.add_argument("--weights", type=Path, help="folder of backbone files (assets/weights)")
    parser.add_argument("--output", type=Path, help="where training outputs would go (test/output)")
    parser.add_argument("--json", action="store_true", help="print JSON, for support tickets")


def _checks(args: argparse.Namespace, machine: Machine) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
    """(topic, check), in the order of the report."""
    get = machine.environ.get
    data_root = args.data_root or (Path(get("DATA_ROOT", "")) if get("DATA_ROOT") else None)
    weights = [args.weights] if args.weights else [ROOT / "assets" / "weights"]
    folder, patch = Path(get("PIVOTNET_DIR") or ROOT / "PivotNet"), ROOT / "pivotnet.patch"
    if not args.weights:
        weights.append(folder / "assets" / "weights")

    # imported only here: a package that does not import is a finding, not the end of the report
    def data() -> Iterator[Finding]:
        from pivotnet.doctor.dataset import check_data

        return check_data(data_root, ROOT / "data" / "nuscenes")

    def backbones() -> Iterator[Finding]:
        from pivotnet.doctor.weights import check_weights

        return check_weights(weights)

    return [
        ("NPU", lambda: npu.check_devices(machine)),
        ("driver", lambda: npu.check_driver(machine)),
        ("CANN", lambda: npu.check_cann(machine)),
        ("Python", lambda: software.check_python(machine)),
        ("packages", lambda: software.check_packages(machine)),
        ("torch_npu", lambda: software.check_npu_packages(machine)),
        ("HCCL", lambda: communication.check_hccl(machine)),
        ("environment", lambda: communication.check_variables(machine)),
        ("tcmalloc", lambda: host.check_tcmalloc(machine)),
        ("cores", lambda: host.check_cores(machine)),
        ("shared memory", lambda: host.check_shared_memory(machine)),
        ("disk", lambda: host.check_disk(machine, args.output or ROOT / "test" / "output")),
        ("data", data),
        ("weights", backbones),
        ("checkout", lambda: checkout.check_checkout(machine, folder, patch, named=bool(get("PIVOTNET_DIR")))),
    ]


def examine(args: argparse.Namespace, machine: Machine) -> list[Finding]:
    """All findings. A check that fails becomes a finding itself."""
    findings: list[Finding] = []
    for topic, check in _checks(args, machine):
        try:
            findings += check()
        except Exception as error:
            text = f"this check failed: {type(error).__name__}: {error}"
            findings.append(Finding(topic, ERROR, text, "mend the packages above, else report this line"))
    return findings


def report_json(findings: list[Finding], machine: Machine) -> str:
    """The findings and what a support ticket needs besides."""
    environment = {
        name: value
        for name, value in sorted(machine.environ.items())
        if name in NAMED_VARIABLES or name.startswith(VARIABLES)
    }
    content = {
        "pivotnet": __version__,
        "python": sys.version,
        "architecture": machine.architecture,
        "can_train": not any(finding.status == ERROR for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "environment": environment,
    }
    return json.dumps(content, indent=2)


def print_findings(findings: list[Finding], console: Console) -> None:
    """The findings as a table, and one closing line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    previous = ""
    for finding in findings:
        topic, previous = ("" if finding.topic == previous else finding.topic), finding.topic
        table.add_row(MARKS[finding.status], topic, _escaped(finding.text))
        if finding.remedy and finding.status != OK:
            table.add_row("", "", f"[dim]-> {_escaped(finding.remedy)}[/]")
    console.print(table)
    errors = sum(finding.status == ERROR for finding in findings)
    warnings = sum(finding.status == WARNING for finding in findings)
    verdict = f"training cannot start: {errors} error(s)" if errors else "training can start"
    console.print(f"{verdict}, {warnings} warning(s)")


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def run(args: argparse.Namespace) -> int:
    """Examine this machine; returns 1 when training could not start."""
    machine = Machine()
    findings = examine(args, machine)
    if args.json:
        print(report_json(findings, machine))
    else:
        console = Console(highlight=False)
        print_findings(findings, console if console.is_terminal else Console(highlight=False, width=120))
    return 1 if any(finding.status == ERROR for finding in findings) else 0
