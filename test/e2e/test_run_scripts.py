"""The run scripts, run for real: from elsewhere, with spaces in paths, killed, interrupted, resumed, two at once."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from checkout_copy import (
    FULL,
    PERFORMANCE,
    TITLE,
    Checkout,
    final_result,
    interrupt,
    make_checkout,
    processes_of_run,
    processes_with,
    wait_until,
)
from commands import records
from support.fake_data import make_data

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    return make_checkout(tmp_path / "a check out")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data") / "nu scenes", samples=4)


def check_result(result: dict[str, str], output: Path, ranks: int) -> None:
    """Every number of a Final result against the records of all ranks."""
    counted = [record for rank in range(ranks) for record in records(output, rank) if record["counted"]]
    seconds = [record["seconds"] for record in counted]
    summary = json.loads((output / "summary.json").read_text())
    median = float(np.median(seconds))
    assert result["RankSize"] == str(ranks) and result["BatchSize"] == "1"
    assert float(result["Final Performance sec/iter"]) == pytest.approx(median, abs=5.1e-5)
    assert float(result["ActualFPS"]) == pytest.approx(ranks / median, abs=5.1e-5)
    assert float(result["Step p90 sec/iter"]) == pytest.approx(np.percentile(seconds, 90), abs=5.1e-5)
    share = sum(record["data_wait"] for record in counted) / sum(seconds)
    assert float(result["Data wait share"]) == pytest.approx(share, abs=5.1e-5)
    assert result["Steps timed"].startswith(f"{len(seconds)} on {ranks} ranks")
    wall = float(result["E2E Training Duration sec"])
    assert sum(record["seconds"] or 0 for record in records(output)) - 1 < wall == round(summary["wall_seconds"])


def ranks_in(output: Path) -> dict[int, int]:
    """{rank: process number} of the training that writes into ``output``."""
    found = {}
    for pid in processes_of_run("TORCHELASTIC_RUN_ID=none") + processes_of_run("GROUP_WORLD_SIZE=1"):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(output).encode() in line and b"torch.distributed.run" not in line:
            found.update({int(entry[5:]): pid for entry in entries if entry.startswith(b"RANK=")})
    return found


def test_performance_from_elsewhere_with_spaces_in_all_paths(checkout, data, tmp_path):
    output = tmp_path / "my output"
    done = checkout.run(PERFORMANCE, "--data-root", data, "--steps", 5, "--output", output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no accelerator used: preset smoke, 2 processes on the CPU" in done.stdout
    assert "training the built-in network, preset smoke" in done.stdout
    result = final_result(done.stdout)
    check_result(result, output, ranks=2)
    assert [record["step"] for record in records(output)] == list(range(5))
    written = (checkout.root / "test" / "output" / f"{result['CaseName']}.log").read_text()
    assert written in done.stdout
    again = checkout.run(PERFORMANCE, "--data-root", data, "--steps", 5, "--output", output)
    assert again.returncode != 0 and "holds a run already" in again.stderr and again.stderr.count("\n") == 1
    assert not processes_with(str(output))


def test_a_killed_rank_fails_the_script_at_once_with_its_name(checkout, data, tmp_path):
    output = tmp_path / "out"
    process = checkout.start(PERFORMANCE, "--data-root", data, "--steps", 500, "--output", output)
    wait_until(lambda: len(records(output)) >= 1, process)
    os.kill(ranks_in(output)[1], signal.SIGKILL)
    killed = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - killed < 20
    assert process.returncode == 1 and TITLE not in out
    assert "rank 1 of this machine was ended by signal 9 (KILL)" in err
    assert err.splitlines()[-1].startswith("[pivotnet] error: training failed")
    assert not processes_with(str(output))


def test_interrupted_and_resumed_with_its_own_options(checkout, data):
    process = checkout.start(FULL, "--data-root", data, "--epochs", 3, "--cards", 1, "--", "--save-every", 5)
    wait_until(lambda: checkout.outputs() and len(records(checkout.outputs()[0])) >= 2, process)
    out, err = interrupt(process)
    (output,) = checkout.outputs()
    assert process.returncode == 130 and TITLE not in out
    assert f"--resume {output}" in err
    assert not processes_with(str(output))
    done = len(records(output))
    assert 2 <= done < 12 and not json.loads((output / "summary.json").read_text())["finished"]

    resumed = checkout.run(FULL, "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    result = final_result(resumed.stdout)
    assert [record["step"] for record in records(output)] == list(range(12))
    assert result["CaseName"] == "PivotNet_bs1_1p_acc" and result["Resumed at step"].startswith(f"{done},")
    table = json.loads(next(output.glob("checkpoints/results_*/ap_val.json")).read_text())
    for key in ("mAP_hard", "mAP_easy"):
        assert result[key] == format(table["average"]["percent"][key], ".1f")
    assert len(list(output.glob("summary.2*.json"))) == 1, "the summary of the interrupted part was kept"
    assert checkout.outputs() == [output]


@pytest.mark.full
def test_two_nodes_on_one_host(checkout, data, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    output = tmp_path / "shared"
    nodes = []
    for rank in ("0", "1"):
        environment = {"NNODES": "2", "NODE_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        options = ("--data-root", data, "--epochs", 2, "--cards", 1, "--output", output)
        nodes.append(checkout.start(FULL, *options, **environment))
    (out0, err0), (out1, err1) = (node.communicate(timeout=300) for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], out0 + err0 + out1 + err1
    assert TITLE not in out1 and "node 0 prints the result" in out1
    result = final_result(out0)
    check_result(result, output, ranks=2)
    assert "mAP_hard" in result and len(records(output, rank=1)) == 4


@pytest.mark.full
def test_two_first_runs_at_once_share_one_synthetic_data_set(checkout):
    runs = [checkout.start(PERFORMANCE, "--steps", 4, "--cards", 1) for _ in range(2)]
    said = [run.communicate(timeout=600) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert len(checkout.outputs()) == 2
    for output, (out, _) in zip(checkout.outputs(), said):
        assert len(records(output)) == 4 and TITLE in out
    assert sum("already there" in out for out, _ in said) == 1


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_data_is_made_leaves_no_process(checkout, number):
    process = checkout.start(PERFORMANCE)
    wait_until(lambda: processes_with(f"pivotnet synth {checkout.root}"), process)
    time.sleep(1)
    interrupt(process, number)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert not processes_with(str(checkout.root))
