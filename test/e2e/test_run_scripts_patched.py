"""The run scripts around the patched checkout of upstream; a stand-in for its run.sh leaves the records of a run."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest
from checkout_copy import (
    FULL,
    PERFORMANCE,
    RUN_SH,
    TITLE,
    Checkout,
    final_result,
    interrupt,
    make_checkout,
    processes_of_run,
    wait_until,
)
from support.fake_data import make_data
from test_report import EVALUATION, make_run

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    """A checkout with upstream's in PivotNet/, and with data."""
    copy = make_checkout(tmp_path / "a check out")
    upstream = copy.root / "PivotNet"
    (upstream / "configs").mkdir(parents=True)
    (upstream / "configs" / "pivotnet_nuscenes_swint.py").touch()
    (upstream / "run.sh").write_text(RUN_SH)
    make_run(tmp_path / "run", ranks=8, preset="swint", evaluation={"val": EVALUATION})
    make_data(copy.root / "data" / "nuscenes", samples=1)
    copy.environment.update(
        FAKE_RUN=str(tmp_path / "run"), FAKE_CALL=str(tmp_path / "call"), FAKE_MODE="", PRESET="swint", CARDS="8"
    )
    return copy


def call(checkout: Checkout) -> list[str]:
    """What the stand-in was called with."""
    return Path(checkout.environment["FAKE_CALL"]).read_text().strip().split("|")


def test_the_performance_run_goes_through_its_run_sh(checkout):
    done = checkout.run(PERFORMANCE, "--steps", 12)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        f"training the patched checkout in {checkout.root}/PivotNet, configuration pivotnet_nuscenes_swint"
        in done.stdout
    )
    folder, arguments, cards, flag, steps, data_root, port = call(checkout)
    assert folder == str(checkout.root / "PivotNet") and arguments == "train pivotnet_nuscenes_swint 30"
    assert (cards, flag, steps, port) == ("8", "1", "12", "unset")
    assert data_root == str(checkout.root / "data" / "nuscenes")
    result = final_result(done.stdout)
    assert result["RankSize"] == "8" and result["CaseName"] == "PivotNet_bs1_8p_performance"


