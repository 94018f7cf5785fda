"""Annotation, evaluation and data loading, a process each."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import other
from benchmarks.data_set import PICKLED, PICKLED_RESULTS, RESULTS
from benchmarks.pair import Phases, Task
from pivotnet.annotation.convert import Options, convert_sample
from pivotnet.annotation.expansion import read_map
from pivotnet.annotation.format import FOLDER, save_annotation
from pivotnet.annotation.tables import read_samples
from pivotnet.config import MapConfig, preset
from pivotnet.data.dataset import build_loader
from pivotnet.data.sampler import EvaluationSampler
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.score import score_results

START, SAMPLES = "start", "samples"


def clear_annotations(root: Path) -> None:
    """Remove annotated samples: replacing a file takes longer than making one."""
    for path in (root / FOLDER).glob("*.npz"):
        path.unlink()


class OurAnnotation(Task):
    """All samples of a tree, one after the other; tables and maps are read anew each run."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        (root / FOLDER).mkdir(parents=True, exist_ok=True)

    def prepare(self) -> None:
        """No samples of the last run."""
        clear_annotations(self.root)

    def run(self) -> None:
        """Tables and maps, then the samples."""
        samples = read_samples(self.root, "v1.0-trainval")
        maps = {location: read_map(self.root, location) for location in {sample.location for sample in samples}}
        self.phases.end(START)
        for sample in samples:
            annotation = convert_sample(sample, maps[sample.location], Options(), MapConfig())
            save_annotation(self.root / FOLDER / f"{sample.token}.npz", annotation)
        self.phases.end(SAMPLES)


class OtherAnnotation(Task):
    """The same by the converter of another checkout, under a Python that can run it.

    Args:
        checkout: upstream, or a port of it.
        root: a tree of its own (it overwrites annotated samples).
        samples: how many at the most.
        python: an interpreter with shapely 1 and nuscenes-devkit 1.1.11.
    """

    def __init__(self, checkout: Path, root: Path, samples: int, python: str) -> None:
        super().__init__()
        driver = Path(__file__).with_name("converter_driver.py")
        self.command = [python, "-B", "-W", "ignore", str(driver), str(checkout.resolve()), str(root), str(samples)]
        self.root = root
        self.peak_bytes = 0

    def prepare(self) -> None:
        """No samples of the last run."""
        clear_annotations(self.root)

    def run(self) -> None:
        """One run of the converter; the seconds are those that it measured itself."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        finished = subprocess.run(self.command, env=environment, capture_output=True, text=True)
        if finished.returncode:
            raise PivotNetError(
                f"{' '.join(self.command)} failed: {(finished.stderr.strip().splitlines() or ['?'])[-1]}"
            )
        told = json.loads(finished.stdout.splitlines()[-1])
        wall, cpu = (sum(column) for column in zip(*told["samples"]))
        self.phases.seconds = {START: tuple(told["start"]), SAMPLES: (wall, cpu)}
        self.peak_bytes = told["peak_bytes"]

    def facts(self) -> dict[str, Any]:
        """The converter's own memory; this process only waits for it."""
        return {"converter_peak_gib": round(self.peak_bytes / 2**30, 2)}


class OurEvaluation(Task):
    """AP of the result files of a tree."""

    def __init__(self, root: Path, tokens: list[str]) -> None:
        super().__init__()
        self.root, self.tokens = root, tokens

    def run(self) -> None:
        """Score all samples in this process."""
        score_results(self.root / RESULTS, self.root, self.tokens, MapConfig().resolution, workers=1, quiet=True)
        self.phases.end(SAMPLES)


class OtherEvaluation(Task):
    """The evaluation script of another checkout on the same results, loading in its own process (it ships with 8)."""

    def __init__(self, checkout: Path, root: Path, tokens: list[str]) -> None:
        super().__init__()
        checkout = other.import_other(checkout)
        self.script = str(checkout / "tools" / "evaluation" / "eval.py")
        results = root / PICKLED_RESULTS
        self.arguments = [str(root / PICKLED), str(results), str(results / "tokens.txt")]
        loader = torch.utils.data.DataLoader

        @functools.wraps(loader)
        def in_process(*arguments: Any, **options: Any) -> Any:
            return loader(*arguments, **{**options, "num_workers": 0})

        torch.utils.data.DataLoader = in_process  # type: ignore[misc,assignment]

    def run(self) -> None:
        """The script, from its reading of the list to its table."""
        saved, sys.argv = sys.argv, [self.script, *self.arguments]
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                runpy.run_path(self.script, run_name="__main__")
        finally:
            sys.argv = saved
        self.phases.end(SAMPLES)


class OurLoading(Task):
    """Batches of 1 with targets, of a tree with images.

    Args:
        tokens: samples; a token may come more than once.
        workers: loading processes; 0 loads in the measuring one.
    """

    def __init__(self, root: Path, tokens: list[str], preset_name: str, workers: int) -> None:
        super().__init__()
        self.loader = build_loader(
            preset(preset_name),
            root,
            tokens,
            sampler=EvaluationSampler(len(tokens), 1),
            with_targets=True,
            workers=workers,
        )

    def run(self) -> None:
        """All batches."""
        _exhaust(self.loader, self.phases)


class OtherLoading(Task):
    """The data set, transforms and loader of another checkout, as its experiment puts them together."""

    def __init__(self, checkout: Path, root: Path, tokens: list[str], preset_name: str, workers: int) -> None:
        super().__init__()
        other.import_other(checkout)
        setup = importlib.import_module(f"pivotnet_nuscenes_{preset_name}").EXPConfig
        transforms = importlib.import_module("mapmaster.dataset.transform")
        splits = root / PICKLED / "splits"
        splits.mkdir(exist_ok=True)
        (splits / "train.txt").write_text("".join(f"{token}\n" for token in tokens))
        places = {"nusc_root": str(root), "anno_root": str(root / PICKLED), "split_dir": str(splits)}
        options = setup.dataset_setup
        compose = importlib.import_module("torchvision.transforms").Compose
        steps = [
            transforms.Resize(img_scale=options["input_size"]),
            transforms.Normalize(**options["img_norm_cfg"]),
            transforms.ToTensor_Pivot(),
        ]
        dataset = importlib.import_module("mapmaster.dataset.nuscenes_pivotnet").NuScenesMapDataset(
            options["img_key_list"], {**setup.map_conf, **places}, compose(steps)
        )
        self.loader = torch.utils.data.DataLoader(dataset, batch_size=1, num_workers=workers)

    def run(self) -> None:
        """All batches."""
        _exhaust(self.loader, self.phases)


def _exhaust(loader: Any, phases: Phases) -> None:
    iterator = iter(loader)
    for _ in iterator:
        pass
    del iterator  # ends the workers, whose CPU time counts from then on
    phases.end(SAMPLES)
