"""A training run from its choices to its Final result."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pivotnet.config import BACKBONES
from pivotnet.errors import PivotNetError
from pivotnet.files import lock_output, locked, make_folder
from pivotnet.launch import require_patched_modules, say, torchrun
from pivotnet.launch.choices import OUTPUTS, ROOT, WITHOUT_WEIGHTS, Choices, checkout_folder
from pivotnet.launch.supervise import supervise
from pivotnet.limits import SEED, whole_number
from pivotnet.pool import end_with_parent

PATCHED_OPTIONS = ("--exp_options", "--pretrained_model", "--find_unused_parameters", "--sync_bn")
PIVOTNET = (sys.executable, "-m", "pivotnet")
CPU_STEPS, FIRST_STEPS = 150, 1500  # of a performance run; the published port times the first 1500, too


class FailedRun(Exception):
    """A process of the run failed; what it wrote has been shown."""


def train(choices: Choices) -> None:
    """Prepare, train, print the Final result; fills ``choices`` in on the way. Raises PivotNetError: a choice cannot be
    used here; FailedRun: training failed; Interrupted: a signal came."""
    if choices.resume:
        say(f"resuming {choices.output}")
    device = _choose_device(choices)
    checkout = choose_network(choices)
    weights = None if checkout or choices.resume else find_weights(choices)
    _prepare_data(choices)
    output, node = make_output(choices), choices.nodes.rank
    own = make_folder(output / "ranks" / f"node{node}", "--output")
    with lock_output(own):
        if node == 0:
            (output / "summary.json").unlink(missing_ok=True)  # an earlier end of a resumed run is not its result
            choices.save()
        say(f"output: {output}")
        logs = make_folder(own / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")  # a resumed run has several
        if checkout:
            _train_patched(choices, checkout, device, logs)
        else:
            _train_builtin(choices, weights, logs)
    if node:
        say(f"node {node} has done its part; node 0 prints the result")
    elif supervise([*PIVOTNET, "report", output, "--final", choices.kind, "--log-folder", OUTPUTS]):
        raise FailedRun(f"there is no Final result; the run is in {output}")


def _choose_device(choices: Choices) -> str:
    """Fill in what depends on the device: preset, cards and steps; returns the device's type."""
    # in a process of its own: this one must not hold a device while the ranks run
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        try:
            kind, count = pool.submit(_find_devices, choices.device).result()
        except BrokenProcessPool:
            raise PivotNetError("torch crashed while it looked for devices: see pivotnet doctor") from None
    on_cpu = kind == "cpu"
    choices.cards = choices.cards or (2 if on_cpu else count)
    choices.preset = choices.preset or ("smoke" if on_cpu else "swint")
    if choices.kind == "performance" and not choices.steps:
        choices.steps = CPU_STEPS if on_cpu else FIRST_STEPS
    if not on_cpu and choices.cards > count:
        raise PivotNetError(f"--cards is {choices.cards}, but this machine has {count} devices of type {kind}")
    where = "no accelerator used" if on_cpu else f"{count} devices of type {kind}"
    say(f"{where}: preset {choices.preset}, {choices.cards} processes{' on the CPU' if on_cpu else ''}")
    return kind


def _find_devices(name: str | None) -> tuple[str, int]:
    from pivotnet.device import device_count, select_device  # with torch, which only this process needs

    kind = select_device(name).type
    return kind, device_count(kind)


