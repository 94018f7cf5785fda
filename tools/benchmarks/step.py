"""A training step: forward, criterion, backward, optimiser."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import torch
from recordings import inputs, rule, shim
from recordings.golden_criterion import as_targets
from recordings.golden_network import network_inputs
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import other, sample
from benchmarks.memory import bytes_kept, peak_of_tensors
from benchmarks.operators import OperatorCounter
from benchmarks.pair import Phases, Task
from pivotnet import device as devices
from pivotnet.config import Config, preset
from pivotnet.distributed import Ranks
from pivotnet.model import bev_encoder
from pivotnet.training.loop import Run
from pivotnet.training.setup import build_trainer

BACKBONE, BEV, DECODER, HEAD = "backbone", "BEV encoder/decoder", "line decoder", "output head"
NETWORK = "network forward"
CRITERION, BACKWARD, OPTIMISER = "matcher and criterion", "backward", "optimiser"
DEFORMABLE = "deformable attention"


def configuration(name: str, checkpointing: Optional[bool]) -> Config:
    """The preset; ``checkpointing`` None leaves it as it is."""
    config = preset(name)
    if checkpointing is None:
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, checkpointing=checkpointing))


def _ends(phases: Phases, name: str) -> Callable[..., None]:
    """A hook that ends a phase."""

    def hook(*arguments: Any) -> None:
        phases.end(name)

    return hook


class OurStep(Task):
    """Trainer.train_step on a batch of drawn targets and random images.

    Args:
        preset_name: swint, res50, effb0 or smoke.
        case: a key of recordings.inputs.CASES.
        checkpointing: None for the preset's own choice.
        device: npu, cuda or cpu; None for the first that there is.
        amp: bf16 or none.
        single: graph or none: whether the network is made one graph, whose parts cannot be timed then.
    """

    def __init__(
        self,
        preset_name: str,
        seed: int,
        case: str,
        batch_size: int,
        checkpointing: Optional[bool],
        device: str,
        amp: str,
        single: str,
    ) -> None:
        self.device = devices.select_device(device)
        self.phases = Phases(self.device)
        self.config = config = configuration(preset_name, checkpointing)
        self.batch = sample.batch(config, seed, case, batch_size)
        run = Run(
            Path(),
            seed=seed,
            lr=config.optim.lr,
            amp=torch.bfloat16 if amp == "bf16" else None,
            graph=single == "graph",
        )
        self.trainer = build_trainer(config, self.device, Ranks(), run)
        if single == "none":
            model = self.trainer.model
            model.im_backbone.register_forward_hook(_ends(self.phases, BACKBONE))
            model.bev_decoder["bev_encoder"].register_forward_hook(_ends(self.phases, BEV))
            model.ins_decoder["bev_decoder"].register_forward_hook(_ends(self.phases, DECODER))
        self.trainer.criterion.register_forward_pre_hook(_ends(self.phases, HEAD if single == "none" else NETWORK))
        self.trainer.criterion.register_forward_hook(_ends(self.phases, CRITERION))
        self.trainer.optimizer.register_step_pre_hook(_ends(self.phases, BACKWARD))

    def run(self) -> None:
        """One step."""
        self.trainer.train_step(self.batch)
        self.phases.end(OPTIMISER)

    def count(self) -> dict[str, Any]:
        """Operators, deformable attention as one of them; and the arithmetic of a step."""
        kernel = bev_encoder.multi_scale_deformable_attention
        with OperatorCounter() as counter:
            # the kernel takes its shapes second
            single = counter.as_kernel(DEFORMABLE, lambda v, p, w, shapes: kernel(v, shapes, p, w), 3)
            bev_encoder.multi_scale_deformable_attention = lambda v, shapes, p, w: single(v, p, w, shapes)
            self.phases.counter = counter
            self.phases.begin()
            self.run()
        self.phases.counter = None
        bev_encoder.multi_scale_deformable_attention = kernel
        trainer = self.trainer
        return {**counter.result(), **arithmetic(self.run), **memory(self.run, trainer.model, trainer.optimizer)}

    def facts(self) -> dict[str, Any]:
        """Size and checkpointing."""
        return {
            "device": devices.device_name(self.device),
            "batch_size": len(self.batch.tokens),
            "checkpointing": self.config.model.checkpointing,
        }


class OtherStep(Task):
    """The same step of another checkout, batch 1 (it knows no other), on a CPU; dropout and checkpointing as it ships.

    Args:
        checkout: upstream, or a port of it.
        preset_name: swint, res50 or effb0.
        case: a key of recordings.inputs.CASES.
    """

    def __init__(self, checkout: Path, preset_name: str, seed: int, case: str) -> None:
        self.phases = Phases()
        other.import_other(checkout)
        devices.seed_everything(seed)
        self.network = shim.build(preset_name, deterministic=False).train()
        extrinsic, intrinsic = inputs.cameras(seed)
        self.inputs = network_inputs(seed, extrinsic, intrinsic)
        self.inputs["images"] = rule.images(seed)
        self.target = inputs.target(seed, case)
        setup = importlib.import_module("pivotnet_nuscenes_swint").EXPConfig.optimizer_setup
        groups = importlib.import_module("mapmaster.utils.misc").get_param_groups(self.network, setup)
        self.optimizer = torch.optim.AdamW(groups)
        for name, phase in (("im_backbone", BACKBONE), ("bev_decoder", BEV), ("ins_decoder", DECODER)):
            getattr(self.network, name).register_forward_hook(_ends(self.phases, phase))
        self.network.output_head.register_forward_hook(_ends(self.phases, HEAD))

    def prepare(self) -> None:
        """Targets, which the criterion changes in place."""
        self.targets = as_targets(copy.deepcopy(self.target))

    def run(self) -> None:
        """One step."""
        self.optimizer.zero_grad()
        result = self.network(self.inputs)
        total, _ = self.network.post_processor(result["outputs"], self.targets)
        self.phases.end(CRITERION)
        total.backward()
        self.phases.end(BACKWARD)
        self.optimizer.step()
        self.phases.end(OPTIMISER)

    def count(self) -> dict[str, Any]:
        """Operators, deformable attention as one of them."""
        function = importlib.import_module(
            "mapmaster.models.bev_decoder.deform_transformer.ops.functions"
        ).MSDeformAttnFunction
        kernel = function.apply
        self.prepare()
        with OperatorCounter() as counter:
            single = counter.as_kernel(
                DEFORMABLE, lambda v, p, w, shapes, starts, step: kernel(v, shapes, starts, p, w, step), 3
            )
            function.apply = staticmethod(lambda v, shapes, starts, p, w, step: single(v, p, w, shapes, starts, step))
            self.phases.counter = counter
            self.phases.begin()
            self.run()
        self.phases.counter = None
        function.apply = staticmethod(kernel)
        self.prepare()
        found = {**counter.result(), **arithmetic(self.run)}
        self.prepare()
        return {**found, **memory(self.run, self.network, self.optimizer)}

    def facts(self) -> dict[str, Any]:
        """As the other side ships."""
        return {"batch_size": 1, "checkpointing": True}


def arithmetic(run: Callable[[], None]) -> dict[str, Any]:
    """Floating point operations of matrix products, convolutions and attention in one run (a multiply-add is two)."""
    with FlopCounterMode(display=False) as counter:
        run()
    return {"flops": int(counter.get_total_flops())}


def memory(run: Callable[[], None], network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of tensors that stay between runs, and that are alive at the most in one. On a CPU only."""
    if next(network.parameters()).device.type != "cpu":
        return {}
    optimizer.zero_grad()  # their end in the run would not be seen
    kept = bytes_kept(network, optimizer)
    return {"kept_tensor_bytes": kept, "peak_tensor_bytes": kept + peak_of_tensors(run)}


def machine_rates(threads: int, size: int = 2048, repeats: int = 3) -> dict[str, float]:
    """What a CPU second is good for at its best in float32: FLOP of matrix products, bytes that copies read and write.

    CPU seconds of all threads, so that a busy machine looks no slower than it is.
    """
    torch.set_num_threads(threads)
    a, b = torch.randn(size, size), torch.randn(size, size)
    source = torch.zeros(2**26)  # 256 MB, beyond every cache
    target = torch.empty_like(source)
    phases = Phases()
    best: dict[str, float] = {}

    def measure(name: str, work: float, function: Callable[[], Tensor]) -> None:
        function()
        for _ in range(repeats):
            phases.begin()
            function()
            phases.end(name)
            best[name] = max(best.get(name, 0.0), work / phases.seconds[name][1])

    measure("flops", 2.0 * size**3, lambda: a @ b)
    measure("bytes", 2.0 * source.numel() * 4, lambda: target.copy_(source))
    return best
