"""Runs this folder's tests on simulated NPUs, in one process of its own.

torch_npu must find CANN's libraries when the process starts, so these tests cannot run in the ordinary one: the first
of them starts ``tools/cannsim/run python -m pytest test/npu``, and each reports what became of it there. Inside that
process (CANNSIM is set) they run as they are; the same command by hand does the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CANNSIM = ROOT / "tools" / "cannsim"
INSIDE = "CANNSIM" in os.environ
OUTCOMES = "PIVOTNET_NPU_OUTCOMES"  # the file in which the inner process writes its outcomes


def missing() -> str | None:
    """Why the simulator cannot run here; None when it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "the simulated NPU needs g++ (Debian: apt-get install g++)"
    if not (CANNSIM / "site" / "torch_npu").exists():
        return "torch_npu and mx_driving are not in tools/cannsim/site: run tools/cannsim/setup.sh"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.npu)


class Inner:
    """The run of the simulated process, started once, and what each test did in it."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, Any]] | None = None
        self.problem: str | None = None

    def run(self, items: list[pytest.Item], folder: Path) -> None:
        self.outcomes = {}
        self.problem = missing()
        if self.problem:
            return
        build = subprocess.run([sys.executable, CANNSIM / "build.py"], capture_output=True, text=True)
        if build.returncode:
            self.problem = f"tools/cannsim/build.py failed: {build.stderr.strip()}"
            pytest.fail(self.problem, pytrace=False)
        outcomes = folder / "npu-outcomes.json"
        outcomes.unlink(missing_ok=True)
        command = [str(CANNSIM / "run"), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [item.nodeid for item in items]
        environment = dict(os.environ, **{OUTCOMES: str(outcomes)})
        inner = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if outcomes.exists():
            self.outcomes = json.loads(outcomes.read_text())
        self.tail = (inner.stdout + inner.stderr)[-6000:]


INNER = Inner()


def report(item: pytest.Item, phase: str, outcome: str, longrepr: Any, seconds: float) -> pytest.TestReport:
    keywords = {name: 1 for name in item.keywords}
    made = pytest.TestReport(item.nodeid, item.location, keywords, outcome, longrepr, phase, duration=seconds)  # type: ignore[arg-type]
    item.ihook.pytest_runtest_logreport(report=made)
    return made


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if INSIDE or item.get_closest_marker("npu") is None:  # pytest asks every conftest, whatever the item's folder
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if INNER.outcomes is None:
        mine = [other for other in item.session.items if other.get_closest_marker("npu")]
        INNER.run(mine, Path(item.config._tmp_path_factory.getbasetemp()))  # type: ignore[attr-defined]
    assert INNER.outcomes is not None
    outcome, seconds = "failed", 0.0
    text = f"the simulated process ended before this test:\n{getattr(INNER, 'tail', '')}"
    if INNER.problem:
        outcome, text = "skipped", INNER.problem
    elif item.nodeid in INNER.outcomes:
        seen = INNER.outcomes[item.nodeid]
        outcome, text, seconds = seen["outcome"], seen["text"], seen["seconds"]
    report(item, "setup", "passed", None, 0.0)
    path, line, _ = item.location
    longrepr: Any = None
    if outcome == "skipped":
        longrepr = (path, line, text)
    elif outcome == "failed":
        longrepr = text
    report(item, "call", outcome, longrepr, seconds)
    report(item, "teardown", "passed", None, 0.0)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


if INSIDE:
    os.environ["CANNSIM_STRICT"] = "1"  # no CPU fallback and no float64 on the device, in any test
    importlib.import_module("torch_npu")  # torch before 2.5 does not load it by itself
    SEEN: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(report: pytest.TestReport) -> None:
        entry = SEEN.setdefault(report.nodeid, {"outcome": "passed", "text": "", "seconds": 0.0})
        entry["seconds"] += report.duration
        if report.outcome != "passed" and entry["outcome"] == "passed":
            skipped = report.outcome == "skipped" and isinstance(report.longrepr, tuple)
            entry["outcome"] = report.outcome
            entry["text"] = report.longrepr[2] if skipped else report.longreprtext  # type: ignore[index]
        if os.environ.get(OUTCOMES) and report.when == "teardown":
            Path(os.environ[OUTCOMES]).write_text(json.dumps(SEEN))

    @pytest.fixture(scope="session", autouse=True)
    def device() -> Any:
        """The NPU as the package sets it up: no private tensor formats, no compilation of operators at run time."""
        from pivotnet.device import select_device

        return select_device("npu")
