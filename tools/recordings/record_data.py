"""Record upstream's image transform, average precision and annotation converter."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from pivotnet.annotation.npz import read_npz
from pivotnet.files import atomic_write
from recordings import inputs
from recordings.shim import ShimError

IMAGE_SHAPE = (900, 1600, 3)
AP_SAMPLES = 12
RESULT_LINES = 100  # upstream pads the scores of a sample to this number
THRESHOLDS = [0.2, 0.5, 1.0, 1.5]
RESOLUTION = 0.15


def transform_images(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images uint8 [900, 1600, 3]: noise, and the same blurred with one channel darkened and one inverted."""
    first = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, IMAGE_SHAPE, dtype=np.uint8)
    second = cv2.GaussianBlur(first, (0, 0), 9)
    second[..., 0] //= 2
    second[..., 2] = 255 - second[..., 2] // 3
    return first, second


def record_transform(seed: int) -> dict[str, np.ndarray]:
    """golden_transform.npz: resize, scale, channel swap and normalisation of two images."""
    transforms = importlib.import_module("mapmaster.dataset.transform")
    setup = importlib.import_module("pivotnet_nuscenes_swint").EXPConfig.dataset_setup
    images = list(transform_images(seed))
    item: dict[str, Any] = {"images": [image.copy() for image in images], "extra_infos": {}}
    for step in (transforms.Resize(img_scale=setup["input_size"]), transforms.Normalize(**setup["img_norm_cfg"])):
        item = step(item)
    output = np.stack([image.transpose(2, 0, 1) for image in item["images"]])
    red = transforms.Normalize(**setup["img_norm_cfg"])(
        {"images": [np.tile(np.array([255, 0, 0], np.uint8), (2, 2, 1))], "extra_infos": {}}
    )
    return {
        "seed": np.int64(seed),
        "output": output[..., ::16, ::16].astype(np.float32),
        "output_mean": output.astype(np.float64).mean((2, 3)),
        "output_std": output.astype(np.float64).std((2, 3)),
        "second_image": images[1][::4, ::4],
        "second_image_row0": images[1][0],
        "red_pixel": red["images"][0][0, 0].astype(np.float64),
    }


