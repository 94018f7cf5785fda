"""The run scripts, run for real: from elsewhere, with spaces in paths, interrupted, resumed, two at once, killed.

Those that are killed at random, again and again, end as one that was never interrupted, and leave nothing behind:
KILLS (12) and SEED (0) in the environment: bash test/run_tests.sh --full -k kills
"""

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import socket
import sys
import time
from itertools import product
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest
import torch
from support.commands import wait_for
from support.fake_run import EVALUATION, make_run
from support.samples import make_data
from support.script_copy import (
    FULL,
    PERFORMANCE,
    TITLE,
    ScriptCopy,
    final_result,
    interrupt,
    losses,
    processes,
    rank_in,
)

from pivotnet.checkpoint import list_checkpoints, read_checkpoint
from pivotnet.training.records import counted_times, read_records, records_path
from pivotnet.training.summary import read_summary

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
SHORT = ("--steps", 7, "--", "--workers", 1, "--save-every", 2)


@pytest.fixture
def checkout(tmp_path) -> ScriptCopy:
    return ScriptCopy(tmp_path / "a check out")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "nu scenes", samples=4)


def check_equal(whole: Path, parts: Path, steps: int) -> None:
    """Same losses in every rank, same weights and optimiser, and nothing half written."""
    assert not [path for path in parts.rglob("*") if path.name.endswith(".tmp")]
    for rank in (0, 1):
        assert losses(parts, rank) == losses(whole, rank) and len(losses(parts, rank)) == steps
    one, other = (read_checkpoint(list_checkpoints(output / "checkpoints")[-1]) for output in (whole, parts))
    for key in ("model_state", "optimizer_state"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def test_a_killed_rank_fails_the_script_and_a_resumed_run_equals_a_whole_one(checkout, data, tmp_path):
    whole, parts = tmp_path / "my output", tmp_path / "parts"
    status, out, err = checkout.run(PERFORMANCE, "--data-root", data, "--output", whole, *SHORT)
    assert status == 0, out + err
    assert "no accelerator used: preset smoke, 2 processes on the CPU" in out
    assert "training the built-in network, preset smoke" in out
    result = final_result(out)
    assert (result["RankSize"], result["BatchSize"], result["Steps timed"].split(",")[0]) == ("2", "1", "6 on 2 ranks")
    assert (checkout.root / "test" / "output" / f"{result['CaseName']}.log").read_text() in out
    summary, ranks = read_summary(whole), [list(read_records(records_path(whole, rank))) for rank in (0, 1)]
    seconds, waits = zip(*(times for records in ranks for times in counted_times(records)))
    times = {"median": np.median(seconds), "p90": np.percentile(seconds, 90), "count": 6, "warmup": 1}
    assert summary["step_seconds"] == pytest.approx(times) and summary["fps"] == pytest.approx(2 / np.median(seconds))
    assert summary["data_wait_share"] == pytest.approx(sum(waits) / sum(seconds))

    process = checkout.start(PERFORMANCE, "--data-root", data, "--output", parts, *SHORT)
    wait_for(lambda: len(losses(parts)) >= 4, lambda: process.poll() is None)
    os.kill(rank_in(parts, 1), signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 20 and not processes("cmdline", str(parts))
    assert process.returncode == 1 and TITLE not in out and not (parts / "summary.json").exists()
    assert "rank 1 was ended by signal 9 (KILL)" in err
    assert err.splitlines()[-1].startswith("error: training failed")

    (parts / "checkpoints" / ".step_00000004.pth.x.tmp").touch()  # as a rank leaves it that is killed while it writes
    status, out, err = checkout.run(PERFORMANCE, "--resume", parts)
    assert status == 0 and "resumed from" in out, out + err
    check_equal(whole, parts, 7)


def test_a_killed_script_takes_its_ranks_along(checkout, data, tmp_path):
    output = tmp_path / "out"
    process = checkout.start(PERFORMANCE, "--data-root", data, "--steps", 500, "--output", output)
    wait_for(lambda: losses(output), lambda: process.poll() is None)
    assert len(processes("cmdline", str(output))) >= 4
    process.kill()
    wait_for(lambda: not processes("cmdline", str(output)))
    process.communicate(timeout=60)
    assert list((output / "checkpoints").iterdir()), "its ranks saved before they left"


def test_interrupted_and_resumed_with_its_own_options(checkout, data):
    process = checkout.start(FULL, "--data-root", data, "--epochs", 6, "--", "--save-every", 5)
    wait_for(lambda: checkout.outputs() and len(losses(checkout.outputs()[0])) >= 2, lambda: process.poll() is None)
    out, err = interrupt(process)
    (output,) = checkout.outputs()
    assert process.returncode == 130 and TITLE not in out and "stopped by SIG" in out
    assert f"--resume {shlex.quote(str(output))}" in err
    assert not processes("cmdline", str(output))
    done = len(losses(output))
    summary = json.loads((output / "summary.json").read_text())
    assert 2 <= done < 12 and not summary["finished"] and summary["steps"] == done
    assert list_checkpoints(output / "checkpoints")[-1].name == f"step_{done:08d}.pth"
    assert losses(output, 0) == losses(output, 1)

    status, out, err = checkout.run(FULL, "--resume")
    assert status == 0, out + err
    result = final_result(out)
    assert [step for step, *_ in losses(output)] == list(range(12))
    assert result["CaseName"] == "PivotNet_bs1_2p_acc" and result["Resumed at step"].startswith(f"{done},")
    table = json.loads(next(output.glob("checkpoints/results_*/ap_val.json")).read_text())
    for key in ("mAP_hard", "mAP_easy"):
        assert result[key] == format(table["average"]["percent"][key], ".1f")
    assert checkout.outputs() == [output]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("--split", "night", "split 'night' is not annotated"), ("--lr", "1e6", "no checkpoint was written")],
)
def test_an_error_of_all_ranks_is_printed_once(checkout, data, tmp_path, option, value, words):
    status, _, err = checkout.run(PERFORMANCE, "--data-root", data, "--output", tmp_path / "out", "--", option, value)
    first, last = err.splitlines()
    assert status == 1 and words in first and last.startswith("error: training failed (exit status 2)")
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.mark.full
def test_two_nodes_on_one_host(checkout, data, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    output = tmp_path / "shared"
    options = ("--data-root", data, "--epochs", 2, "--cards", 1, "--output", output)
    several = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    nodes = [checkout.start(FULL, *options, NODE_RANK=rank, **several) for rank in ("0", "1")]
    (out0, err0), (out1, err1) = (node.communicate(timeout=300) for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], out0 + err0 + out1 + err1
    assert TITLE not in out1 and "node 0 prints the result" in out1
    result = final_result(out0)
    assert result["RankSize"] == "2" and "mAP_hard" in result and len(losses(output, rank=1)) == 4


@pytest.mark.full
def test_two_first_runs_at_once_share_one_synthetic_data_set(checkout):
    runs = [checkout.start(PERFORMANCE, "--steps", 4, "--cards", 1) for _ in range(2)]
    said = [run.communicate(timeout=600) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert [len(losses(output)) for output in checkout.outputs()] == [4, 4]
    assert all(TITLE in out for out, _ in said)
    assert sum("already there" in out for out, _ in said) == 1


CONFIG = "pivotnet_nuscenes_swint"
# stands in for the run.sh of a patched checkout of upstream
RUN_SH = """
# python3 -m pivotnet.upstream.launch
steps="$PIVOTNET_PERFORMANCE_FLAG|$PIVOTNET_PERFORMANCE_STEPS"
echo "$PWD|$*|$CARDS|$steps|$DATA_ROOT|$PIVOTNET_DEVICE|$OMP_NUM_THREADS" >>"$FAKE_CALL"
case "$FAKE_MODE" in
  fail) echo "step 7"; echo "ValueError: rank 3 broke" >&2; exit 3 ;;
  hang) sleep 600 & trap '' TERM; echo started >"$FAKE_CALL.hangs"; sleep 600; sleep 600 ;;
  silent) exit 0 ;;
esac
cp "$FAKE_RUN"/steps.rank*.jsonl "$FAKE_RUN/summary.json" "$PIVOTNET_OUTPUT"
mkdir -p "$PIVOTNET_OUTPUT/checkpoints" && touch "$PIVOTNET_OUTPUT/checkpoints/checkpoint_epoch_1.pth"
"""


@pytest.fixture
def patched(checkout, tmp_path) -> ScriptCopy:
    """A checkout with upstream's in PivotNet/, which has the data."""
    upstream = checkout.root / "PivotNet"
    (upstream / "configs").mkdir(parents=True)
    (upstream / "configs" / "pivotnet_nuscenes_swint.py").touch()
    (upstream / "run.sh").write_text(RUN_SH)
    make_run(tmp_path / "run", ranks=8, preset="swint", evaluation={"val": EVALUATION})
    make_data(upstream / "data" / "nuscenes", samples=1)
    checkout.environment.update(
        FAKE_RUN=str(tmp_path / "run"), FAKE_CALL=str(tmp_path / "call"), FAKE_MODE="", PRESET="swint", CARDS="8"
    )
    return checkout


def test_patched_runs_go_through_its_run_sh_each_with_a_folder_of_its_own(patched):
    runs = [patched.start(PERFORMANCE, "--steps", 12) for _ in range(2)]
    said = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert len(patched.outputs()) == 2
    for out, _ in said:
        upstream = patched.root / "PivotNet"
        assert f"training the patched checkout in {upstream}, configuration pivotnet_nuscenes_swint" in out
        result = final_result(out)
        assert result["RankSize"] == "8" and result["CaseName"] == "PivotNet_bs1_8p_performance"
    call = Path(patched.environment["FAKE_CALL"])
    root = upstream / "data" / "nuscenes"

    def called(steps: str, *words: str) -> bool:
        lines = call.read_text().splitlines()
        call.unlink()
        return lines == [f"{upstream}|{one}|8|{steps}|{root}|cpu|1" for one in words]

    assert called("1|12", *2 * [f"train {CONFIG} 30"])
    status, out, err = patched.run(FULL, "--epochs", 2, "--", "--exp_options", "seed=1")
    assert status == 0, out + err
    (output,) = (path for path in patched.outputs() if path.name.startswith("full"))
    saved = output / "checkpoints" / "checkpoint_epoch_1.pth"
    assert called("|", f"train {CONFIG} 2 --exp_options seed=1", f"test {CONFIG} {saved}")
    assert final_result(out)["mAP_easy"] == "61.5"
    torch.save({"model_state": {}}, saved)
    saved.with_name("checkpoint_epoch_2.pth").touch()  # as a power failure leaves it
    status, out, err = patched.run(FULL, "--resume", output)
    assert "checkpoint_epoch_2.pth cannot be read" in out and f"going on from {saved}" in out
    assert status == 0, out + err
    assert called("|", f"train-continue {CONFIG} {saved} -e 2 --exp_options seed=1", f"test {CONFIG} {saved}")
    status, out, err = patched.run(FULL, "--output", output.parent / "new", "--", "--amp", "bf16")
    assert status == 2 and err.startswith("error: --amp: the patched checkout takes ") and err.count("\n") == 1
    assert not (output.parent / "new").exists()


def test_a_failure_is_reported_with_what_was_written(patched):
    for mode, said in (("fail", "ValueError: rank 3 broke"), ("silent", "without a summary of its steps")):
        status, out, err = patched.run(PERFORMANCE, FAKE_MODE=mode)
        assert status == 1 and said in err and TITLE not in out
    assert not list((patched.root / "test" / "output").glob("*.log"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_even_what_does_not_listen(patched, number, status):
    process = patched.start(PERFORMANCE, FAKE_MODE="hang", PIVOTNET_GRACE="2" if number == signal.SIGINT else "600")
    wait_for(Path(patched.environment["FAKE_CALL"] + ".hangs").exists, lambda: process.poll() is None)
    mark = f"FAKE_CALL={patched.environment['FAKE_CALL']} "
    assert len(processes("environ", mark)) >= 3
    asked = time.monotonic()
    if number == signal.SIGTERM:
        process.send_signal(number)
        time.sleep(0.5)  # the second signal ends what ignores the first
    out, err = interrupt(process, number)
    assert process.returncode == status and TITLE not in out and "interrupted" in err
    assert time.monotonic() - asked < 30
    assert not processes("environ", mark)


def test_a_python_that_is_missing_or_lacks_packages_is_named(checkout):
    for name, said in (("/bin/false", "lacks one of: torch"), ("/bare", "is no command; name a Python interpreter")):
        status, _, err = checkout.run(FULL, PYTHON=name)
        assert status == 2 and f"PYTHON={name}" in err and said in err and err.count("\n") == 1


FAKE_PYTHON = f"""#!/usr/bin/env bash
# a Python without packages, that makes environments which note what is installed into them
case "$*" in
  *--version) echo "Python 3.11.0" ;;
  "-m venv --clear "*) sleep 1; mkdir -p "${{@: -1}}/bin"; cp "$0" "${{@: -1}}/bin/python" ;;
  *"pip install"*) sleep 0.3; echo "$*" >>"$INSTALL_LOG" ;;
  *"--check"*) exec "{sys.executable}" "$@" ;;
  "-m pivotnet"*) echo "PY=$0 $*" ;;
  *find_spec*) exit 1 ;;
esac
"""


def test_environments_are_made_once_by_scripts_that_start_at_once(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("python3", "python3.11"):
        (tmp_path / "bin" / name).write_text(FAKE_PYTHON)
        (tmp_path / "bin" / name).chmod(0o755)
    log = tmp_path / "installed"
    environment = {"PATH": f"{tmp_path / 'bin'}:{checkout.environment['PATH']}", "INSTALL_LOG": str(log), "PYTHON": ""}
    status, _, err = checkout.run(FULL, "--cards", "many", **environment)
    assert status == 2 and err == "error: --cards (CARDS) is many: give a whole number from 1 to 1024\n"
    assert "--resume" in checkout.run(FULL, "--help", **environment)[1] and not log.exists(), "before installing"
    runs = [checkout.start(FULL, "--cards", "3", **environment) for _ in range(3)]
    said = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert all(f"PY={checkout.root}/.venv/bin/python -m pivotnet run full --cards 3" in out for out, _ in said)
    lines = log.read_text().splitlines()
    assert len(lines) == 3 and lines[1].endswith(f"-r {checkout.root}/requirements.txt")  # pip, packages, pivotnet
    checkout.run(FULL, **environment)
    assert log.read_text().splitlines() == lines, "a second run installs nothing"


STEPS = 8
KEEPING = ("--steps", STEPS, *SHORT[2:], "--keep", 2)
MOMENTS = ("start", "step", "save")
TARGETS = ("run", "script", "launcher", "rank 0", "rank 1", "worker")
MARK = "KILL_TEST"  # environment variable of all processes of a run


def targets(name: str, process: Popen[str], mark: str, output: Path) -> set[int]:
    """Numbers of the processes to be killed; empty while there are none."""
    if name == "script":
        return {process.pid}
    if name == "launcher":
        return processes("cmdline", "pivotnet.launch.torchrun") & processes("environ", mark)
    if name == "run":
        return processes("environ", mark)
    with contextlib.suppress(ValueError):
        if name != "worker":
            return {rank_in(output, int(name[-1]))}
        ranks = processes("environ", " RANK=") & processes("cmdline", str(output))
        return set(random.sample(sorted(ranks - {rank_in(output, rank) for rank in (0, 1)}), 1))
    return set()


def kill(moment: str, target: str, process: Popen[str], mark: str, output: Path, rng: random.Random) -> bool:
    """Kill when the moment has come; returns whether that was before the end of the run."""
    begin, steps = time.monotonic() + rng.uniform(0, 12), len(losses(output)) + rng.randint(1, 3)
    moments = {
        "start": lambda: time.monotonic() > begin,
        "step": lambda: len(losses(output)) >= steps,
        "save": lambda: any((output / "checkpoints").glob(".step_*.tmp")),
    }
    numbers: set[int] = set()
    while process.poll() is None and not numbers:
        numbers = targets(target, process, mark, output) if moments[moment]() else set()
        time.sleep(0.001)
    for number in numbers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    return bool(numbers)


@pytest.mark.full
def test_kills_at_random_moments(checkout, data, tmp_path):
    kills, rng = int(os.environ.get("KILLS", "12")), random.Random(int(os.environ.get("SEED", "0")))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    status, out, err = checkout.run(PERFORMANCE, "--data-root", data, "--output", whole, *KEEPING)
    assert status == 0, out + err

    every = [*product(MOMENTS, TARGETS)]
    cases = [case for _ in range(kills) for case in rng.sample(every, len(every))]
    killed, finished = 0, 0
    while killed < kills or parts.exists():
        resumed = bool(list_checkpoints(parts / "checkpoints"))
        if not resumed:
            shutil.rmtree(parts, ignore_errors=True)
        options = ("--resume", parts) if resumed else ("--data-root", data, "--output", parts, *KEEPING)
        mark = str(time.monotonic_ns())
        process = checkout.start(PERFORMANCE, *options, **{MARK: mark})
        if killed < kills:
            case = cases[killed]
            hit = kill(*case, process, f"{MARK}={mark}", parts, rng)
            _, err = process.communicate(timeout=180)
            assert not hit or case != ("step", "worker") or not process.returncode or "worker was killed" in err
            wait_for(lambda mark=mark: not processes("environ", f"{MARK}={mark}"))
            killed += hit
            if hit:
                saved = len(list_checkpoints(parts / "checkpoints"))
                print(killed, *case, f"{len(losses(parts))} steps, {saved} saved")
        else:
            out, err = process.communicate(timeout=600)
            assert process.returncode == 0, out + err
        for path in list_checkpoints(parts / "checkpoints"):
            read_checkpoint(path)
        if process.returncode == 0:
            check_equal(whole, parts, STEPS)
            shutil.rmtree(parts)
            finished += 1
    print(f"{killed} kills, {finished} runs finished, each equal to the uninterrupted one")
    assert finished
