"""What a rank of a test with several processes does. Here, because a started process has to import it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pivotnet import distributed
from pivotnet.distributed import CollectiveError, agreed, gather_objects
from pivotnet.errors import LostRankError, PivotNetError
from pivotnet.model.ops.sync_batch_norm import convert_sync_batch_norm
from pivotnet.training.shutdown import Shutdown

RANKS = 2


def run_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work(rank)`` returned in each of RANKS processes, which form a group; ``folder`` is empty."""
    multiprocessing.spawn(_run_rank, args=(work, str(folder)), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def _run_rank(rank: int, work: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    time.sleep(0.5)  # torch 2.1 may hang when the group closes right after its last collective
    dist.destroy_process_group()


SAMPLES = (2, 3)  # of each rank, to batch norm
NORM_CASES = ((0.0, False), (300.0, False), (1.0, True))  # mean of the data, whether the forward is recomputed


def batch_norm() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.BatchNorm2d(5, momentum=0.3))
    for parameter in layers.parameters():
        nn.init.normal_(parameter)
    return layers


def norm_data(offset: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (sum(SAMPLES), 5, 6, 7)
    return torch.randn(shape, generator=generator) + offset, torch.randn(shape, generator=generator)


def observe_norm(layers: nn.Module, images: Tensor, weights: Tensor, recompute: bool = False) -> dict[str, Tensor]:
    """Two steps, so that the second starts from moved running statistics."""
    seen = {}
    for step in range(2):
        leaf = images.clone().requires_grad_()
        output = checkpoint(layers, leaf, use_reentrant=False) if recompute else layers(leaf)
        layers.zero_grad()
        (output * weights).sum().backward()
        found = {"output": output.detach(), "image gradient": leaf.grad, **dict(layers.named_buffers())}
        found.update({f"{key} gradient": parameter.grad for key, parameter in layers.named_parameters()})
        seen.update({f"{key}{step}": tensor.clone() for key, tensor in found.items()})
    return seen


def norm_share(rank: int) -> list[dict[str, Tensor]]:
    return [
        observe_norm(
            convert_sync_batch_norm(batch_norm()),
            *(whole.split(SAMPLES)[rank] for whole in norm_data(offset)),
            recompute,
        )
        for offset, recompute in NORM_CASES
    ]


def exchange(rank: int, case: str, folder: Path, port: int) -> None:
    """A rank writes into ``folder`` what it finds, until rank 1 is "lost", or "stuck": it neither answers nor dies."""
    common = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(common, RANK=str(rank), LOCAL_RANK=str(rank))
    ranks = distributed.ranks_from_environment()
    try:
        with distributed.process_group(ranks, torch.device("cpu")), Shutdown() as shutdown:
            assert gather_objects({"rank": rank}, ranks) == [{"rank": 0}, {"rank": 1}]
            mean = distributed.average_over_ranks(torch.tensor([1.0, float(rank)]), ranks)
            assert torch.equal(mean, torch.tensor([1.0, 0.5]))
            with agreed(ranks):
                pass
            try:
                with agreed(ranks):
                    if rank == 1:
                        raise PivotNetError("bad disk")
            except CollectiveError as error:
                (folder / f"agreed{rank}").write_text(str(error))
            if rank == 1:
                if case == "lost":
                    os._exit(9)
                time.sleep(120)
            shutdown.step_done()
            (folder / "ready").touch()
            gather_objects(None, ranks)
    except LostRankError as error:
        (folder / "lost").write_text(str(error))
        os._exit(0)  # as the command does: gloo's threads, which still wait, may abort an ordinary exit