def detections(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ground truth and jittered detections of one sample: two masks uint8 [3, 400, 200] of thickness 1, scores [n]."""
    rng = inputs.generator(seed, "ap", index)
    target = inputs.target(seed + index, ("typical", "empty_class", "all_empty", "max_points")[index % 4])
    truth = np.zeros((3, *inputs.MAP_SIZE), np.uint8)
    found = np.zeros_like(truth)
    scores: list[float] = []
    for cls in range(3):
        for instance in range(len(target["valid_len"][cls])):
            line = target["points"][cls][instance, : target["valid_len"][cls][instance]] * inputs.MAP_SIZE
            _draw(truth[cls], line, instance + 1)
            if rng.random() < 0.85:  # the others are missed
                _draw(found[cls], line + rng.normal(0, rng.uniform(0, 8), (1, 2)), len(scores) + 1)
                scores.append(float(rng.uniform(0.5, 1)))
        for _ in range(int(rng.integers(0, 3))):  # false alarms
            _draw(found[cls], rng.uniform(0, 1, (4, 2)) * inputs.MAP_SIZE, len(scores) + 1)
            scores.append(float(rng.choice([0.55, rng.uniform(0.5, 1)])))
    return truth, found, np.array(scores)


def _draw(mask: np.ndarray, line: np.ndarray, identifier: int) -> None:
    pixels = np.ascontiguousarray(line.astype(np.int32)[:, ::-1])
    cv2.polylines(mask, [pixels], False, color=identifier, thickness=1)


def record_ap(seed: int) -> dict[str, np.ndarray]:
    """golden_ap.npz: sums, counts and table of upstream's evaluation of made-up detections."""
    average_precision = importlib.import_module("ap").instance_mask_ap
    recalls = torch.linspace(0.1, 1, 10)
    total, counts = torch.zeros((3, len(THRESHOLDS))), torch.zeros((3, len(THRESHOLDS)))
    truths, founds, rows, samples = [], [], [], []
    for index in range(AP_SAMPLES):
        truth, found, scores = detections(seed, index)
        row = torch.full((1, RESULT_LINES), -1.0)
        row[0, 1 : len(scores) + 1] = torch.from_numpy(scores).float()
        before, counted = total.clone(), counts.clone()
        masks = (torch.from_numpy(found)[None], torch.from_numpy(truth)[None])
        total, counts = average_precision(total, counts, *masks, RESOLUTION, RESOLUTION, row, THRESHOLDS, recalls)
        samples.append(torch.where(counts > counted, total - before, torch.nan).numpy())
        truths.append(truth)
        founds.append(found)
        rows.append(row[0].numpy())
    return {
        "seed": np.int64(seed),
        "gt": np.stack(truths),
        "dt": np.stack(founds),
        "scores": np.stack(rows),
        "thresholds": np.array(THRESHOLDS),
        "sampled_recalls": recalls.numpy(),
        "ap_matrix": total.numpy(),
        "ap_count": counts.numpy(),
        "ap": (total / counts).numpy(),
        "per_sample": np.stack(samples).astype(np.float64),
    }


def record_annotation(seed: int, checkout: Path, converter_python: str, folder: Path) -> None:
    """nuscenes.tar.gz (a synthetic data set without images), npz.tar.gz (what upstream's converter writes for it) and
    eval.tar.gz (made-up detections for it, and what upstream's evaluation says of them).

    Args:
        converter_python: an interpreter with nuscenes-devkit 1.1.11, shapely 1.8.5.post1, numpy 1.26.4, matplotlib 3.7,
            opencv, scipy, visvalingamwyatt and torch: upstream's converter runs on shapely 1 only.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root, evaluation = Path(scratch) / "nuscenes", Path(scratch) / "eval"
        command = [sys.executable, "-m", "pivotnet", "synth", str(root), "--seed", str(seed), "--no-images"]
        environment = dict(os.environ, PYTHONPATH=str(Path(__file__).resolve().parents[2]))
        _run([*command, "--scenes", "8", "--samples-per-scene", "3"], environment, checkout)
        for expansion in sorted((root / "maps" / "expansion").glob("*.json")):
            _shorten_tokens(expansion)
        converter = checkout / "tools" / "anno_converter" / "nuscenes"
        environment = dict(os.environ, PYTHONPATH=f"{checkout}:{converter}", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
        command = [converter_python, "-B", str(converter / "convert.py"), "-d", str(root)]
        _run(command, environment, checkout)
        written = sorted((root / "customer" / "pivot-bezier").glob("*.npz"))
        _pack(folder / "npz.tar.gz", {f"npz/{path.name}": path for path in written})
        tables = [p for p in sorted(root.rglob("*")) if p.is_file() and "customer" not in p.relative_to(root).parts]
        _pack(folder / "nuscenes.tar.gz", {f"nuscenes/{path.relative_to(root)}": path for path in tables})
        _record_evaluation(seed, checkout, written, evaluation)
        files = [path for path in sorted(evaluation.rglob("*")) if path.is_file()]
        _pack(folder / "eval.tar.gz", {f"eval/{path.relative_to(evaluation)}": path for path in files})


def _shorten_tokens(expansion: Path) -> None:
    """Count a map's tokens through instead of their random digits, which would be most of the archive."""
    numbers: dict[str, str] = {}
    pattern = re.compile(r'"([0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12})"')
    text = pattern.sub(lambda match: f'"{numbers.setdefault(match[1], str(len(numbers)))}"', expansion.read_text())
    expansion.write_text(text)


def _run(command: list[str], environment: dict[str, str], folder: Path) -> None:
    finished = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ShimError(f"{' '.join(command)} failed: {last}")


def _record_evaluation(seed: int, checkout: Path, annotated: list[Path], folder: Path) -> None:
    """Result files in upstream's layout (pickled), and upstream's own evaluation of them: ap.json and table.txt."""
    (folder / "pred").mkdir(parents=True)
    (folder / "val.txt").write_text("".join(f"{path.stem}\n" for path in annotated))
    for index, path in enumerate(annotated):
        truth = read_npz(path, ["instance_mask"])["instance_mask"]
        if index % 2:  # nearly right
            found, scores = _shifted(truth, inputs.generator(seed, "shift", index))
        else:  # unrelated
            _, found, scores = detections(seed, index)
        content = {
            "map": [None, *(np.zeros((2, 2), np.float32) for _ in scores)],
            "confidence_level": [-1, *scores.tolist()],
            "pred_label": [0, *(1 for _ in scores)],
        }
        np.savez_compressed(folder / "pred" / path.name, dt_mask=found, dt_res=np.array(content, dtype=object))
    arguments = [str(annotated[0].parent), str(folder / "pred"), str(folder / "val.txt")]
    script = checkout / "tools" / "evaluation" / "eval.py"
    saved, sys.argv = sys.argv, [str(script), *arguments]
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            evaluator = runpy.run_path(str(script), run_name="__main__")["evaluator"]
    finally:
        sys.argv = saved
    record = {
        "ap_sum": evaluator.ap_matrix.tolist(),
        "count": evaluator.ap_count_matrix.tolist(),
        "ap": (evaluator.ap_matrix / evaluator.ap_count_matrix).tolist(),
    }
    (folder / "ap.json").write_text(json.dumps(record, indent=1))
    (folder / "table.txt").write_text(output.getvalue())


def _shifted(truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The true lines, each moved by a few pixels, with running ids over the classes; and their scores [n]."""
    found = np.zeros_like(truth)
    scores: list[float] = []
    for cls, mask in enumerate(truth):
        for identifier in np.unique(mask[mask > 0]):
            rows, columns = np.nonzero(mask == identifier)
            offset = rng.integers(-6, 7, 2)
            rows, columns = np.clip(rows + offset[0], 0, 399), np.clip(columns + offset[1], 0, 199)
            scores.append(float(rng.uniform(0.5, 1)))
            found[cls, rows, columns] = len(scores)
    return found, np.array(scores)


def _pack(archive: Path, members: dict[str, Path]) -> None:
    with atomic_write(archive) as stream, tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, path in members.items():
            tar.add(path, name)
