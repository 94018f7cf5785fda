"""A training step, and its criterion alone: ours and upstream's. A ``case`` of targets is a key of
recordings.inputs.CASES."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recordings import inputs, shim
from recordings.golden_criterion import FIELDS, OF_PIXELS, as_predictions, as_sample, as_targets, nested, post_processor
from recordings.golden_network import build, network_inputs, quiet, upsampled
from recordings.golden_training import run_as_recorded
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from benchmarks.turns import Clock, Gradients, Task
from pivotnet import device as devices
from pivotnet.audit.sample import random_batch
from pivotnet.audit.step import NETWORK_PHASES, announce_phases
from pivotnet.config import Config, preset
from pivotnet.criterion.criterion import Criterion
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.targets import build_targets
from pivotnet.distributed import Ranks
from pivotnet.structures import Batch, Predictions
from pivotnet.training.loop import Run, Trainer

SEED = 1234  # of all inputs
UPSTREAM_PHASES = dict(zip(("im_backbone", "bev_decoder", "ins_decoder", "output_head"), NETWORK_PHASES.values()))


def drawn_samples(case: str, batch_size: int) -> list[Any]:
    """What build_targets takes, one a sample."""
    return [as_sample(inputs.target(SEED + index, case)) for index in range(batch_size)]


def drawn_batch(config: Config, case: str, batch_size: int) -> Batch:
    """Random images, rigs of cameras and drawn targets in host memory, as the loader gives them."""
    rigs = [inputs.cameras(SEED + index) for index in range(batch_size)]
    projected = [project_bev_grid(rig[0], lens[0], config.model.bev_size, config.map) for rig, lens in rigs]
    points, valid = (torch.stack(column) for column in zip(*projected))
    targets = build_targets(drawn_samples(case, batch_size), config)
    batch = random_batch(config, batch_size, SEED)
    return dataclasses.replace(batch, reference_points=points, reference_valid=valid, targets=targets)


def our_step(
    preset_name: str, case: str, batch_size: int, checkpointing: bool, device: str, amp: torch.dtype | None, graph: bool
) -> Task:
    """Trainer.train_step on a drawn batch; with ``graph``, parts of the network cannot be timed."""
    clock = Clock(devices.select_device(device))
    config = preset(preset_name)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, checkpointing=checkpointing))
    batch = drawn_batch(config, case, batch_size)
    if devices.pin_memory(clock.device):
        batch = batch.pin_memory()
    run = Run(Path(), seed=SEED, lr=config.optim.lr, amp=amp, graph=graph)
    trainer = Trainer(config, clock.device, Ranks(), run)
    parts = {} if graph else NETWORK_PHASES
    announce_phases(trainer.model, trainer.criterion, trainer.optimizer, clock.enter, parts)

    def step() -> None:
        trainer.train_step(batch)

    def gradients() -> Gradients:
        own = quiet(preset_name)
        network = build(own).to(clock.device).eval()
        if clock.device.type == "cpu":
            run_as_recorded(network)
        points, valid = project_bev_grid(*(each[0] for each in inputs.cameras(SEED)), own.model.bev_size, own.map)
        given = (tensor.to(clock.device) for tensor in (inputs.images(SEED), points[None], valid[None]))
        targets = build_targets(drawn_samples(case, 1), own).to(clock.device)
        return differentiated(network, Criterion(own).to(clock.device)(network(*given), targets).total)

    return Task(clock, step, "network forward" if graph else "input", gradients)


def differentiated(network: nn.Module, loss: Tensor) -> Gradients:
    """The loss and its gradient; weights are those of the recordings, batch norms in evaluation mode, dropout off."""
    loss.backward()
    found = ((name, parameter.grad) for name, parameter in network.named_parameters())
    return loss.item(), {name: gradient.cpu().numpy() for name, gradient in found if gradient is not None}


def upstream_clock(checkout: Path, device: str, folder: Path) -> Clock:
    """Upstream is imported for that device, a CPU or a GPU, for which its operator is compiled in ``folder``; TF32 is
    off, as in ours."""
    clock = Clock(devices.select_device(device))
    devices.set_reduced_precision(False)
    shim.import_upstream(checkout, folder if clock.device.type == "cuda" else None)
    return clock


def upstream_step(checkout: Path, preset_name: str, case: str, device: str, folder: Path) -> Task:
    """The same step of upstream, batch 1 (it knows no other); dropout and checkpointing as it ships."""
    clock = upstream_clock(checkout, device, folder)
    torch.manual_seed(SEED)
    network = shim.build(preset_name, deterministic=False).to(clock.device).train()
    network.register_forward_pre_hook(move_inputs)
    criterion = network.get_submodule("post_processor")
    images = network_inputs(SEED, *inputs.cameras(SEED))
    target = inputs.target(SEED, case)
    optimizer, _ = shim.optimizer(network)
    announce_phases(network, criterion, optimizer, clock.enter, UPSTREAM_PHASES)

    def step() -> None:
        optimizer.zero_grad()
        total, _ = criterion(network(images)["outputs"], as_targets(target))
        total.backward()
        optimizer.step()

    def gradients() -> Gradients:
        same = shim.build(preset_name).to(clock.device).eval()
        same.register_forward_pre_hook(move_inputs)
        inputs.fill(same.state_dict())
        total, _ = same.get_submodule("post_processor").train()(same(images)["outputs"], as_targets(target))
        return differentiated(same, total)

    return Task(clock, step, gradients=gradients)


def move_inputs(_: nn.Module, arguments: tuple[Any, ...]) -> Any:
    """What upstream's DistributedDataParallel does before the network runs."""
    return tree_map(lambda leaf: leaf.cuda() if isinstance(leaf, Tensor) else leaf, arguments)


