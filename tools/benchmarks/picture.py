"""A picture of what a benchmark measured: seconds by phase of both sides, and their ratio."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.pair import TOTAL
from pivotnet.errors import PivotNetError
from pivotnet.files import atomic_write

FORMATS = ("svg", "png", "pdf")
OURS = "#1b6ca8"
OTHERS = ("#b0b7bf", "#c9a36a", "#8fae8b", "#a98bb5")


def configure_draw(parser: argparse.ArgumentParser) -> None:
    """Options of ``draw``."""
    parser.add_argument("measured", type=Path, nargs="+", metavar="JSON", help="what benchmarks wrote by --json")
    parser.add_argument("picture", type=Path, metavar="PICTURE", help=f"to write: {', '.join(FORMATS)} by its ending")


def run_draw(args: argparse.Namespace) -> None:
    """A picture of the seconds in benchmarks' JSON files."""
    kind = args.picture.suffix[1:].lower()
    if kind not in FORMATS:
        raise PivotNetError(f"{args.picture} should end in one of .{', .'.join(FORMATS)}")
    figure = draw([read_measured(path) for path in args.measured])
    with atomic_write(args.picture) as stream:
        figure.savefig(stream, format=kind, dpi=150)
    print(f"{args.picture}")


def read_measured(path: Path) -> dict[str, Any]:
    """The content of a file that ``--json`` wrote.

    Raises:
        PivotNetError: it cannot be read, or holds no seconds.
    """
    try:
        content = json.loads(path.read_text())
        timed = [_checked(result) for result in content["results"] if "ratios" in result]
        _where(content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PivotNetError(
            f"{path} is no benchmark's JSON ({type(error).__name__}: {error}): write one by --json"
        ) from error
    if not timed:
        raise PivotNetError(f"{path} holds no measured seconds: let the benchmark finish its rounds")
    return {**content, "results": timed}


def draw(contents: list[dict[str, Any]]) -> Any:
    """A figure with a panel for each pair in what ``read_measured`` gave: wall seconds, and medians of their ratios."""
    from matplotlib.figure import Figure

    results = [result for content in contents for result in content["results"]]
    panels = [_bars(result) for result in results]
    heights = [len(labels) + 1.0 for labels, _ in panels]
    figure = Figure(figsize=(8, 0.42 * sum(heights) + 0.5 * len(panels) + 0.8), layout="constrained")
    axes = figure.subplots(len(results), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    colours, legend = {results[0]["sides"][0]["name"]: OURS}, {}
    for axis, result, (labels, bars) in zip(axes, results, panels):
        for side, seconds in enumerate(bars):
            name = result["sides"][side]["name"]
            colour = colours.setdefault(name, OTHERS[(len(colours) - 1) % len(OTHERS)])
            rows = [row + (side - (len(bars) - 1) / 2) * 0.38 for row in range(len(labels))]
            bar = axis.barh(rows, seconds, 0.36, color=colour)
            legend.setdefault(name, bar)
            for row, value, label in zip(rows, seconds, labels):
                ratio = (result["ratios"].get(label) or {}).get("wall") if side == 0 else None
                share = f"   ratio {ratio['median']:.2g}" if ratio else ""
                axis.text(value, row, f" {value:.3g}{share}" if value else " in another phase", va="center", fontsize=8)
        axis.set_yticks(range(len(labels)), labels)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.set_title(result["title"], loc="left", fontsize=10)
        axis.set_xlabel("seconds (wall, median of the rounds)", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        legend.values(), legend.keys(), loc="outside upper right", ncols=len(legend), fontsize=8, frameon=False
    )
    where = "\n".join(dict.fromkeys(map(_where, contents)))
    figure.supxlabel(where, fontsize=8, x=0.99, ha="right")
    return figure


def _checked(result: dict[str, Any]) -> dict[str, Any]:
    """The result, if it has what a panel shows."""
    _bars(result)
    names = [side["name"] for side in result["sides"]]
    if not names or len(names) > 2 or not isinstance(result["title"], str):
        raise ValueError("a result has no title, or not one or two sides")
    for ratio in result["ratios"].values():
        float(ratio["wall"]["median"] if ratio["wall"] else 0)
    return result


def _where(content: dict[str, Any]) -> str:
    machine = content.get("machine", {})
    return f"{machine.get('processor', '?')}, {machine.get('cores', '?')} cores; {content.get('started', '')[:10]}"


def _bars(result: dict[str, Any]) -> tuple[list[str], list[list[float]]]:
    """Phases in order, the total last, and each side's median seconds; 0 where a side has no such phase."""
    walls = [side["wall"] for side in result["sides"]]
    phases = list(dict.fromkeys(phase for wall in walls for phase in wall if phase != TOTAL))
    labels = [*phases, TOTAL] if len(phases) > 1 else [TOTAL]
    return labels, [[statistics.median(wall[phase]) if wall.get(phase) else 0.0 for phase in labels] for wall in walls]