def choose_network(choices: Choices) -> Path | None:
    """The patched checkout of upstream that is to be trained; None for the built-in network."""
    named = os.environ.get("PIVOTNET_DIR")
    folder = checkout_folder()
    run_sh, config = folder / "run.sh", _configuration(choices)
    reason = ""
    if choices.network != "builtin":
        if not run_sh.is_file():
            reason = f"there is no checkout of upstream in {folder}"
        elif not (folder / "configs" / f"{config}.py").is_file():
            reason = f"the checkout in {folder} has no configuration for preset {choices.preset}"
        if reason and (choices.network or (named and not run_sh.is_file())):
            remedy = "choose --network builtin, or name another folder by PIVOTNET_DIR"
            raise PivotNetError(f"the {choices.network or 'patched'} network cannot be trained, as {reason}: {remedy}")
    if choices.network == "builtin" or reason:
        choices.network = "builtin"
        say(f"training the built-in network, preset {choices.preset}{reason and f' ({reason})'}")
        return None
    if "pivotnet" not in run_sh.read_text(errors="replace"):
        remedy = "apply pivotnet.patch, or choose --network builtin"
        raise PivotNetError(f"the checkout in {folder} is not patched: {remedy}")
    require_patched_modules(folder / "requirement.txt")
    for word in choices.extra:
        if word.startswith("-") and word.split("=")[0] not in PATCHED_OPTIONS:
            known = ", ".join(PATCHED_OPTIONS)
            raise PivotNetError(f"{word}: the patched checkout takes {known} only; choose --network builtin for others")
    if choices.kind == "full" and choices.steps:
        remedy = "the patched checkout's full run has whole epochs, give --epochs"
        raise PivotNetError(f"--steps (STEPS) is {choices.steps}: {remedy}")
    choices.network = choices.network or "patched"
    say(f"training the patched checkout in {folder}, configuration {config}")
    return folder


def _configuration(choices: Choices) -> str:
    return f"{'bemapnet' if choices.network == 'bemapnet' else 'pivotnet'}_nuscenes_{choices.preset}"


def _prepare_data(choices: Choices) -> None:
    """Make synthetic data where there is no other, and annotate what is not annotated."""
    if not choices.data_root:
        seed = whole_number("SYNTH_SEED", os.environ.get("SYNTH_SEED") or "0", 0, SEED)
        choices.data_root = ROOT / "data" / f"synthetic-{seed}"
        say(f"no data in data/nuscenes and no DATA_ROOT: synthetic data, seed {seed}, in {choices.data_root}")
        _run(make_folder(ROOT / "data", "DATA_ROOT"), "synth", choices.data_root, "--seed", seed)
    if not (choices.data_root / "customer" / "pivot-bezier" / "splits" / "train.txt").is_file():
        say(f"annotating {choices.data_root}")
        curves = ["--bezier"] if choices.network == "bemapnet" else []
        _run(choices.data_root, "annotate", "-d", choices.data_root, *curves)


def _run(folder: Path, *words: object) -> None:
    with locked(folder):
        status = supervise([*PIVOTNET, *words])
    if status:
        raise PivotNetError(f"pivotnet {words[0]} failed (exit status {status}): see above")


def make_output(choices: Choices) -> Path:
    if not choices.output:
        name = f"{choices.kind}_{choices.preset}_{choices.cards}p_{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        choices.output = OUTPUTS / name
    if choices.nodes.rank == 0 and not choices.resume and any(choices.output.glob("*.json*")):
        remedy = f"choose another --output, or --resume {choices.output}"
        raise PivotNetError(f"{choices.output} holds a run already: {remedy}")
    return make_folder(choices.output, "--output")


def _train_builtin(choices: Choices, weights: Path | None, logs: Path) -> None:
    """``pivotnet train`` in every rank. Rank 0 writes its progress to the console."""
    assert choices.cards and choices.data_root
    names = ("preset", "data_root", "output", "device", "batch_size", "steps", "epochs")
    values = {name: getattr(choices, name) for name in names}
    if choices.kind == "full":
        # the score of the train split shows whether a network has learnt synthetic data
        values["evaluate"] = "val,train" if (choices.data_root / "synthetic.json").exists() else "val"
    values["backbone_weights"] = weights
    words = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value]
    words += [*(["--resume"] if choices.resume else []), *choices.extra]
    nodes = choices.nodes
    if nodes.count > 1:
        say(f"node {nodes.rank} of {nodes.count}; meeting at {nodes.address}:{nodes.port}")
    command = torchrun.command(choices.cards, nodes, ["-m", "pivotnet", "train", *words], logs)
    if status := supervise(command, env=torchrun.environment(choices.cards)):
        raise FailedRun(f"training failed (exit status {status}); logs: {choices.output}/train.log and {logs}")


