"""The network and the criterion on a simulated NPU equal the CPU, part by part and as a whole."""

from __future__ import annotations

import copy
from functools import partial
from operator import setitem
from typing import Any

import pytest
import torch
from scene import NPU, assert_near, batch, network, small
from torch import Tensor, nn

from pivotnet import device as devices
from pivotnet.criterion.criterion import Criterion


def test_device_py_chooses_the_npu():
    device = devices.select_device()
    assert device == torch.device("npu", 0)
    assert devices.distributed_backend(device) == "hccl"
    assert devices.device_count("npu") == 8
    assert devices.select_device(local_rank=3) == torch.device("npu", 3)
    assert devices.device_name(device) == "Ascend910B1"
    devices.select_device("npu:0")


def flat(result: Any) -> list[Tensor]:
    """All tensors of a module's result."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, (list, tuple)):
        return [tensor for item in result for tensor in flat(item)]
    return [tensor for item in vars(result).values() for tensor in flat(item)] if hasattr(result, "__dict__") else []


PARTS = ("im_backbone", "bev_decoder.bev_encoder", "ins_decoder.bev_decoder", "output_head")  # modules of the network


def assert_gradients_near(on_npu: nn.Module, on_cpu: nn.Module) -> None:
    """The gradient of all parameters as one vector: where a sample falls on a cell's edge, one ulp in its place changes
    one element by much."""
    pairs = [
        (mine.grad.cpu(), other.grad)
        for mine, other in zip(on_npu.parameters(), on_cpu.parameters())
        if other.grad is not None
    ]
    assert len(pairs) > 50
    actual, expected = (torch.cat([gradient.flatten() for gradient in side]) for side in zip(*pairs))
    assert float((actual - expected).norm() / expected.norm()) < 1e-3


def test_every_part_of_the_network_equals_the_cpu():
    config = small("smoke")
    on_cpu = network(config).train()
    on_npu = copy.deepcopy(on_cpu).to(NPU)
    results: dict[str, dict[str, list[Tensor]]] = {"cpu": {}, "npu": {}}
    given, losses = batch(config), {}
    # float images in plain layout: batch norm of the CPU sums another layout in another order
    images = on_cpu.normalise(given.images).contiguous()
    for kind, model in (("cpu", on_cpu), ("npu", on_npu)):
        for path in PARTS:
            keep = partial(lambda kind, path, module, inputs, result: setitem(results[kind], path, flat(result)), kind)
            model.get_submodule(path).register_forward_hook(partial(keep, path))
        moved = given.to(torch.device(kind))
        predictions = model(images.to(kind), moved.reference_points, moved.reference_valid)
        result = Criterion(config)(predictions, moved.targets)
        result.total.backward()
        losses[kind] = result.total
    for path in PARTS:
        assert len(results["npu"][path]) == len(results["cpu"][path]) > 0
        for index, (actual, expected) in enumerate(zip(results["npu"][path], results["cpu"][path])):
            assert actual.device.type == "npu"
            assert_near(actual, expected, what=f"result {index} of {path}")
    assert_near(losses["npu"], losses["cpu"], what="loss")
    assert_gradients_near(on_npu, on_cpu)


@pytest.mark.parametrize("name", ["effb0", "res50", "swint"])
def test_backbones_equal_the_cpu(name: str):
    config = small(name, checkpointing=True)
    on_cpu = network(config).im_backbone.train()
    on_npu = copy.deepcopy(on_cpu).to(NPU)
    images = torch.randn(6, 3, *config.model.image_size, generator=torch.Generator().manual_seed(0))
    results = {}
    for kind, backbone in (("cpu", on_cpu), ("npu", on_npu)):
        results[kind] = backbone(images.to(kind))
        sum(level.square().mean() for level in results[kind]).backward()
    for level, (actual, expected) in enumerate(zip(results["npu"], results["cpu"])):
        assert_near(actual, expected, 3e-5, f"features of level {level}")
    assert_gradients_near(on_npu, on_cpu)
    for (key, actual), expected in zip(on_npu.named_buffers(), on_cpu.buffers()):
        assert_near(actual, expected, what=f"buffer {key}")
