"""One rank of the tests with several simulated NPUs: torchrun --nproc-per-node 2 worker.py OUTPUT PRESET AMP GRAPH."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from support.scene import batch
from support.small import network, small, target_part

from pivotnet import device as devices
from pivotnet.distributed import process_group, ranks_from_environment
from pivotnet.structures import Batch
from pivotnet.training.loop import AMP, Run, Trainer


def sample(whole: Batch, index: int) -> Batch:
    """One sample of a batch, as a batch."""
    one = slice(index, index + 1)
    assert whole.targets is not None
    own = target_part(whole.targets, one)
    return Batch(whole.images[one], whole.reference_points[one], whole.reference_valid[one], whole.tokens[one], own)


def main(output: str, preset: str, amp: str, graph: str) -> None:
    ranks = ranks_from_environment()
    device = devices.select_device("npu", ranks.local_rank)
    with process_group(ranks, device):
        assert dist.get_backend() == "hccl"
        config = small(preset)
        lengths = {"steps": 2, "steps_per_epoch": 2, "save_every": 2}
        run = Run(Path(output), **lengths, lr=config.optim.lr, amp=AMP[amp], graph=graph == "graph")
        trainer = Trainer(config, device, ranks, run)
        trainer.model.load_state_dict(network(config).state_dict())
        trainer.train_step(sample(batch(config, seed=0, samples=ranks.world_size), ranks.rank))
        averages = trainer.optimizer.state_dict()["state"].values()  # of gradients: a tenth of the first
        names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
        members = [names[id(member)] for group in trainer.optimizer.members for member in group]
        state = {
            "loss": trainer._pending.cpu(),
            "gradients": {name: 10 * average["exp_avg"].cpu() for name, average in zip(members, averages)},
            "model": {name: value.cpu() for name, value in trainer.model.state_dict().items()},
        }
        pending = trainer.train_step(sample(batch(config, seed=1, samples=ranks.world_size), ranks.rank))
        assert pending is not None and torch.isfinite(torch.from_numpy(pending)).all()
        state["next"] = trainer._pending.cpu()
        torch.save(state, Path(output) / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
