"""One rank of the tests in test_training_distributed.py: python training_rank.py CASE RANK WORLD PORT FOLDER."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from pivotnet import cli, distributed
from pivotnet.distributed import CollectiveError, agree, average_over_ranks, gather_objects, process_group
from pivotnet.errors import PivotNetError
from pivotnet.training.shutdown import Shutdown

case, rank, world, port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
folder = Path(sys.argv[5])
os.environ.update(
    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
    MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
)  # fmt: skip
ranks = distributed.ranks_from_environment()


def body() -> None:
    with process_group(ranks, torch.device("cpu")):
        if case == "exchange":
            assert gather_objects({"rank": rank}, ranks) == [{"rank": r} for r in range(world)]
            mean = average_over_ranks(torch.tensor([1.0, float(rank)]), ranks)
            assert torch.equal(mean, torch.tensor([1.0, (world - 1) / 2]))
            agree(None, ranks)
            try:
                agree(PivotNetError("bad disk") if rank == 1 else None, ranks)
            except CollectiveError as error:
                print(error)
        elif case == "lost":
            gather_objects(None, ranks)
            if rank == 1:
                os._exit(9)
            gather_objects(None, ranks)
        elif case == "stuck":  # rank 1 neither answers nor dies; rank 0 is told to stop
            if rank == 1:
                (folder / "pid").write_text(str(os.getpid()))
                time.sleep(120)
            shutdown = Shutdown()
            shutdown.install()
            shutdown.step_done()
            (folder / "ready").write_text(str(os.getpid()))
            gather_objects(None, ranks)


def configure(parser):
    pass


def run(args):
    body()
    return 0


sys.modules["training_rank"] = sys.modules["__main__"]
cli.COMMANDS["rank"] = ("training_rank", "a rank of a test")
sys.exit(cli.main(["rank"]))
