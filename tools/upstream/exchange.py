"""Checkpoints of a tree of upstream, patched or not, through its own callbacks: write one, or go on from one.

    python exchange.py write TREE FAMILY PRESET CHECKPOINT [--unpatched]
    python exchange.py read TREE FAMILY PRESET CHECKPOINT OUT [--unpatched]

``write`` steps the tree's optimiser on made-up gradients and saves. ``read`` loads, makes the step after that, and
writes counters, weights and the optimiser's means to an .npz.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from probe import experiment, prepare_unpatched
from recordings import rule, shim

EPOCH, STEPS = 3, 2


def trainer(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """What the callbacks use of upstream's trainer, around the experiment of the config; and their module."""
    tree = arguments.tree.resolve()
    os.environ["PIVOTNET_BACKBONE_WEIGHTS"] = "none"
    if arguments.unpatched:
        prepare_unpatched(tree)
        network = shim.build(arguments.preset, arguments.family)
    else:
        sys.path[:0] = [str(tree), str(tree / "configs")]
    exp = experiment(arguments.family, arguments.preset, {})
    if arguments.unpatched:
        exp.model = network
    callbacks = importlib.import_module("mapmaster.engine.core")  # imports those that the tree uses
    made = types.SimpleNamespace(exp=exp, model=exp.model, optimizer=exp.optimizer, callbacks=[], train=None)
    return made, callbacks


def step(made: Any, number: int) -> None:
    """One step of the optimiser; the gradients depend on the parameters' order and ``number`` only."""
    generator = torch.Generator().manual_seed(number)
    for parameter in made.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * 1e-3
    made.optimizer.step()


def write(made: Any, callbacks: Any, path: Path) -> None:
    """Save after ``STEPS`` steps."""
    rule.fill(made.model.state_dict())
    for number in range(STEPS):
        step(made, number)
    made.epoch, made.global_step = EPOCH, STEPS
    saver = callbacks.CheckPointSaver(path.parent, filename=path.name)
    saver.after_epoch(made, EPOCH)


def read(made: Any, callbacks: Any, path: Path) -> dict[str, np.ndarray]:
    """Load and make one step more."""
    callbacks.CheckPointLoader(path).load_checkpoint(made)
    step(made, STEPS)
    found = {f"weight/{name}": tensor.numpy() for name, tensor in made.model.state_dict().items()}
    for name, parameter in made.model.named_parameters():
        for key, value in made.optimizer.state.get(parameter, {}).items():
            found[f"{key}/{name}"] = torch.as_tensor(value).numpy()
    groups = [group for group in made.optimizer.param_groups if group["params"]]
    rates = np.array([[group["lr"], group["weight_decay"]] for group in groups])
    return {**found, "epoch": np.array(made.epoch), "rates": rates}


def main() -> None:
    """Write the checkpoint or the .npz."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("write", "read"))
    parser.add_argument("tree", type=Path)
    parser.add_argument("family", choices=("pivotnet", "bemapnet"))
    parser.add_argument("preset", choices=shim.PRESETS)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--unpatched", action="store_true")
    arguments = parser.parse_args()
    made, callbacks = trainer(arguments)
    if arguments.what == "write":
        write(made, callbacks, arguments.checkpoint)
    else:
        np.savez(arguments.out, **read(made, callbacks, arguments.checkpoint))


if __name__ == "__main__":
    main()
