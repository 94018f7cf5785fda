"""Processes of one group: what ranks exchange, what happens when one is lost, and batch norm over all of them."""

import copy
import multiprocessing
import socket
import time

import pytest
import torch
from support.commands import wait_for
from support.ranks import NORM_CASES, RANKS, batch_norm, exchange, norm_data, norm_share, observe_norm, run_ranks
from torch import nn

from pivotnet.distributed import Ranks, process_group, ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.model.ops.sync_batch_norm import SyncBatchNorm, convert_sync_batch_norm


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
    wait_for((tmp_path / "ready").exists, first.is_alive)
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


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return run_ranks(norm_share, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("case", range(len(NORM_CASES)))
def test_two_processes_equal_the_joined_batch(recorded, case):
    """Recomputed in the backward pass, running statistics move twice, as those of BatchNorm2d."""
    offset, recompute = NORM_CASES[case]
    ranks = [rank[case] for rank in recorded]
    images, weights = norm_data(offset)
    joined = observe_norm(batch_norm().double(), images.double(), weights.double(), recompute)
    for key, wanted in joined.items():
        if key.startswith(("output", "image")):
            ours = torch.cat([rank[key] for rank in ranks])
        elif "gradient" in key:  # each rank has its share, which data parallel training adds up
            ours = sum(rank[key] for rank in ranks)
        else:  # statistics: the same on both ranks
            ours = ranks[0][key]
            torch.testing.assert_close(ours, ranks[1][key], rtol=0, atol=0)
        # Inputs of unit deviation around the offset are themselves known to 6e-8 of the offset only.
        tolerance = 1e-5 * float(wanted.abs().max()) + 1e-6 * offset
        torch.testing.assert_close(ours.to(wanted.dtype), wanted, rtol=0, atol=tolerance, msg=key)


def test_one_process_is_batch_norm_with_the_tensors_options_and_mode_of_before():
    plain = batch_norm()
    converted = convert_sync_batch_norm(copy.deepcopy(plain))
    assert isinstance(converted[0], SyncBatchNorm)
    first, second = (observe_norm(layers, *norm_data(0.0)) for layers in (plain, converted))
    for key, tensor in first.items():
        torch.testing.assert_close(second[key], tensor, rtol=0, atol=0)
    frozen = nn.BatchNorm2d(4, eps=1e-3, momentum=0.01).eval()
    weight = frozen.weight.requires_grad_(False)
    inner = convert_sync_batch_norm(nn.Sequential(nn.Sequential(frozen), nn.LayerNorm(3)))[0][0]
    assert inner.weight is weight and not weight.requires_grad
    assert (inner.eps, inner.momentum, inner.training) == (1e-3, 0.01, False)
