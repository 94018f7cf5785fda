"""What a run needs before its ranks start: a device, defaults by that device, a network, data, and a folder."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from pivotnet.errors import PivotNetError
from pivotnet.files import make_folder
from pivotnet.launch import say, whole_number
from pivotnet.launch.choices import OUTPUTS, ROOT, Choices
from pivotnet.launch.supervise import supervise

PIVOTNET = (sys.executable, "-m", "pivotnet")
STEPS = {"cpu": 150, "simulated": 30}  # of a performance run; elsewhere:
FIRST_STEPS = 1500  # of the 30-epoch schedule, as the published port times


def choose_device(choices: Choices) -> str:
    """Fill in what depends on the device: preset, cards and steps; returns the device's type."""
    # in a process of its own: this one must not hold a device while the ranks run
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            kind, count = pool.submit(_find_devices, choices.device).result()
        except BrokenProcessPool:
            raise PivotNetError("torch crashed while it looked for devices: see pivotnet doctor") from None
    simulated = bool(os.environ.get("CANNSIM")) and kind == "npu"  # tools/cannsim
    choices.cards = cards = choices.cards or (2 if kind == "cpu" else count)
    choices.preset = choices.preset or ("smoke" if kind == "cpu" or simulated else "swint")
    if choices.kind == "performance" and not choices.steps:
        choices.steps = STEPS.get("simulated" if simulated else kind, FIRST_STEPS)
    if kind == "cpu":
        say(f"no accelerator used: preset {choices.preset}, {cards} processes on the CPU")
        return kind
    if cards > count:
        raise PivotNetError(f"--cards is {cards}, but this machine has {count} devices of type {kind}")
    what, note = ("simulated devices", "; their speed means nothing") if simulated else ("devices", "")
    say(f"{count} {what} of type {kind}: preset {choices.preset}, {cards} processes{note}")
    return kind


def _find_devices(name: str | None) -> tuple[str, int]:
    from pivotnet import device as devices  # with torch, which only this process needs

    kind = devices.select_device(name).type
    return kind, devices.device_count(kind)


def choose_network(choices: Choices) -> Path | None:
    """The patched checkout of upstream that is to be trained; None for the built-in network."""
    named, asked = os.environ.get("PIVOTNET_DIR"), choices.network
    folder = Path(named or ROOT / "PivotNet").absolute()
    run_sh, reason = folder / "run.sh", ""
    if asked != "builtin" and not run_sh.is_file():
        if named:
            remedy = "unset it to train the built-in network"
            raise PivotNetError(f"PIVOTNET_DIR={named} is no checkout of upstream: it has no run.sh; {remedy}")
        if asked:
            raise PivotNetError(f"there is no checkout of upstream in {folder}: lay it out, or set PIVOTNET_DIR")
        choices.network = "builtin"
    elif asked != "builtin":
        choices.network = "patched"
        if not (folder / "configs" / f"pivotnet_nuscenes_{choices.preset}.py").is_file():
            reason = f": the checkout in {folder} has no configuration for preset {choices.preset}"
            if asked:
                raise PivotNetError(f"--network is patched{reason}; choose --network builtin")
            choices.network = "builtin"
    if choices.network == "builtin":
        say(f"training the built-in network, preset {choices.preset}{reason}")
        return None
    if "pivotnet" not in run_sh.read_text(errors="replace"):
        raise PivotNetError(
            f"the checkout in {folder} is not patched: apply pivotnet.patch, or choose --network builtin"
        )
    if choices.resume:
        raise PivotNetError("the patched checkout cannot resume a run: start a new one, or choose --network builtin")
    say(f"training the patched checkout in {folder}, configuration pivotnet_nuscenes_{choices.preset}")
    return folder


def prepare_data(choices: Choices) -> None:
    """Make synthetic data where there is no other, and annotate what is not annotated."""
    if not choices.data_root:
        seed = whole_number("SYNTH_SEED", os.environ.get("SYNTH_SEED") or "0", least=0)
        choices.data_root = ROOT / "data" / f"synthetic-{seed}"
        say(f"no data in data/nuscenes and no DATA_ROOT: synthetic data, seed {seed}, in {choices.data_root}")
        _run(make_folder(ROOT / "data", "DATA_ROOT"), "synth", choices.data_root, "--seed", seed)
    if not (choices.data_root / "customer" / "pivot-bezier" / "splits" / "train.txt").is_file():
        say(f"annotating {choices.data_root}")
        _run(choices.data_root, "annotate", "-d", choices.data_root)


def _run(folder: Path, *words: object) -> None:
    with locked(folder):
        status = supervise([*PIVOTNET, *words])
    if status:
        raise PivotNetError(f"pivotnet {words[0]} failed (exit status {status}): see above")


@contextlib.contextmanager
def locked(folder: Path, busy: str | None = None) -> Iterator[None]:
    """Have a folder for oneself, where the file system knows locks. Wait for other runs, or raise ``busy``."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if busy:
                    raise PivotNetError(busy) from None
                say(f"waiting for another run that works in {folder}")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_output(choices: Choices) -> Path:
    """The folder of the run, a new one unless one was named."""
    main = choices.nodes.rank == 0
    if not choices.output:
        name = f"{choices.kind}_{choices.preset}_{choices.cards}p_{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        choices.output = OUTPUTS / name
    summary = choices.output / "summary.json"
    if choices.resume and main and summary.exists():  # an earlier end of this run is not its result
        ended = time.strftime("%Y%m%d-%H%M%S", time.localtime(summary.stat().st_mtime))
        summary.rename(summary.with_name(f"summary.{ended}.json"))
    if not choices.resume and main and list(choices.output.glob("*.json*")):
        remedy = f"choose another --output, or --resume {choices.output}"
        raise PivotNetError(f"{choices.output} holds a run already: {remedy}")
    return make_folder(choices.output, "--output")
