"""What ranks exchange, and what happens when one is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pivotnet.distributed import (
    CollectiveError,
    Ranks,
    agreed,
    average_over_ranks,
    gather_objects,
    process_group,
    ranks_from_environment,
)
from pivotnet.errors import PivotNetError

HERE = Path(__file__).parent
CPU = torch.device("cpu")


@contextlib.contextmanager
def two_ranks(case: str, folder: Path) -> Iterator[list[subprocess.Popen]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, str(HERE / "training_rank.py"), case, str(folder)]
    processes = []
    for rank in ("0", "1"):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": port}
        environment = {**os.environ, **shared, **own}
        processes.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        )
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_ranks_exchange_until_one_is_lost_which_is_one_line(tmp_path):
    with two_ranks("lost", tmp_path) as (first, second):
        out, err = first.communicate(timeout=120)
        assert second.wait(120) == 9 and first.returncode == 2
        assert "rank 1: bad disk" in out
        assert len(err.strip().splitlines()) == 1 and "rank 0 lost the connection to another rank" in err


def test_sigterm_ends_a_rank_that_waits_for_ever(tmp_path):
    with two_ranks("stuck", tmp_path) as (first, _):
        end = time.monotonic() + 90
        while not (tmp_path / "ready").exists():
            assert first.poll() is None and time.monotonic() < end, first.communicate()
            time.sleep(0.1)
        first.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        _, err = first.communicate(timeout=60)
        assert first.returncode == 143 and "no step has finished since SIGTERM" in err
        assert 4 < time.monotonic() - asked < 25


def test_a_single_process_needs_no_group(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    ranks = ranks_from_environment()
    assert ranks == Ranks() and ranks.main
    with process_group(ranks, CPU):
        assert gather_objects(3, ranks) == [3]
        assert torch.equal(average_over_ranks(torch.ones(2), ranks), torch.ones(2))
        with pytest.raises(CollectiveError, match="no"), agreed(ranks):
            raise PivotNetError("no")


def test_ranks_come_from_torchrun(monkeypatch):
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert ranks_from_environment() == Ranks(5, 1, 8, 4)
    monkeypatch.setenv("RANK", "five")
    with pytest.raises(PivotNetError, match="RANK='five'"):
        ranks_from_environment()


def test_a_group_that_cannot_form_is_one_line(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "no-port")
    with pytest.raises(PivotNetError, match="rank 0 cannot join the gloo group of 2 ranks at 127.0.0.1:no-port"):
        with process_group(Ranks(0, 0, 2, 2), CPU):
            pass
