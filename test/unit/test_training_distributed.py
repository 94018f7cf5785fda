"""What ranks exchange, and what happens when one is lost."""

import multiprocessing
import socket
import time

import pytest
import torch
from support.ranks import RANKS, exchange

from pivotnet.distributed import Ranks, process_group, ranks_from_environment
from pivotnet.errors import PivotNetError


@pytest.fixture
def start(tmp_path):
    """Starts two ranks of a case of support.ranks.exchange."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawning = multiprocessing.get_context("spawn")
    processes = []

    def start(case: str) -> list[multiprocessing.Process]:
        for rank in range(RANKS):
            processes.append(spawning.Process(target=exchange, args=(rank, case, tmp_path, port)))
            processes[-1].start()
        return processes

    yield start
    for process in processes:
        process.kill()
        process.join()


def test_ranks_exchange_until_one_is_lost_which_is_one_line(tmp_path, start):
    first, second = start("lost")
    first.join(120)
    assert (first.exitcode, second.exitcode) == (0, 9)
    for rank in range(RANKS):
        assert (tmp_path / f"agreed{rank}").read_text() == "rank 1: bad disk"
    message = (tmp_path / "lost").read_text()
    assert "rank 0 lost the connection to another rank" in message and "\n" not in message


def test_sigterm_ends_a_rank_that_waits_for_ever(tmp_path, start, capfd):
    first, _ = start("stuck")
    end = time.monotonic() + 90
    while not (tmp_path / "ready").exists():
        assert first.is_alive() and time.monotonic() < end
        time.sleep(0.1)
    first.terminate()
    asked = time.monotonic()
    first.join(60)
    assert first.exitcode == 143 and "no step has finished since SIGTERM" in capfd.readouterr().err
    assert 4 < time.monotonic() - asked < 25


def test_ranks_come_from_torchrun(monkeypatch):
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert ranks_from_environment() == Ranks(5, 1, 8, 4)
    for name, value in (("RANK", "five"), ("LOCAL_RANK", "-1"), ("WORLD_SIZE", "²"), ("WORLD_SIZE", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(PivotNetError, match=f"{name} in the environment is {value}: give a whole number"):
                ranks_from_environment()


def test_a_group_that_cannot_form_is_one_line(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "no-port")
    with pytest.raises(PivotNetError, match="rank 0 cannot join the gloo group of 2 ranks at 127.0.0.1:no-port"):
        with process_group(Ranks(0, 0, 2, 2), torch.device("cpu")):
            pass