def drawn_outputs(seed: int, case: str, bev_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Random outputs by the rule of the recordings, but with masks on the BEV grid, where networks predict them."""
    outputs = inputs.outputs(seed, case)
    generator = np.random.default_rng(seed)
    for key, array in outputs.items():
        if key.startswith(OF_PIXELS):
            outputs[key] = generator.standard_normal((*array.shape[:-2], *bev_size), dtype=np.float32)
    return outputs


def our_criterion(case: str, batch_size: int, device: str) -> Task:
    """Targets, matching, losses and their gradient for a batch. Upsampling the masks is part of it."""
    clock = Clock(devices.select_device(device))
    config = preset("swint")
    criterion = Criterion(config).to(clock.device)
    samples = drawn_samples(case, batch_size)
    single = [as_predictions(drawn_outputs(SEED + index, case, config.model.bev_size)) for index in range(batch_size)]
    joined = {name: torch.cat([getattr(one, name) for one in single], dim=1) for name in FIELDS.values()}
    leaves = {name: tensor.to(clock.device).requires_grad_() for name, tensor in joined.items()}

    def run() -> None:
        for tensor in leaves.values():
            tensor.grad = None
        targets = build_targets(samples, config).to(clock.device)
        clock.enter("criterion")
        result = criterion(Predictions(**leaves), targets)
        clock.enter("backward")
        result.total.backward()

    return Task(clock, run, first_phase="targets")


def upstream_criterion(checkout: Path, case: str, device: str, folder: Path) -> Task:
    """The same of upstream, one sample. Its network has upsampled the masks before, its criterion makes the targets."""
    clock = upstream_clock(checkout, device, folder)
    processor = post_processor().to(clock.device).train()
    target = inputs.target(SEED, case)
    config = preset("swint")
    outputs = {}
    for key, array in drawn_outputs(SEED, case, config.model.bev_size).items():
        tensor = torch.from_numpy(array)
        tensor = upsampled(tensor, config.mask_size) if key.startswith(OF_PIXELS) else tensor
        outputs[key] = tensor.to(clock.device).requires_grad_()

    def run() -> None:
        for tensor in outputs.values():
            tensor.grad = None
        total, _ = processor(nested(outputs), as_targets(target))
        clock.enter("backward")
        total.backward()

    return Task(clock, run, first_phase="criterion")
