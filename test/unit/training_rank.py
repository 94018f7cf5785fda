"""One rank of test_training_distributed.py: python training_rank.py CASE FOLDER, in torchrun's environment.

Both ranks exchange what ranks exchange; then rank 1 is lost, or stuck: it neither answers nor dies.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from pivotnet import cli
from pivotnet.distributed import (
    CollectiveError,
    agreed,
    average_over_ranks,
    gather_objects,
    process_group,
    ranks_from_environment,
)
from pivotnet.errors import PivotNetError
from pivotnet.training.shutdown import Shutdown


def configure(parser):
    pass


def run(args):
    case, folder = CASE
    ranks = ranks_from_environment()
    with process_group(ranks, torch.device("cpu")), Shutdown() as shutdown:
        assert gather_objects({"rank": ranks.rank}, ranks) == [{"rank": 0}, {"rank": 1}]
        mean = average_over_ranks(torch.tensor([1.0, float(ranks.rank)]), ranks)
        assert torch.equal(mean, torch.tensor([1.0, 0.5]))
        with agreed(ranks):
            pass
        try:
            with agreed(ranks):
                if ranks.rank == 1:
                    raise PivotNetError("bad disk")
        except CollectiveError as error:
            print(error)
        if ranks.rank == 1:
            if case == "lost":
                os._exit(9)
            time.sleep(120)
        shutdown.step_done()
        Path(folder, "ready").touch()
        gather_objects(None, ranks)


CASE = sys.argv[1:]
cli.COMMANDS["rank"] = "a rank of a test"
sys.modules["pivotnet.commands.rank"] = sys.modules["__main__"]
sys.exit(cli.main(["rank"]))
