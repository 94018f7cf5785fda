"""``pivotnet doctor``: what this machine has and what is wrong, each finding with its remedy."""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pivotnet.doctor.examination import can_train, examine, ticket
from pivotnet.doctor.machine import ERROR, NOTE, OK, WARNING, Finding, Machine

MARKS = {OK: "[green]ok[/]", NOTE: "[cyan]note[/]", WARNING: "[yellow]warning[/]", ERROR: "[bold red]error[/]"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-root", type=Path, help="nuScenes tree to look at (DATA_ROOT, else data/nuscenes)")
    parser.add_argument("--weights", type=Path, help="folder of backbone files (assets/weights)")
    parser.add_argument("--output", type=Path, help="where training outputs would go (test/output)")
    parser.add_argument("--json", action="store_true", help="print JSON, for support tickets")


def run(args: argparse.Namespace) -> int:
    """Examine this machine; returns 1 when training could not start."""
    machine = Machine()
    findings = examine(machine, args.data_root, args.weights, args.output)
    if args.json:
        print(json.dumps(ticket(findings, machine), indent=2))
    else:
        console = Console(highlight=False)
        print_findings(findings, console if console.is_terminal else Console(highlight=False, width=120))
    return 0 if can_train(findings) else 1


def print_findings(findings: list[Finding], console: Console) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    previous = ""
    for finding in findings:
        topic, previous = ("" if finding.topic == previous else finding.topic), finding.topic
        table.add_row(MARKS[finding.status], topic, escape(finding.text))
        if finding.remedy and finding.status != OK:
            table.add_row("", "", f"[dim]-> {escape(finding.remedy)}[/]")
    console.print(table)
    errors, warnings = (sum(finding.status == status for finding in findings) for status in (ERROR, WARNING))
    verdict = f"training cannot start: {errors} error(s)" if errors else "training can start"
    console.print(f"{verdict}, {warnings} warning(s)")
