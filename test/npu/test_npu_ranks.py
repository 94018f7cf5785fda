"""Several simulated NPUs: the real ProcessGroupHCCL, averaged gradients and synchronised batch norm."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import torch
from cannsim.counters import faults
from scene import assert_near, batch, network
from support.commands import ROOT
from worker import PRESET, small

from pivotnet.criterion.criterion import Criterion
from pivotnet.launch import torchrun

HERE = Path(__file__).parent


def test_two_ranks_over_hccl_equal_one_process_with_both_samples(tmp_path: Path):
    paths = [*map(str, (ROOT, ROOT / "tools", ROOT / "test", HERE)), os.environ["PYTHONPATH"]]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS="1")
    environment["CANNSIM_CONTRACT_JSON"] = str(tmp_path / "contract.jsonl")  # a line a process
    command = torchrun.command(2, torchrun.Nodes(), [str(HERE / "worker.py"), str(tmp_path)])
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    found = [faults(json.loads(line)) for line in (tmp_path / "contract.jsonl").read_text().splitlines()]
    # torch pads integers on the AI CPU when it gathers objects, at start
    assert len(found) >= 2 and all("aclnnConstantPadNd" in fault for line in found for fault in line), found
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]

    config = small(PRESET)
    model = network(config).to("npu").train()
    moved = batch(config, seed=0, samples=2).to(torch.device("npu"))
    predictions = model(moved.images, moved.reference_points, moved.reference_valid)
    result = Criterion(config)(predictions, moved.targets)
    result.total.backward()

    for name, _ in model.named_parameters():
        assert torch.equal(ranks[0]["gradients"][name], ranks[1]["gradients"][name]), name
    mine = torch.cat([parameter.grad.cpu().flatten() for parameter in model.parameters()])
    joined = torch.cat([ranks[0]["gradients"][name].flatten() for name, _ in model.named_parameters()])
    assert float((joined - mine).norm() / mine.norm()) < 1e-3
    for rank in ranks:
        # [stop flag, total, terms]: the mean over the ranks
        assert_near(rank["loss"][1], result.total.cpu(), what="loss")
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                assert_near(rank["model"][name], buffer, what=name)
    for name, weight in ranks[0]["model"].items():
        assert torch.equal(weight, ranks[1]["model"][name]), f"{name} differs between the ranks"
