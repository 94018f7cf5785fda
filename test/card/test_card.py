"""A CUDA device computes what a CPU computes."""

import pytest
import torch
from support import device_checks as checks

from pivotnet.config import BACKBONES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
# effb0's batch norms see few values: two implementations on one device differ by as much
NEAR = {"swint": 1e-6, "res50": 1e-6, "effb0": 3e-6}
CHECKS = [
    *((checks.network_and_criterion_equal_the_cpu, name, near) for name, near in NEAR.items()),
    *((checks.training_steps_equal_the_cpu, name, 2) for name in BACKBONES),
    (checks.steps_in_bfloat16_stay_near_float32, "swint"),
    (checks.checkpoints_go_to_the_cpu_and_back, "smoke"),
    *((checks.graphs_equal_ordinary_steps, "swint", amp, 1e-6) for amp in (None, checks.BF16)),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check[0].__name__)
def test_a_card(check, tmp_path):
    check[0](torch.device("cuda", 0), tmp_path, *check[1:])
