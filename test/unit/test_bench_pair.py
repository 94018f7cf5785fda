"""Two tasks measured in turns: order, phases, ratios, memory, errors."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
from bench_diary import Diary
from benchmarks.pair import TOTAL, Measurement, Phases, Ratio, Side, Task, measure, take_turn

from pivotnet.errors import PivotNetError


def test_sides_take_turns_and_are_measured(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    sides = [
        Side("ours", Diary, {"path": diary, "name": "a"}),
        Side("other", Diary, {"path": diary, "name": "b", "sleep": 0.3, "mebibytes": 200}),
    ]
    told: list[list[str]] = []
    ours, other = measure(
        sides,
        rounds=2,
        threads=1,
        turn_seconds=0.0,
        timed=lambda results: told.append(["timed", *(one.name for one in results if one.operators is None)]),
        counted=lambda results: told.append(["counted", *(one.name for one in results if one.operators)]),
    )

    assert told == [["timed", "ours", "other"], ["counted", "ours", "other"]]

    assert diary.read_text() == "ababab" + "ab"  # the last runs are counted, not timed
    assert list(ours.wall) == ["work", "sleep", TOTAL]
    assert all(len(values) == 2 for values in (*ours.wall.values(), *other.cpu.values()))
    assert min(other.wall["sleep"]) >= 0.3 > max(other.cpu["sleep"])  # sleeping takes no CPU time
    assert min(ours.cpu["work"]) >= 0.05
    assert other.peak_bytes - other.idle_bytes > 150 * 2**20
    assert ours.peak_bytes - ours.idle_bytes < 100 * 2**20
    assert ours.facts == {"name": "a", "children": multiprocessing.get_context().get_start_method()}
    assert ours.operators is not None and ours.operators["by_phase"]["sleep"] == 2


class Naps(Task):
    """The first run takes long, as the first one after somebody else's turn does."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths = [0.2]
        self.runs = 0

    def run(self) -> None:
        time.sleep(self.lengths.pop() if self.lengths else 0.02)
        self.runs += 1
        self.phases.end("nap")


def test_a_turn_is_the_median_of_its_runs_and_one_run_at_least() -> None:
    cold = Naps()
    assert take_turn(cold, 0.0)["nap"][0] >= 0.2
    assert cold.runs == 1

    naps = Naps()
    assert 0.02 <= take_turn(naps, 0.5)["nap"][0] < 0.2
    assert naps.runs > 2


@pytest.mark.parametrize(("fail", "told"), [("build", "cannot be built: try another"), ("run", "in the run")])
def test_a_failing_side_is_told_and_ends_the_other(tmp_path: Path, fail: str, told: str) -> None:
    sides = [
        Side("ours", Diary, {"path": tmp_path / "diary", "name": "a"}),
        Side("other", Diary, {"path": tmp_path / "diary", "name": "b", "fail": fail}),
    ]
    with pytest.raises(PivotNetError, match=told) as caught:
        measure(sides, rounds=1, warmup=0, threads=1, timed=lambda results: None)
    assert str(caught.value).startswith("other failed: ")


def test_ratios_are_taken_round_by_round() -> None:
    ratio = Ratio.of([1.0, 2.0, 9.0], [2.0, 8.0, 10.0])
    assert ratio == Ratio(0.5, 0.25, 0.9)
    assert Ratio.of([1.0], [0.0]) is None


def test_totals_are_sums_of_the_phases() -> None:
    one = Measurement("one")
    one.add({"a": (1.0, 0.5), "b": (2.0, 0.25)})
    assert one.wall == {"a": [1.0], "b": [2.0], TOTAL: [3.0]}
    assert one.cpu[TOTAL] == [0.75]


def test_a_phase_that_comes_twice_is_summed() -> None:
    phases = Phases()
    phases.begin()
    time.sleep(0.02)
    phases.end("a")
    phases.end("b")
    time.sleep(0.02)
    phases.end("a")
    assert phases.seconds["a"][0] >= 0.04
    assert phases.seconds["b"][0] < 0.02
