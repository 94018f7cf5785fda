"""A training run from its choices to its Final result."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from pivotnet.config import BACKBONES
from pivotnet.errors import PivotNetError
from pivotnet.files import make_folder
from pivotnet.launch import say, torchrun
from pivotnet.launch.choices import OUTPUTS, ROOT, Choices
from pivotnet.launch.preparation import PIVOTNET, choose_device, choose_network, locked, make_output, prepare_data
from pivotnet.launch.supervise import supervise


class FailedRun(Exception):
    """A process of the run failed; what it wrote has been shown."""


def train(choices: Choices) -> None:
    """Prepare, train, print the Final result; fills ``choices`` in on the way.

    Raises:
        PivotNetError: a choice cannot be used here.
        FailedRun: training failed.
        Interrupted: a signal came.
    """
    if choices.resume:
        say(f"resuming {choices.output}")
    device = choose_device(choices)
    checkout = choose_network(choices)
    prepare_data(choices)
    output, node = make_output(choices), choices.nodes.rank
    own = make_folder(output / "ranks" / f"node{node}", "--output")
    with locked(own, busy=f"another run is writing into {output}: wait for it, or choose another --output"):
        if node == 0:
            choices.save()
        say(f"output: {output}")
        logs = make_folder(own / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")  # a resumed run has several
        if checkout:
            _train_patched(choices, checkout, device, logs)
        else:
            _train_builtin(choices, logs)
    if node:
        say(f"node {node} has done its part; node 0 prints the result")
    elif supervise([*PIVOTNET, "report", output, "--final", choices.kind, "--log-folder", OUTPUTS]):
        raise FailedRun(f"there is no Final result; the run is in {output}")


def _train_builtin(choices: Choices, logs: Path) -> None:
    """``pivotnet train`` in every rank. Rank 0 writes its progress to the console."""
    assert choices.cards and choices.data_root
    names = ("preset", "data_root", "output", "device", "batch_size", "steps", "epochs")
    values = {name: getattr(choices, name) for name in names}
    if choices.kind == "full":
        # scoring the train split as well tells whether a network has learnt synthetic data
        values["evaluate"] = "val,train" if (choices.data_root / "synthetic.json").exists() else "val"
    values["backbone_weights"] = None if choices.resume else _find_weights(choices)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value]
    words += [*(["--resume"] if choices.resume else []), *choices.extra]
    nodes = choices.nodes
    if nodes.count > 1:
        say(f"node {nodes.rank} of {nodes.count}; meeting at {nodes.address}:{nodes.port}")
    command = torchrun.command(choices.cards, nodes, ["-m", "pivotnet", "train", *words], logs)
    status = supervise(command, env=torchrun.environment(choices.cards))
    if status:
        raise FailedRun(f"training failed (exit status {status}); logs: {choices.output}/train.log and {logs}")


def _find_weights(choices: Choices) -> Path | None:
    """The file that upstream starts this preset from, where the user has placed it."""
    folder = choices.weights or ROOT / "assets" / "weights"
    backbone = BACKBONES.get(choices.preset or "")
    name = backbone.weight_file if backbone else f"file for preset {choices.preset}"
    if (folder / name).is_file():
        return folder / name
    remedy = f"python3 tools/download.py {choices.preset} gets it"
    if choices.weights:
        raise PivotNetError(f"--weights (WEIGHTS) is {choices.weights}, which holds no {name}: {remedy}")
    if backbone and choices.kind == "full":
        say(f"no {folder / name}: the backbone starts untrained, accuracy will be lower; {remedy}")
    return None


def _train_patched(choices: Choices, checkout: Path, device: str, logs: Path) -> None:
    """run.sh of the patched checkout, which writes the same summary and records."""
    assert choices.cards and choices.output
    full = choices.kind == "full"
    if choices.extra:
        raise PivotNetError(f"{' '.join(choices.extra)}: the patched checkout takes no options of pivotnet train")
    if full and choices.steps:
        reason = "the patched checkout's full run has whole epochs, give --epochs"
        raise PivotNetError(f"--steps (STEPS) is {choices.steps}: {reason}")
    environment = torchrun.environment(choices.cards)
    changes = {
        "PATH": f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}",  # run.sh calls python3
        **{"PIVOTNET_OUTPUT": choices.output, "PIVOTNET_DEVICE": device, "CARDS": choices.cards},
        **{"DATA_ROOT": choices.data_root, "BATCH_SIZE": choices.batch_size or ""},
        **({} if full else {"PIVOTNET_PERFORMANCE_FLAG": 1, "PIVOTNET_PERFORMANCE_STEPS": choices.steps}),
    }
    environment.update({name: str(value) for name, value in changes.items()})
    words = ["pipeline" if full else "train", f"pivotnet_nuscenes_{choices.preset}", choices.epochs or 30]
    log = logs / "run.log"
    say(f"its log: {log}")
    with open(log, "wb") as stream:
        status = supervise(["bash", "run.sh", *words], env=environment, cwd=checkout, stdout=stream, stderr=stream)
    if status or (choices.nodes.rank == 0 and not (choices.output / "summary.json").is_file()):
        print("--- last lines of run.sh", *torchrun.last_lines(log), sep="\n", file=sys.stderr)
        what = f"training failed (exit status {status})" if status else "run.sh ended without a summary of its steps"
        raise FailedRun(f"{what}; its log is {log}")
