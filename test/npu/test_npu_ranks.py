"""Several simulated NPUs: the real ProcessGroupHCCL, averaged gradients and synchronised batch norm."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from cannsim.counters import faults
from support.commands import ROOT
from support.scene import assert_near, batch, needs_graphs
from support.small import network, small

from pivotnet.criterion.criterion import Criterion
from pivotnet.launch import torchrun
from pivotnet.training.execution import MixedPrecision
from pivotnet.training.loop import AMP

HERE = Path(__file__).parent
full = pytest.mark.full


def run_ranks(folder: Path, preset: str, amp: str, graph: str) -> list[dict]:
    """What each of two ranks has after two steps; all their calls are within the contract."""
    paths = [*map(str, (ROOT, ROOT / "tools", ROOT / "test", HERE)), os.environ["PYTHONPATH"]]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(paths), OMP_NUM_THREADS="1")
    environment["CANNSIM_CONTRACT_JSON"] = str(folder / "contract.jsonl")  # a line a process
    command = torchrun.command(2, torchrun.Nodes(), [str(HERE / "worker.py"), str(folder), preset, amp, graph])
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    found = [faults(json.loads(line)) for line in (folder / "contract.jsonl").read_text().splitlines()]
    # torch pads integers on the AI CPU when it gathers objects, at start
    assert len(found) >= 2 and all("aclnnConstantPadNd" in fault for line in found for fault in line), found
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize(
    ("preset", "amp"),
    [
        ("smoke", "none"),
        pytest.param("smoke", "bf16", marks=full),
        *(pytest.param(preset, amp, marks=full) for preset in ("swint", "res50", "effb0") for amp in ("none", "bf16")),
    ],
)
def test_two_ranks_over_hccl_equal_one_process_with_both_samples(preset: str, amp: str, tmp_path: Path):
    ranks = run_ranks(tmp_path, preset, amp, "")
    config = small(preset)
    device = torch.device("npu")
    model = network(config).to(device).train()
    moved = batch(config, seed=0, samples=2).to(device)
    trained = model if AMP[amp] is None else MixedPrecision(model, AMP[amp])
    predictions = trained(moved.images, moved.reference_points, moved.reference_valid)
    result = Criterion(config)(predictions, moved.targets)
    result.total.backward()

    for part in ("gradients", "model"):
        for name, tensor in ranks[0][part].items():
            assert torch.equal(tensor, ranks[1][part][name]), f"{part}: {name} differs between the ranks"
    # [stop flag, total, terms]: the mean over the ranks; rounding to bfloat16 decides over masks and matches
    near = 1e-5 if amp == "none" else 5e-2
    for rank in ranks:
        assert_near(rank["loss"][1], result.total.cpu(), near, what="loss")
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                assert_near(rank["model"][name], buffer, near, what=name)
    if amp == "none":
        parameters = dict(model.named_parameters())
        mine = torch.cat([parameters[name].grad.cpu().flatten() for name in ranks[0]["gradients"]])
        joined = torch.cat([gradient.flatten() for gradient in ranks[0]["gradients"].values()])
        assert float((joined - mine).norm() / mine.norm()) < 1e-3


@needs_graphs
@pytest.mark.parametrize("preset", ["smoke", *(pytest.param(name, marks=full) for name in ("swint", "effb0"))])
def test_graphs_of_two_ranks_equal_ordinary_steps(preset: str, tmp_path: Path):
    """The exchanges of synchronised batch norms are captured as well."""
    found = []
    for graph in ("", "graph"):
        (tmp_path / graph).mkdir(exist_ok=True)
        found.append(run_ranks(tmp_path / graph, preset, "none", graph))
    for plain, replayed in zip(*found):
        assert torch.equal(plain["loss"], replayed["loss"]) and torch.equal(plain["next"], replayed["next"])
        for name, weight in plain["model"].items():
            assert torch.equal(weight, replayed["model"][name]), name
