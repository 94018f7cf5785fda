"""The table of scaling: seconds and operators of a sample by those of a sample of the first size."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from benchmarks.commands_step import configure_step, run_step, show_memory, show_scaling
from benchmarks.options import natural, positive
from benchmarks.pair import Measurement
from recordings import inputs

from pivotnet.errors import PivotNetError


class Tables:
    """Keeps what a report would print."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def table(self, title: str, heads: tuple[str, ...], rows: list[list[Any]]) -> None:
        self.rows = [dict(zip(("case", "instances", "points", "batch", "phase"), row)) | {"all": row} for row in rows]


def one(seconds: float, operators: int) -> Measurement:
    measurement = Measurement("ours")
    measurement.add({"work": (seconds, seconds / 2)})
    measurement.operators = {"by_phase": {"work": operators}}
    return measurement


def test_a_sample_is_compared_with_a_sample() -> None:
    tables = Tables()
    measured = {("typical", 1): [one(1.0, 100)], ("typical", 4): [one(3.0, 100)], ("dense", 1): [one(2.0, 150)]}
    show_scaling(0, tables, measured)  # type: ignore[arg-type]

    work = [row for row in tables.rows if row["phase"] == "work"]
    assert [row["all"][5:] for row in work] == [
        [1.0, 1.0, 0.5, 1.0, 100, 1.0],
        [3.0, 0.75, 1.5, 0.75, 100, 0.25],
        [2.0, 2.0, 1.0, 2.0, 150, 1.5],
    ]
    assert [(row["case"], row["instances"], row["batch"]) for row in work] == [
        ("typical", 13, 1),
        ("typical", 13, 4),
        ("dense", 60, 1),
    ]
    assert work[2]["points"] == sum(inputs.target(0, "dense")["valid_len"][cls].sum() for cls in range(3))


def test_memory_is_a_line_through_tensors_or_else_through_peaks():
    titles: list[tuple[str, list[Any]]] = []

    class Report:
        def table(self, title: str, heads: tuple[str, ...], rows: list[Any]) -> None:
            titles.append((title, [float(value) for value in rows[0]]))

    measured = {("typical", size): [one(1.0, 1)] for size in (1, 3)}
    for (_, size), (side,) in measured.items():
        side.peak_bytes = (2 + 3 * size) * 2**30
        side.operators = {"by_phase": {}, "peak_tensor_bytes": (1 + 2 * size) * 2**30}
    show_memory(Report(), measured)  # type: ignore[arg-type]
    measured["typical", 3][0].operators = None
    show_memory(Report(), measured)  # type: ignore[arg-type]
    assert titles == [
        ("memory of tensors, ours, from batches 1 and 3", [2.0, 1.0, 29.0]),  # 64 GB are 59.6 GiB
        ("peak memory, ours, from batches 1 and 3", [3.0, 2.0, 19.0]),
    ]


def test_the_other_side_has_to_be_measured(tmp_path):
    parser = argparse.ArgumentParser()
    configure_step(parser)
    args = parser.parse_args(["--batch-sizes", "2", "4"])
    for name, value in {"against": tmp_path, "json": None, "seed": 1}.items():
        setattr(args, name, value)
    with pytest.raises(PivotNetError, match="knows batch size 1 only"):
        run_step(args)


def test_sizes_have_to_be_whole_and_positive() -> None:
    assert positive("3") == 3
    assert natural("0") == 0
    for kind, text, told in (
        (positive, "0", "less than 1"),
        (natural, "-1", "less than 0"),
        (natural, "1.5", "no whole"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=told):
            kind(text)