def find_weights(choices: Choices) -> Path | None:
    """The file that upstream starts this preset from, where the user has placed it. Raises PivotNetError: it is not
    there, and it was asked for, or days of training on nuScenes would start without it."""
    backbone = BACKBONES.get(choices.preset or "")
    if not backbone:  # upstream has no such network
        return None
    given, name = choices.weights, backbone.weight_file
    folders = [given] if given else [root / "assets" / "weights" for root in (ROOT, checkout_folder())]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    remedy = f"python3 tools/download.py {choices.preset} gets it"
    if given:
        raise PivotNetError(f"--weights (WEIGHTS) is {given}, which holds no {name}: {remedy}")
    missing = f"no {name} in {' or '.join(map(str, folders))}: {remedy}"
    on_nuscenes = choices.data_root and not (choices.data_root / "synthetic.json").exists()
    if choices.kind == "full" and on_nuscenes and os.environ.get(WITHOUT_WEIGHTS) != "none":
        raise PivotNetError(f"{missing}; {WITHOUT_WEIGHTS}=none starts without it, for less accuracy")
    if choices.kind == "full":
        say(f"{missing}; the backbone starts untrained, for less accuracy")
    return None


def _train_patched(choices: Choices, checkout: Path, device: str, logs: Path) -> None:
    """run.sh of the patched checkout, which writes the same summary and records; a full run is evaluated."""
    assert choices.cards and choices.output
    full, config, epochs = choices.kind == "full", _configuration(choices), choices.epochs or 30
    environment = torchrun.environment(choices.cards)
    changes = {
        "PATH": f"{Path(sys.executable).parent}:{environment.get('PATH', os.defpath)}",  # run.sh calls python3
        "PIVOTNET_OUTPUT": choices.output,
        "PIVOTNET_DEVICE": device,
        "PIVOTNET_LOGS": logs,
        "CARDS": choices.cards,
        "DATA_ROOT": choices.data_root,
        "BATCH_SIZE": choices.batch_size or "",
        "WEIGHTS": choices.weights or "",
    }
    if not full:
        changes.update(PIVOTNET_PERFORMANCE_FLAG=1, PIVOTNET_PERFORMANCE_STEPS=choices.steps)
    environment.update({name: str(value) for name, value in changes.items()})

    def run(*words: object) -> None:
        if status := supervise(["bash", "run.sh", *words], env=environment, cwd=checkout):
            raise FailedRun(f"{words[0]} failed (exit status {status}); logs: {choices.output}/train.log and {logs}")

    saved = list_patched_checkpoints(choices.output)
    if saved:
        from pivotnet.checkpoint import newest_good  # torch, which the launcher needs for nothing else

        path, _, bad = newest_good(saved)
        for line in [*bad, f"going on from {path}"]:
            say(line)
        run("train-continue", config, path, "-e", epochs, *choices.extra)
    else:
        if choices.resume:
            say(f"no checkpoint in {choices.output}: starting again")
        run("train", config, epochs, *choices.extra)
    if choices.nodes.rank == 0 and not (choices.output / "summary.json").is_file():
        raise FailedRun(f"run.sh ended without a summary of its steps; logs: {logs}")
    if full:
        run("test", config, list_patched_checkpoints(choices.output)[-1])


def list_patched_checkpoints(output: Path) -> list[Path]:
    """The checkpoints of a run of the patched checkout, the newest last."""
    return sorted((output / "checkpoints").glob("checkpoint_epoch_*.pth"), key=lambda path: path.stat().st_mtime)
