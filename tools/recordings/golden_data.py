"""Recordings of upstream's image transform, average precision and annotation converter."""

import contextlib
import importlib
import io
import itertools
import json
import os
import runpy
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

from pivotnet.annotation.format import FOLDER, lines_to_arrays, load_annotation, to_arrays
from pivotnet.annotation.runner import annotate
from pivotnet.config import preset
from pivotnet.data.images import resize
from pivotnet.data.targets import draw_line
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.ap import RECALLS, THRESHOLDS, ApResult, accumulate, sample_ap
from pivotnet.evaluation.score import format_table, score_results
from pivotnet.files import atomic_write
from pivotnet.model.pivotnet import PivotNet
from pivotnet.synthetic.generate import generate
from pivotnet.synthetic.plan import Options
from recordings import inputs
from recordings.comparison import Comparison, compare

IMAGE_SHAPE = (900, 1600, 3)
RESOLUTION = 0.15
# (x/255 - mean) * (1/std): one float32 rounding more or less of a value up to 2.6.
PIXEL_ABSOLUTE = 1e-6
# The mean of float32 pixels over an image, summed in another order.
PIXEL_MEAN_ABSOLUTE = 2e-6
# Older recordings have a sample's AP as the difference of two float32 sums over up to 24 samples.
AP_ABSOLUTE = 2e-6
# One unit in the last place of yaw moves an int32 truncation (docs: the same inputs under other numpy, shapely, BLAS).
ANNOTATION_POINTS, ANNOTATION_PIXELS = 1e-9, 16


