"""The benchmark tool: turns of two sides, ratios, and its command line."""

import sys
import time
from functools import partial

import bench
import numpy as np
import pytest
from benchmarks.turns import TOTAL, WAITS, Clock, Task, group_of, take_turns
from support.diary_task import diary

from pivotnet.errors import PivotNetError, run_command


def test_sides_take_turns_and_are_measured(tmp_path):
    path = tmp_path / "diary"
    sides = {"ours": partial(diary, path, "a"), "upstream": partial(diary, path, "b", sleep=0.3, mebibytes=200)}
    ours, other = take_turns(sides, threads=1, rounds=2, turn_seconds=0.0, extras={"ours": ["gradients"]})
    assert path.read_text().startswith("ababab")
    assert list(ours.rounds) == ["work", "sleep", TOTAL]
    assert all(np.shape(rounds) == (2, 2) for one in (ours, other) for rounds in one.rounds.values())
    assert other.median("sleep")[0] >= 0.3 and other.median()[0] >= 0.35 and ours.median("work")[1] >= 0.05
    assert other.peak_bytes - ours.peak_bytes > 150 * 2**20
    assert ours.flops == 2 * 3**3 and ours.extras == {"gradients": (1.0, {"a": 0})} and not other.extras


def test_a_failing_side_is_reported(tmp_path):
    for fail, kind, said in (("made", PivotNetError, "^ours failed: cannot be made"), ("run", ZeroDivisionError, "")):
        with pytest.raises(kind, match=said):
            take_turns({"ours": partial(diary, tmp_path / "diary", "a", fail=fail)}, threads=1, rounds=1, warmup=0)


def test_a_turn_is_the_median_of_its_runs_whose_phases_are_summed():
    lengths = [0.2]  # the first run takes long, as the first one after another's turn does
    clock = Clock()

    def nap() -> None:
        for phase in ("other", "input"):
            time.sleep(lengths.pop() if lengths else 0.02)
            clock.enter(phase)
        time.sleep(0.02)

    task = Task(clock, nap)
    assert task.take_turn(0.0)["input"][0] >= 0.22
    lengths.append(0.2)
    turn = task.take_turn(0.5)
    assert 0.2 > turn["input"][0] >= 0.04 > turn["other"][0] >= 0.02
    np.testing.assert_allclose(turn[TOTAL], turn["input"] + turn["other"])


def test_ratios_are_taken_round_by_round():
    ours, other = (np.tile(np.array(seconds)[:, None], 2) for seconds in ([1.0, 2.0, 9.0], [2.0, 8.0, 10.0]))
    assert bench.ratios(ours, other) == ["0.500 (0.250-0.900)"] * 2
    assert bench.ratios(ours, np.zeros((1, 2))) == ["-", "-"]


def test_gradients_are_compared_by_their_norms():
    expected = {"a": np.array([3.0, 4.0]), "b": np.array([[12.0]])}
    strayed = {"a": np.array([3.0, 4.5]), "b": np.array([[12.0]])}
    found = bench.equality((1.001, strayed), (1.0, expected))
    assert [float(text) for text in found] == pytest.approx([1e-3, 0.5 / 13, 0.05, 0.095, 0.1], rel=0.05)
    with pytest.raises(PivotNetError, match=r"only one side has gradients of \['b'\]"):
        bench.equality((1.0, {"a": expected["a"]}), (1.0, expected))


def test_what_a_gpu_does_is_grouped_by_names():
    assert group_of("Memcpy HtoD (Pinned -> Device)", True) == "copies to the card"
    assert group_of("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n", True) == "matrix products, convolutions"
    assert group_of("void ms_deformable_im2col_gpu_kernel<float>", True) == "deformable attention"
    assert group_of("cudaStreamSynchronize", False) == WAITS and group_of("cudaLaunchKernel", False) is None


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench.py", *arguments])
    return run_command(bench.main)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("criterion", ("criterion of swint", "GMAC", "load average")),
        pytest.param("step --presets smoke --batch-sizes 1 2", ("batch 2",), marks=pytest.mark.full),
    ],
)
def test_a_benchmark_from_the_command_line(options, words, monkeypatch, capsys):
    assert call(monkeypatch, *options.split(), "--rounds", "1", "--warmup", "0") == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("step --against upstream --batch-sizes 2 4", "--batch-sizes [2, 4]: upstream knows 1 only"),
        ("step --against upstream --presets swint smoke", "--presets smoke: upstream has swint, res50, effb0"),
        ("step --profile", "--profile with --device cpu: it lists the kernels of a GPU"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message, monkeypatch, capsys):
    assert call(monkeypatch, *options.split()) == 2 and message in capsys.readouterr().err
