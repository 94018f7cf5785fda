"""What ranks tell each other, and what happens when one is lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pivotnet.distributed import (
    CollectiveError,
    Ranks,
    agree,
    average_over_ranks,
    gather_objects,
    process_group,
    ranks_from_environment,
)
from pivotnet.errors import PivotNetError

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}


def start(case: str, folder: Path, world: int = 2) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(HERE / "training_rank.py"), case]
    return [
        subprocess.Popen(
            [*command, str(rank), str(world), str(port), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        for rank in range(world)
    ]


def test_exchange_between_ranks(tmp_path):
    for process in start("exchange", tmp_path):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "rank 1: bad disk" in out


def test_a_lost_rank_is_one_line_in_the_others(tmp_path):
    first, second = start("lost", tmp_path)
    out, err = first.communicate(timeout=120)
    second.communicate(timeout=120)
    assert first.returncode == 2 and second.returncode == 9
    assert len(err.strip().splitlines()) == 1 and "rank 0 lost the connection to another rank" in err


def test_sigterm_ends_a_rank_that_waits_for_ever(tmp_path):
    first, second = start("stuck", tmp_path)
    end = time.monotonic() + 90
    while not ((tmp_path / "ready").exists() and (tmp_path / "pid").exists()):
        assert first.poll() is None and time.monotonic() < end, first.communicate()
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, err = first.communicate(timeout=60)
    assert first.returncode == 143 and "no step has finished since SIGTERM" in err
    assert 4 < time.monotonic() - asked < 25
    second.kill()
    second.communicate()


def test_a_single_process_needs_no_group(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    ranks = ranks_from_environment()
    assert ranks == Ranks() and ranks.main
    with process_group(ranks, torch.device("cpu")):
        assert gather_objects(3, ranks) == [3]
        assert torch.equal(average_over_ranks(torch.ones(2), ranks), torch.ones(2))
        with pytest.raises(CollectiveError, match="no"):
            agree(PivotNetError("no"), ranks)


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
        with process_group(Ranks(0, 0, 2, 2), torch.device("cpu")):
            pass