def transform_images(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two images uint8 [900, 1600, 3]: noise, and the same blurred with one channel darkened and one inverted."""
    first = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, IMAGE_SHAPE, dtype=np.uint8)
    second = cv2.GaussianBlur(first, (0, 0), 9)
    second[..., 0] //= 2
    second[..., 2] = 255 - second[..., 2] // 3
    return first, second


def _transformed(images: tuple[np.ndarray, np.ndarray], output: np.ndarray, red: Any) -> dict[str, np.ndarray]:
    """What is recorded of two images, what the network gets of them [2, 3, 512, 896], and of a red pixel."""
    return {
        "output": output[..., ::16, ::16].astype(np.float32),
        "output_mean": output.astype(np.float64).mean((2, 3)),
        "output_std": output.astype(np.float64).std((2, 3)),
        "second_image": images[1][::4, ::4],
        "red_pixel": np.asarray(red, np.float64),
    }


def record_transform(seed: int) -> dict[str, np.ndarray]:
    """golden_transform.npz: resize, scale, channel swap and normalisation of two images."""
    transforms = importlib.import_module("mapmaster.dataset.transform")
    setup = importlib.import_module("pivotnet_nuscenes_swint").EXPConfig.dataset_setup
    resize, normalise = transforms.Resize(img_scale=setup["input_size"]), transforms.Normalize(**setup["img_norm_cfg"])
    images = transform_images(seed)
    item = normalise(resize({"images": [image.copy() for image in images], "extra_infos": {}}))
    output = np.stack([image.transpose(2, 0, 1) for image in item["images"]])
    red = normalise({"images": [np.tile(np.array([255, 0, 0], np.uint8), (2, 2, 1))], "extra_infos": {}})
    return _transformed(images, output, red["images"][0][0, 0])


def check_transform(recorded: Mapping[str, np.ndarray]) -> list[Comparison]:
    """golden_transform.npz: resized, normalised pixels."""
    groups = {
        "second_image": Comparison("transform: input image regenerated"),
        "output_*": Comparison("transform: mean and deviation of images", absolute=PIXEL_MEAN_ABSOLUTE),
        "*": Comparison("transform: pixels", absolute=PIXEL_ABSOLUTE),
    }
    config = preset("swint")
    network = PivotNet(config.model, config.map)
    images = transform_images(int(recorded["seed"]))
    resized = np.stack([resize(image[..., ::-1], config.model.image_size) for image in images])  # BGR
    output = network.normalise(torch.from_numpy(resized)[None])[0].numpy()
    red = network.normalise(torch.tensor([0, 0, 255], dtype=torch.uint8).expand(1, 1, 1, 1, 3)).flatten()
    compare(groups, _transformed(images, output, red), recorded)
    return list(groups.values())


AP_SAMPLES = 12  # of each sort
RESULT_LINES = 100  # upstream pads the scores of a sample to this number


def detections(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ground truth and jittered detections of one sample: two masks uint8 [3, 400, 200] of thickness 1, scores [n]."""
    rng = inputs.generator(seed, "ap", index)
    target = inputs.target(seed + index, ("typical", "empty_class", "all_empty", "max_points")[index % 4])
    truth = np.zeros((3, *inputs.MAP_SIZE), np.uint8)
    found = np.zeros_like(truth)
    scores: list[float] = []
    for label in range(3):
        for instance, length in enumerate(target[f"valid_len{label}"].astype(int)):
            line = target[f"points{label}"][instance, :length] * inputs.MAP_SIZE
            draw_line(truth[label], line, instance + 1, 1)
            if rng.random() < 0.85:  # the others are missed
                draw_line(found[label], line + rng.normal(0, rng.uniform(0, 8), (1, 2)), len(scores) + 1, 1)
                scores.append(float(rng.uniform(0.5, 1)))
        for _ in range(int(rng.integers(0, 3))):  # false alarms
            draw_line(found[label], rng.uniform(0, 1, (4, 2)) * inputs.MAP_SIZE, len(scores) + 1, 1)
            scores.append(float(rng.choice([0.55, rng.uniform(0.5, 1)])))
    return truth, found, np.array(scores)


def tied_detections(seed: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of parallel and shifted straight lines, so that distances and scores tie and thresholds are hit."""
    rng = inputs.generator(seed, "ties", index)
    truth = np.zeros((3, *inputs.MAP_SIZE), np.uint8)
    found = np.zeros_like(truth)
    scores: list[float] = []
    for label in range(3):
        for identifier in range(1, rng.integers(0, 6) + 1):
            start = rng.integers((20, 20), (380, 180))
            line = np.stack([start, start + rng.choice([(0, 40), (60, 0), (50, 30), (0, 1)])])
            draw_line(truth[label], line, identifier, 1)
            for _ in range(rng.integers(0, 3)):
                shift = rng.choice([(0, 0), (0, 1), (1, 0), (-1, 0), (0, 10), (10, 0), (3, 3), (0, 7), (40, 9)])
                draw_line(found[label], line + shift, len(scores) + 1, 1)
                scores.append(float(rng.choice([0.5, 0.75, 0.9, rng.random()])))
    return truth, found, np.array(scores)


def record_ap(seed: int) -> dict[str, np.ndarray]:
    """golden_ap.npz: upstream's evaluation of made-up detections, by sample and in all."""
    average_precision = importlib.import_module("ap").instance_mask_ap
    recalls = torch.linspace(0.1, 1, 10)
    total, counts = (torch.zeros((3, len(THRESHOLDS))) for _ in range(2))
    samples = []
    for make, index in itertools.product((detections, tied_detections), range(AP_SAMPLES)):
        truth, found, scores = make(seed, index)
        row = torch.full((1, RESULT_LINES), -1.0)
        row[0, 1 : len(scores) + 1] = torch.from_numpy(scores).float()
        masks = (torch.from_numpy(found)[None], torch.from_numpy(truth)[None])
        arguments = (*masks, RESOLUTION, RESOLUTION, row, list(THRESHOLDS), recalls)
        alone, counted = average_precision(torch.zeros_like(total), torch.zeros_like(counts), *arguments)
        total, counts = average_precision(total, counts, *arguments)
        per_sample = torch.where(counted > 0, alone, torch.nan).numpy().astype(np.float64)
        samples.append({"gt": truth, "dt": found, "scores": row[0].numpy(), "per_sample": per_sample})
    sums = {"ap_matrix": total.numpy(), "ap_count": counts.numpy(), "ap": (total / counts).numpy()}
    stacked = {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
    return {**stacked, "thresholds": np.array(THRESHOLDS), "sampled_recalls": recalls.numpy(), **sums}


def check_ap(recorded: Mapping[str, np.ndarray]) -> list[Comparison]:
    """golden_ap.npz: AP of every sample, class and threshold, their sums, and the printed table."""
    detected = zip(recorded["dt"], recorded["scores"], recorded["gt"])
    samples = np.stack([sample_ap(found, scores[1:], truth, RESOLUTION) for found, scores, truth in detected])
    each = Comparison("AP: every sample", absolute=AP_ABSOLUTE)
    each.add("per_sample", samples, recorded["per_sample"])
    each.add("thresholds", THRESHOLDS, recorded["thresholds"])
    each.add("recalls", RECALLS, recorded["sampled_recalls"])
    arrays = [recorded[key] for key in ("ap_matrix", "ap", "ap_count")]
    return [each, *_compare_ap("AP", accumulate(samples), *arrays, recorded.get("table"))]


def _compare_ap(label: str, result: ApResult, sums: Any, means: Any, counts: Any, table: Any) -> list[Comparison]:
    """Against recorded arrays [C, thresholds], and the table if there is one."""
    matrix = Comparison(f"{label}: sums and means")
    matrix.add("sums", result.sums, np.asarray(sums, np.float32))
    matrix.add("means", result.ap, np.asarray(means, np.float32))
    number = Comparison(f"{label}: samples counted")
    number.add("counts", np.repeat(result.counts[:, None], np.shape(counts)[1], axis=1), counts)
    if table is None:
        return [matrix, number]
    text = Comparison(f"{label}: printed table")
    text.require("the text differs", format_table(result.ap).strip() == str(table).strip())
    return [matrix, number, text]


def check_annotation(data: Path, files: Path) -> list[Comparison]:
    """The data set in the archive ``data`` (nuscenes/) annotated anew, against upstream's files in ``files`` (npz/, and
    in some bezier.npz: <token>/<key> of control points that were written with --bezier)."""
    label = "annotation of few, hard samples" if data.name.startswith("small") else "annotation"
    limits = f"{ANNOTATION_POINTS:g}, {ANNOTATION_PIXELS} pixels a file"
    comparison = Comparison(label, absolute=ANNOTATION_POINTS, tolerance=limits)
    with unpacked(data, files) as scratch:
        root = scratch / "nuscenes"
        annotate(root)
        same, differing = compare_annotations(comparison, root / FOLDER, scratch / "npz")
        comparison.note = f"{same + differing} files, {same} equal in every pixel"
        if not (scratch / "bezier.npz").is_file():
            return [comparison]
        curves = Comparison(f"{label}: bezier", absolute=ANNOTATION_POINTS)
        annotate(root, bezier=True, overwrite=True)
        compare_curves(curves, root / FOLDER, scratch / "bezier.npz")
    return [comparison, curves]


def compare_annotations(comparison: Comparison, ours: Path, theirs: Path) -> tuple[int, int]:
    """Compare two folders of annotated samples; how many are equal in every pixel, and how many not."""
    names, recorded_names = ({path.name for path in folder.glob("*.npz")} for folder in (ours, theirs))
    alone = names ^ recorded_names
    comparison.require(f"only in one folder: {', '.join(sorted(alone)[:3])}", bool(names) and not alone)
    counts = [0, 0]
    for name in sorted(names & recorded_names):
        recorded, differing = to_arrays(load_annotation(theirs / name)), 0
        for key, array in to_arrays(load_annotation(ours / name)).items():
            other, what = recorded[key], f"{name}: {key}"
            if array.shape != other.shape or array.dtype.kind != other.dtype.kind:
                comparison.require(f"{what} is {array.dtype}{array.shape}, recorded {other.dtype}{other.shape}", False)
            elif array.dtype.kind == "f":
                comparison.add(what, array, other)
            else:
                unequal = int((array != other).sum())
                masks = key.endswith(("_mask", "_mask8"))
                comparison.require(f"{what}: {unequal} unequal", unequal <= (ANNOTATION_PIXELS if masks else 0))
                differing += unequal
        counts[differing > 0] += 1
    comparison.require(f"{counts[1]} of {sum(counts)} files differ in pixels", 4 * counts[1] <= sum(counts))
    return counts[0], counts[1]


def compare_curves(comparison: Comparison, ours: Path, theirs: Path) -> None:
    """Compare the control points of a folder of annotated samples with recorded ones, <token>/<key> in one file."""
    with np.load(theirs, allow_pickle=False) as recorded:
        for token in sorted({key.split("/")[0] for key in recorded.files}):
            lines = load_annotation(ours / f"{token}.npz").ctr_points
            for key, value in lines_to_arrays("ctr_points", lines).items():
                comparison.add(f"{token}/{key}", value, recorded[f"{token}/{key}"])


def check_evaluation(files: Path, evaluation: Path) -> list[Comparison]:
    """Upstream's result files scored against upstream's annotation files, from two archives."""
    with unpacked(files, evaluation) as scratch:
        folder = scratch / "eval"
        recorded = json.loads((folder / "ap.json").read_text())
        tokens = [token.split(".")[0] for token in (folder / "val.txt").read_text().split()]
        annotated = scratch / "root" / FOLDER
        annotated.parent.mkdir(parents=True)
        (scratch / "npz").rename(annotated)
        result = score_results(folder / "pred", scratch / "root", tokens, RESOLUTION, workers=1)
        table = folder / "table.txt"
        text = table.read_text() if table.is_file() else None
    return _compare_ap("evaluation of files", result, recorded["ap_sum"], recorded["ap"], recorded["count"], text)


@contextlib.contextmanager
def unpacked(*archives: Path) -> Iterator[Path]:
    """A temporary folder with the content of the archives."""
    with tempfile.TemporaryDirectory() as scratch:
        for archive in archives:
            with tarfile.open(archive) as tar:
                # refuses members that lie outside the folder; the first Pythons 3.9 to 3.11 lack it
                tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
                tar.extractall(scratch)
        yield Path(scratch)


def record_annotation(seed: int, checkout: Path, converter_python: str, folder: Path) -> None:
    """nuscenes.tar.gz (a synthetic data set without images), npz.tar.gz (what upstream's converter writes for it, which
    ``converter_python`` runs) and eval.tar.gz (made-up detections for it, and upstream's evaluation of them)."""
    with tempfile.TemporaryDirectory() as scratch:
        root, evaluation = Path(scratch) / "nuscenes", Path(scratch) / "eval"
        generate(root, Options(8, 3, seed, images=False), 1)
        converter = checkout / "tools" / "anno_converter" / "nuscenes"
        environment = dict(os.environ, PYTHONPATH=f"{checkout}:{converter}", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
        command = [converter_python, "-B", str(converter / "convert.py"), "-d", str(root)]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True)
        if finished.returncode:
            raise PivotNetError(f"{' '.join(command)} failed: {finished.stderr.strip().rpartition(chr(10))[2]}")
        _record_evaluation(seed, checkout, sorted((root / FOLDER).glob("*.npz")), evaluation)
        archives = {"nuscenes": (root, "*.json"), "npz": (root / FOLDER, "*.npz"), "eval": (evaluation, "*.*")}
        for name, (source, pattern) in archives.items():
            with atomic_write(folder / f"{name}.tar.gz") as stream, tarfile.open(fileobj=stream, mode="w:gz") as tar:
                for path in sorted(source.rglob(pattern)):
                    tar.add(path, Path(name, path.relative_to(source)))


def _record_evaluation(seed: int, checkout: Path, annotated: list[Path], folder: Path) -> None:
    """Result files in upstream's layout (pickled), and upstream's own evaluation of them: ap.json and table.txt."""
    (folder / "pred").mkdir(parents=True)
    (folder / "val.txt").write_text("".join(f"{path.stem}\n" for path in annotated))
    for index, path in enumerate(annotated):
        if index % 2:
            found, scores = _shifted(load_annotation(path).instance_mask, inputs.generator(seed, "shift", index))
        else:  # unrelated to the truth
            _, found, scores = detections(seed, index)
        content = {
            "map": [None, *(np.zeros((2, 2), np.float32) for _ in scores)],
            "confidence_level": [-1, *scores.tolist()],
            "pred_label": [0, *(1 for _ in scores)],
        }
        np.savez_compressed(folder / "pred" / path.name, dt_mask=found, dt_res=np.array(content, dtype=object))
    script = str(checkout / "tools" / "evaluation" / "eval.py")
    arguments = [script, str(annotated[0].parent), str(folder / "pred"), str(folder / "val.txt")]
    output = io.StringIO()
    with mock.patch.object(sys, "argv", arguments), contextlib.redirect_stdout(output):
        evaluator = runpy.run_path(script, run_name="__main__")["evaluator"]
    sums, counts = evaluator.ap_matrix, evaluator.ap_count_matrix
    record = {"ap_sum": sums.tolist(), "count": counts.tolist(), "ap": (sums / counts).tolist()}
    (folder / "ap.json").write_text(json.dumps(record, indent=1))
    (folder / "table.txt").write_text(output.getvalue())


def _shifted(truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The true lines, each moved by a few pixels, with running ids over the classes; and their scores [n]."""
    found, count = np.zeros_like(truth), 0
    for label, mask in enumerate(truth):
        for identifier in np.unique(mask[mask > 0]):
            count += 1
            moved = np.argwhere(mask == identifier) + rng.integers(-6, 7, 2)
            found[label][tuple(np.clip(moved, 0, np.array(mask.shape) - 1).T)] = count
    return found, rng.uniform(0.5, 1, count)
