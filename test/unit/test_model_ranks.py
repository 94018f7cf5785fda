"""The network in training mode on two ranks of batch 1 against one process of batch 2."""

from __future__ import annotations

import model_rank
import torch
import torch.multiprocessing as multiprocessing

from pivotnet.model import pivotnet as network_module


def test_two_ranks_equal_a_batch_of_two(tmp_path, monkeypatch):
    monkeypatch.setattr(network_module, "build_backbone", network_module.build_backbone)  # put back afterwards
    multiprocessing.spawn(model_rank.work, args=(str(tmp_path),), nprocs=model_rank.RANKS)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(model_rank.RANKS)]
    joined = model_rank.observe(model_rank.build(), model_rank.inputs())
    total = torch.stack([t.norm() for key, t in joined.items() if key.startswith("gradient")]).norm()
    for key, wanted in joined.items():
        if key.startswith("output"):
            ours, scale = torch.cat([rank[key] for rank in ranks], dim=1), wanted.abs().max()
        elif key.startswith("gradient"):
            ours, scale = (ranks[0][key] + ranks[1][key]) / model_rank.RANKS, wanted.abs().max() + 0.01 * total
        else:
            ours, scale = ranks[0][key], wanted.abs().max()
            torch.testing.assert_close(ours, ranks[1][key], rtol=0, atol=0)
        assert float((ours - wanted).abs().max() / scale) < 1e-4, key
