"""The audit's counting rules on small programs, its table and its budgets."""

import json
from collections.abc import Callable

import pytest
import torch

from pivotnet.audit.counts import Audit
from pivotnet.audit.recorder import Recorder
from pivotnet.cli import main

CPU = torch.device("cpu")
needs_fused_adamw = pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_fused_adamw_", "CPU"),
    reason="this torch has no fused AdamW for CPUs, whose launches would stand for the device's",
)


def recorded(program: Callable[[torch.device], object]) -> Audit:
    """What a program asks of the device for which the CPU stands, which it gets as its argument."""
    recorder = Recorder(CPU)
    with recorder.recording():
        program(recorder.device)
    return recorder.audit


def views_and_operators(device: torch.device) -> None:
    (torch.zeros(4, 6, device=device).view(6, 4).t()[1:] + 1).relu()


def work_on_the_host(device: torch.device) -> None:
    values = torch.arange(5.0)
    assert values.sum().item() == 10
    values[values > 2].tolist()


def copies(device: torch.device) -> None:
    host = torch.ones(8)
    there = host.to(device, non_blocking=True)
    assert there.device == device and there.data_ptr() != host.data_ptr()
    assert there.to(device) is there
    back = there.cpu()
    assert back.device == CPU
    back.numpy()


ONE_COPY = {"to_device_copies": 1, "to_device_bytes": 32}


@pytest.mark.parametrize(
    "program, expected",
    [
        (views_and_operators, {"launches": 3}),
        (work_on_the_host, {}),
        (copies, {"host_waits": 1, **ONE_COPY, "to_host_copies": 1, "to_host_bytes": 32}),
        (lambda device: torch.ones(8).to(device), {"host_waits": 1, **ONE_COPY}),
        (lambda device: torch.tensor([1.0] * 8, device=device), {"host_waits": 1, **ONE_COPY}),
        (lambda device: (torch.ones(3, device=device).double() * 2).float(), {"launches": 4, "float64": 2}),
        (lambda device: torch.lgamma(torch.ones(3, device=device)), {"launches": 2, "cpu_fallbacks": 1}),
    ],
)
def test_what_is_counted(program, expected):
    found = recorded(program).to_dict()["total"]
    assert {name: count for name, count in found.items() if count} == expected


def test_the_bytes_of_operands_are_those_of_launches():
    assert recorded(views_and_operators).operand_bytes == 4 * (24 + 4 * 3 * 6)


@pytest.mark.parametrize(
    "read",
    [
        lambda values: values[0].item(),
        lambda values: bool(values.all()),
        lambda values: values.nonzero(),
        lambda values: values[values > 0],
        lambda values: torch.linalg.inv(torch.diag(values)),
    ],
)
def test_reading_a_value_or_a_size_is_one_wait_and_names_its_line(read):
    audit = recorded(lambda device: read(torch.ones(3, device=device)))
    assert audit.total("host_waits") == 1
    (_, line), count = next(iter(audit.wait_lines.items()))
    assert count == 1 and line.startswith("test_audit.py:")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("audit") / "report.json"
    assert main(["audit", "--preset", "smoke", "--device", "cpu", "--json", str(path)]) == 0
    return json.loads(path.read_text())


@needs_fused_adamw
def test_a_training_step_waits_once_in_the_criterion(report):
    total = report["total"]
    assert total["host_waits"] == total["to_host_copies"] == 1 and total["cpu_fallbacks"] == total["float64"] == 0
    (wait,) = report["host_waits"]
    assert wait["phase"] == "criterion" and wait["line"].startswith("criterion/transfer.py:")
    assert report["phases"]["criterion"]["to_device_copies"] == 2  # weights; labels and indices
    launches = {phase: counts["launches"] for phase, counts in report["phases"].items()}
    assert all(count > 0 for count in launches.values()), launches
    assert launches["backward"] > launches["backbone forward"] > launches["optimiser"]
    assert sum(sum(operators.values()) for operators in report["operators"].values()) == total["launches"]


def test_budgets(report, tmp_path, capsys):
    path = tmp_path / "budget.json"
    command = ["audit", "--preset", "smoke", "--device", "cpu", "--budget", str(path)]
    path.write_text(json.dumps({"launches": report["total"]["launches"], "host_waits": 0}))
    assert main(command) == 1
    assert "over budget: host_waits 1 > 0" in capsys.readouterr().out
    for text, reason in (("{", "no JSON"), ('{"waits": 1}', "limits 'waits'"), ('{"launches": "1"}', "whole numbers")):
        path.write_text(text)
        assert main(command) == 2
        assert reason in capsys.readouterr().err


@needs_fused_adamw
def test_swint_keeps_its_budget(tmp_path):
    """The counts do not depend on the size of the images, the time does."""
    path = tmp_path / "budget.json"
    path.write_text(json.dumps({"cpu_fallbacks": 0, "float64": 0, "host_waits": 1, "launches": 2010}))
    command = ["audit", "--preset", "swint", "--device", "cpu", "--image-size", "64x96", "--budget", str(path)]
    assert main(command) == 0
