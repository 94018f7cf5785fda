"""``pivotnet audit``: what one training step asks of the device, by phase. On the CPU it follows which tensors would
live on a device. Simulated NPUs also count the calls to CANN that operators become, and strided operands of these."""

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pivotnet import device as devices
from pivotnet.audit.counts import NUMBERS, Audit
from pivotnet.audit.step import audit_step
from pivotnet.commands import batch_size, whole
from pivotnet.config import preset
from pivotnet.distributed import process_group, ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.files import read_json, write_json
from pivotnet.schema import mapping, number
from pivotnet.training.loop import AMP

# of NUMBERS
TITLES = (
    "operators", "calls", "strided", "waits", "fallbacks", "float64", "to device", "KiB", "to host", "KiB",
    "collectives",
)  # fmt: skip
UNKNOWN = ("calls", "strided")  # but to simulated NPUs
WIDTH = 120  # characters a line, where the output is no terminal


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--preset", default="swint", help="swint (default), res50, effb0 or smoke")
    add("--batch-size", type=batch_size, default=1, help="samples per card (1)")
    add("--amp", choices=sorted(AMP), default="none", help="precision of the backbone (none: float32)")
    size = "smaller network input, as 128x224: saves time and memory, and hardly changes the counts, except of bytes"
    add("--image-size", type=_size, metavar="HxW", help=size)
    add("--device", help="npu, cuda, cpu, or one with an index (the first of them that works)")
    add("--json", type=Path, metavar="FILE", help="also write all counts, with the operators of each phase")
    add("--budget", type=Path, metavar="FILE", help='JSON as {"host_waits": 2, "launches": 6000}: exit 1 if exceeded')


_side = whole(32, 8192)


def _size(text: str) -> tuple[int, int]:
    rows, columns = (_side(side) for side in text.partition("x")[::2])
    if rows % 32 or columns % 32:
        raise argparse.ArgumentTypeError(f"{text} is no HxW in multiples of 32")
    return rows, columns


def run(args: argparse.Namespace) -> int:
    """Audit one step; returns 1 when a budget is exceeded."""
    budget = read_budget(args.budget) if args.budget else {}
    config = preset(args.preset)
    if args.image_size:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, image_size=args.image_size))
    ranks = ranks_from_environment()
    device = devices.select_device(args.device, ranks.local_rank)
    with process_group(ranks, device):
        audit = audit_step(config, device, ranks, args.batch_size, AMP[args.amp])
    if not ranks.main:
        return 0
    for name in () if audit.total("calls") else UNKNOWN:
        if name in budget:
            raise PivotNetError(f"--budget limits {name}, which only simulated NPUs count: tools/cannsim/run COMMAND")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    where = devices.device_name(device) if device.type != "cpu" else "a CPU, counted as on a device"
    title = f"One training step of {args.preset}, {ranks.world_size} rank(s), on {where}"
    console.print(table(audit, f"{title}; operands of all operators: {audit.operand_bytes / 1e9:.1f} GB"))
    lines = [f"waits {count:4d}  {line}  ({phase})" for (phase, line), count in audit.wait_lines.most_common()]
    lines += [f"falls back to the CPU {count:4d}  {name}" for name, count in audit.fallback_names.most_common()]
    exceeded = [f"{name} {audit.total(name)} > {limit}" for name, limit in budget.items() if audit.total(name) > limit]
    for line in [*lines, *(f"[red]over budget:[/red] {one}" for one in exceeded)]:
        console.print(line, highlight=False)
    if args.json:
        size = config.model.image_size
        setting = {"preset": args.preset, "image_size": size, "batch_size": args.batch_size, "amp": args.amp}
        write_json(args.json, {**setting, "device": device.type, "ranks": ranks.world_size, **audit.to_dict()})
    return 1 if exceeded else 0


def read_budget(path: Path) -> dict[str, int]:
    """Limits by the names of NUMBERS. Raises PivotNetError: no JSON object of whole numbers, or an unknown name."""
    limits = read_json(path, "--budget needs a JSON object of whole numbers", mapping(number(0, whole=True)))
    unknown = [name for name in limits if name not in NUMBERS]
    if unknown:
        raise PivotNetError(f"--budget {path} limits {unknown[0]!r}: choose from {', '.join(NUMBERS)}")
    return limits


def table(audit: Audit, title: str) -> Table:
    grid = Table(title=title)
    grid.add_column("phase")
    for heading in TITLES:
        grid.add_column(heading, justify="right")
    unknown = () if audit.total("calls") else UNKNOWN

    def cell(name: str, number: int) -> str:
        if name in unknown:
            return "-"
        return f"{round(number / 1024):,}" if name.endswith("bytes") else f"{number:,}"

    for phase, counts in audit.phases.items():
        grid.add_row(phase, *(cell(name, getattr(counts, name)) for name in NUMBERS))
    grid.add_section()
    grid.add_row("sum", *(cell(name, audit.total(name)) for name in NUMBERS))
    return grid
