"""Runs this folder's tests on simulated NPUs, in one process of its own.

torch_npu must find CANN's libraries when the process starts, so these tests cannot run in the ordinary one: the first
of them starts ``tools/cannsim/run python -m pytest test/npu``, whose reports the ordinary process passes on. Inside
(CANNSIM is set) tests run as they are; the same command by hand does the same.
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
REPORTS = "PIVOTNET_NPU_REPORTS"  # the file to which the simulated process adds its reports


def missing() -> str | None:
    """Why the simulator cannot run here; None when it can."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "the simulated NPU needs g++ (Debian: apt-get install g++)"
    if not (CANNSIM / "site" / "torch_npu").exists():
        return "torch_npu and mx_driving are not in tools/cannsim/site: run tools/cannsim/setup.sh"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    problem = None if INSIDE else missing()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=problem) if problem else pytest.mark.npu)


def run_inside(items: list[pytest.Item], reports: Path) -> dict[str, list[pytest.TestReport]]:
    """The reports of the simulated process on each test; a test that it did not end has failed."""
    build = subprocess.run([sys.executable, CANNSIM / "build.py"], capture_output=True, text=True)
    problem = f"tools/cannsim/build.py failed: {build.stderr.strip()}"
    reports.touch()
    if build.returncode == 0:
        command = [str(CANNSIM / "run"), sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [item.nodeid for item in items]
        environment = {**os.environ, REPORTS: str(reports)}
        inner = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        problem = f"the simulated process ended before this test:\n{(inner.stdout + inner.stderr)[-6000:]}"
    found: dict[str, list[pytest.TestReport]] = {item.nodeid: [] for item in items}
    for line in reports.read_text().splitlines():
        report = pytest.TestReport._from_json(json.loads(line))
        if isinstance(report.longrepr, list):  # where a test was skipped; a tuple before it was JSON
            report.longrepr = tuple(report.longrepr)
        found[report.nodeid].append(report)
    for item in items:
        own = found[item.nodeid]
        if not own or own[-1].when != "teardown":
            own.append(pytest.TestReport(item.nodeid, item.location, {}, "failed", problem, "call"))
    return found


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if INSIDE or item.get_closest_marker("npu") is None:  # pytest asks every conftest, whatever the item's folder
        return None
    found = getattr(item.session, "npu_reports", None)
    if found is None:
        items = [other for other in item.session.items if other.get_closest_marker("npu")]
        folder = Path(item.config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]
        found = item.session.npu_reports = run_inside(items, folder / "npu.jsonl")  # type: ignore[attr-defined]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in found[item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


if INSIDE:
    os.environ["CANNSIM_STRICT"] = "1"  # no CPU fallback and no float64 on the device, in any test
    os.environ["CANNSIM_CONTRACT"] = "strict"  # and no call that CANN would not take or would give to its AI CPU
    importlib.import_module("torch_npu")  # torch before 2.5 does not load it by itself

    def pytest_runtest_logreport(report: pytest.TestReport) -> None:
        if REPORTS in os.environ:
            with open(os.environ[REPORTS], "a") as stream:
                stream.write(json.dumps(report._to_json(), default=str) + "\n")

    @pytest.fixture(scope="session", autouse=True)
    def selected_device() -> Any:
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