def test_the_full_run_is_its_pipeline(checkout):
    done = checkout.run(FULL, "--epochs", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert call(checkout)[1] == "pipeline pivotnet_nuscenes_swint 2" and call(checkout)[3] == ""
    assert final_result(done.stdout)["mAP_easy"] == "61.5"


@pytest.mark.parametrize(
    ("mode", "said"), [("fail", "ValueError: rank 3 broke"), ("silent", "without a summary of its steps")]
)
def test_a_failure_is_told_with_the_last_lines(checkout, mode, said):
    done = checkout.run(PERFORMANCE, FAKE_MODE=mode)
    assert done.returncode == 1 and said in done.stderr and TITLE not in done.stdout
    assert not list((checkout.root / "test" / "output").glob("*.log"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_even_what_does_not_listen(checkout, number, status):
    process = checkout.start(PERFORMANCE, FAKE_MODE="hang", PIVOTNET_GRACE="2" if number == signal.SIGINT else "600")
    hangs = Path(checkout.environment["FAKE_CALL"] + ".hangs")
    wait_until(hangs.exists, process)
    mark = f"FAKE_CALL={checkout.environment['FAKE_CALL']}"
    assert len(processes_of_run(mark)) >= 3
    asked = time.monotonic()
    if number == signal.SIGTERM:
        process.send_signal(number)
        time.sleep(0.5)  # the second signal ends what ignores the first
    out, err = interrupt(process, number)
    assert process.returncode == status and TITLE not in out and "interrupted" in err
    assert time.monotonic() - asked < 30
    assert processes_of_run(mark) == []


def test_runs_at_once_get_folders_of_their_own(checkout):
    runs = [checkout.start(PERFORMANCE) for _ in range(3)]
    said = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert len(checkout.outputs()) == 3 and all(TITLE in out for out, _ in said)


def test_an_unpatched_checkout_is_not_trained(checkout):
    (checkout.root / "PivotNet" / "run.sh").write_text("python3 configs/$2.py -d 0-7\n")
    done = checkout.run(PERFORMANCE)
    assert done.returncode == 1 and "is not patched" in done.stderr and done.stderr.count("\n") == 1


BAD = {
    "unknown option": (("--stepz", "3"), {}, "unknown option --stepz"),
    "no value": (("--steps",), {}, "--steps needs a value"),
    "no number": (("--cards", "many"), {}, "--cards (CARDS) is many"),
    "zero": ((), {"STEPS": "0"}, "--steps (STEPS) is 0"),
    "no data root": (("--data-root", "/no where"), {}, "data root /no where does not exist"),
    "no nuScenes": ((), {"DATA_ROOT": "/usr"}, "/usr is no nuScenes tree"),
    "no address": ((), {"NNODES": "2"}, "set MASTER_ADDR"),
    "node rank": ((), {"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK is 2"),
    "nothing to resume": (("--resume",), {}, "nothing to resume"),
    "not there": (("--resume", "/no where"), {}, "nothing to resume: /no where has no checkpoints"),
    "python": ((), {"PYTHON": "/no/python"}, "PYTHON=/no/python is no command"),
    "network": (("--network", "mine"), {}, "choose builtin or patched"),
    "directory": ((), {"PIVOTNET_DIR": "/usr"}, "PIVOTNET_DIR=/usr is no checkout"),
    "preset": (("--preset", "swinl"), {}, "unknown preset 'swinl'"),
    "device": (("--device", "abacus"), {}, "unknown device 'abacus'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(checkout, name):
    options, environment, message = BAD[name]
    done = checkout.run(FULL, *options, **environment)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("[pivotnet] error: ")
    assert checkout.outputs() == []


def test_help_names_every_option(checkout):
    done = checkout.run(FULL, "--help")
    assert done.returncode == 0 and done.stderr == ""
    script = (checkout.root / "test" / "train.sh").read_text()
    options = {word.rstrip(")") for word in script.split() if word.startswith("--") and word.endswith(")")}
    assert {"--steps", "--cards", "--weights"} <= options - {"--)"}
    assert all(option in done.stdout for option in options if option != "--")


FAKE_PYTHON = """#!/usr/bin/env bash
# a Python that makes environments which note what is installed into them
case "$*" in
  *--version) echo "Python 3.11.0" ;;
  "-m venv --clear "*) sleep 1; mkdir -p "${@: -1}/bin"; cp "$0" "${@: -1}/bin/python" ;;
  *"pip install"*) sleep 0.3; echo "$*" >>"$INSTALL_LOG" ;;
  -c*) exit 0 ;;
esac
"""


def test_environments_are_made_once_by_scripts_that_start_at_once(checkout, tmp_path):
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "python3.11"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    log = tmp_path / "installed"
    script = checkout.root / "test" / "set_up.sh"
    script.write_text('source "$(dirname "$0")/lib.sh"\nmake_venv .venv "$ROOT/requirements.txt"\necho "PY=$PY"\n')
    environment = {"PATH": f"{tmp_path / 'bin'}:{checkout.environment['PATH']}", "INSTALL_LOG": str(log)}
    runs = [checkout.start("set_up.sh", **environment) for _ in range(3)]
    said = [run.communicate(timeout=60) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    assert all(f"PY={checkout.root}/.venv/bin/python" in out for out, _ in said)
    lines = log.read_text().splitlines()
    assert len(lines) == 3 and lines[1].endswith(f"-r {checkout.root}/requirements.txt")  # pip, packages, pivotnet
    checkout.run("set_up.sh", **environment)
    assert log.read_text().splitlines() == lines, "a second run installs nothing"


def test_a_python_that_lacks_packages_is_named(checkout, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "$@"\n')
    bare.chmod(0o755)
    done = checkout.run(FULL, PYTHON=str(bare))
    assert done.returncode == 1 and f"PYTHON={bare} lacks one of: torch" in done.stderr
