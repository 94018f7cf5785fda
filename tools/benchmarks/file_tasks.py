"""Annotation, evaluation and data loading: ours and upstream's."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from recordings import shim
from recordings.golden_data import run_or_raise

from benchmarks.file_inputs import PICKLED, PICKLED_RESULTS, RESULTS, link_tree
from benchmarks.turns import Clock, Seconds, Task
from pivotnet.annotation.convert import convert_sample
from pivotnet.annotation.expansion import read_map
from pivotnet.annotation.format import FOLDER, save_annotation
from pivotnet.annotation.tables import read_samples
from pivotnet.config import MapConfig, preset
from pivotnet.data.dataset import build_loader
from pivotnet.data.sampler import EvaluationSampler
from pivotnet.evaluation.score import score_results


def _remove_annotated(root: Path) -> None:
    """Remove the annotated samples of the last run: replacing a file takes longer than making one."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for path in (root / FOLDER).glob("*.npz"):
        path.unlink()


def our_annotation(root: Path) -> Task:
    """All samples of a tree, one after the other; tables and maps are read anew each run."""
    clock = Clock()

    def run() -> None:
        samples = read_samples(root, "v1.0-trainval")
        maps = {location: read_map(root, location) for location in {sample.location for sample in samples}}
        clock.enter("samples")
        for sample in samples:
            annotation = convert_sample(sample, maps[sample.location], MapConfig())
            save_annotation(root / FOLDER / f"{sample.token}.npz", annotation)

    return Task(clock, run, lambda: _remove_annotated(root), "start")


def upstream_annotation(checkout: Path, root: Path, samples: int, python: str) -> Task:
    """The same by upstream's converter, under a Python that can run it; its process measures itself.

    Args:
        samples: how many at the most.
        python: an interpreter with shapely 1 and nuscenes-devkit 1.1.11.
    """
    root = link_tree(root)  # ours writes into the other
    driver = Path(__file__).with_name("converter_driver.py")
    command = [python, "-B", "-W", "ignore", str(driver), str(checkout.resolve()), str(root), str(samples)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run() -> Seconds:
        reported = json.loads(run_or_raise(command, environment).splitlines()[-1])
        return {phase: tuple(reported[phase]) for phase in ("start", "samples")}

    return Task(Clock(), run, lambda: _remove_annotated(root), "start")


def our_evaluation(root: Path, tokens: list[str]) -> Task:
    """AP of the result files of a tree, in this process."""

    def run() -> None:
        score_results(root / RESULTS, root, tokens, MapConfig().resolution, workers=1, quiet=True)

    return Task(Clock(), run)


def upstream_evaluation(checkout: Path, root: Path, tokens: list[str]) -> Task:
    """Upstream's evaluation script on the same results, loading in its own process (it ships with 8)."""
    script = str(shim.import_upstream(checkout) / "tools" / "evaluation" / "eval.py")
    results = root / PICKLED_RESULTS
    arguments = [script, str(root / PICKLED), str(results), str(results / "tokens.txt")]
    loader = torch.utils.data.DataLoader

    @functools.wraps(loader)
    def in_process(*arguments: Any, **options: Any) -> Any:
        return loader(*arguments, **{**options, "num_workers": 0})

    torch.utils.data.DataLoader = in_process  # type: ignore[misc,assignment]

    def run() -> None:
        sys.argv = arguments
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runpy.run_path(script, run_name="__main__")

    return Task(Clock(), run)


def our_loading(root: Path, tokens: list[str], preset_name: str, workers: int) -> Task:
    """Batches of 1 with targets, of a tree with images.

    Args:
        tokens: samples; a token may come more than once.
        workers: loading processes; 0 loads in the measuring one.
    """
    sampler = EvaluationSampler(len(tokens), 1)
    return _loading(
        build_loader(preset(preset_name), root, tokens, sampler=sampler, with_targets=True, workers=workers)
    )


def upstream_loading(checkout: Path, root: Path, tokens: list[str], preset_name: str, workers: int) -> Task:
    """The data set, transforms and loader of upstream, as its experiment puts them together."""
    shim.import_upstream(checkout)
    setup = importlib.import_module(f"pivotnet_nuscenes_{preset_name}").EXPConfig
    transforms = importlib.import_module("mapmaster.dataset.transform")
    splits = root / PICKLED / "splits"
    splits.mkdir(exist_ok=True)
    (splits / "train.txt").write_text("".join(f"{token}\n" for token in tokens))
    folders = {"nusc_root": str(root), "anno_root": str(root / PICKLED), "split_dir": str(splits)}
    options = setup.dataset_setup
    steps = [
        transforms.Resize(img_scale=options["input_size"]),
        transforms.Normalize(**options["img_norm_cfg"]),
        transforms.ToTensor_Pivot(),
    ]
    compose = importlib.import_module("torchvision.transforms").Compose
    dataset = importlib.import_module("mapmaster.dataset.nuscenes_pivotnet").NuScenesMapDataset(
        options["img_key_list"], {**setup.map_conf, **folders}, compose(steps)
    )
    return _loading(torch.utils.data.DataLoader(dataset, batch_size=1, num_workers=workers))


def _loading(loader: Iterable[Any]) -> Task:
    def run() -> None:
        iterator = iter(loader)
        for _ in iterator:
            pass
        del iterator  # ends the workers, whose CPU time counts from then on

    return Task(Clock(), run)
