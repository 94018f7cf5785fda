"""Runs this folder's tests on simulated NPUs, in one process of its own.

torch_npu must find CANN's libraries when the process starts, so these tests cannot run in the ordinary one: the first
of them starts ``tools/cannsim/run python -m pytest test/npu``, and each reports what became of it there. Inside that
process (CANNSIM is set) they run as they are; the same command by hand does the same.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CANNSIM = ROOT / "tools" / "cannsim"
INSIDE = "CANNSIM" in os.environ
OUTCOMES = "PIVOTNET_NPU_OUTCOMES"  # the file in which the inner process writes its outcomes
SEEN: dict[str, dict[str, Any]] = {}  # outcome, text and seconds of each test


def missing() -> str | None:
    """Why the simulator cannot run here; None when it can."""
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


def run_inside(nodeids: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """What became of each test in the simulated process."""
    problem = missing()
    if problem:
        return {nodeid: {"outcome": "skipped", "text": problem, "seconds": 0.0} for nodeid in nodeids}
    build = subprocess.run([sys.executable, CANNSIM / "build.py"], capture_output=True, text=True)
    found, text = {}, f"tools/cannsim/build.py failed: {build.stderr.strip()}"
    if build.returncode == 0:
        outcomes = folder / "npu-outcomes.json"
        command = [str(CANNSIM / "run"), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *nodeids]
        environment = dict(os.environ, **{OUTCOMES: str(outcomes)})
        inner = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        found = json.loads(outcomes.read_text()) if outcomes.exists() else {}
        text = f"the simulated process ended before this test:\n{(inner.stdout + inner.stderr)[-6000:]}"
    return {nodeid: found.get(nodeid, {"outcome": "failed", "text": text, "seconds": 0.0}) for nodeid in nodeids}


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if INSIDE or item.get_closest_marker("npu") is None:  # pytest asks every conftest, whatever the item's folder
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    if not SEEN:
        mine = [other.nodeid for other in item.session.items if other.get_closest_marker("npu")]
        SEEN.update(run_inside(mine, Path(item.config._tmp_path_factory.getbasetemp())))  # type: ignore[attr-defined]
    seen = SEEN[item.nodeid]
    path, line, _ = item.location
    skipped = seen["outcome"] == "skipped"
    for phase in ("setup", "call", "teardown"):
        outcome, longrepr, seconds = "passed", None, 0.0
        if phase == "call":
            outcome, seconds = seen["outcome"], seen["seconds"]
            longrepr = (path, line, seen["text"]) if skipped else seen["text"] or None
        keywords = {name: 1 for name in item.keywords}
        report = pytest.TestReport(item.nodeid, item.location, keywords, outcome, longrepr, phase, duration=seconds)
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


if INSIDE:
    os.environ["CANNSIM_STRICT"] = "1"  # no CPU fallback and no float64 on the device, in any test
    os.environ["CANNSIM_CONTRACT"] = "strict"  # and no call that CANN would not take or would give to its AI CPU
    importlib.import_module("torch_npu")  # torch before 2.5 does not load it by itself

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

    @pytest.fixture
    def within_contract() -> Iterator[None]:
        """Every call of the test is one of which facts are known and that both releases of CANN take as they are."""
        from cannsim.counters import contract, faults

        contract()
        yield
        judged = contract()
        assert sum(counts["calls"] for counts in judged["8.5.0"].values()) > 100
        assert not faults(judged)
