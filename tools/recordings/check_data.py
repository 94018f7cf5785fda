"""Compare our image transform, average precision and annotation with the recordings."""

from __future__ import annotations

import json
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch

from pivotnet.annotation.compare import compare_annotations
from pivotnet.annotation.runner import annotate
from pivotnet.config import preset
from pivotnet.data.images import resize
from pivotnet.errors import PivotNetError
from pivotnet.evaluation.ap import ApResult, accumulate, sample_ap
from pivotnet.evaluation.ap_table import format_table
from pivotnet.evaluation.score import score_results
from pivotnet.model.pivotnet import PivotNet
from recordings.record_data import RESOLUTION, transform_images
from recordings.verdict import Comparison, Row

# (x/255 - mean) * (1/std): one float32 rounding more or less of a value up to 2.6.
PIXEL_ABSOLUTE = 1e-6
# The mean of float32 pixels over an image, summed in another order.
PIXEL_MEAN_ABSOLUTE = 2e-6
# AP is a float32 mean of float32 precisions, and the sum over samples is float32.
AP_ABSOLUTE = 2e-6
# One unit in the last place of yaw moves an int32 truncation (docs: the same inputs under other numpy, shapely, BLAS).
ANNOTATION_POINTS, ANNOTATION_PIXELS = 1e-9, 16


def check_transform(path: Path) -> list[Row]:
    """golden_transform.npz: resized, normalised pixels."""
    recorded = np.load(path, allow_pickle=False)
    pixels = Comparison("transform: pixels", absolute=PIXEL_ABSOLUTE)
    means = Comparison("transform: mean and deviation of images", absolute=PIXEL_MEAN_ABSOLUTE)
    images = transform_images(int(recorded["seed"]))
    inputs = Comparison("transform: input image regenerated")
    inputs.add("second image", images[1][::4, ::4], recorded["second_image"])
    config = preset("swint")
    network = PivotNet(config.model, config.map)
    resized = np.stack([resize(image, config.model.image_size) for image in images])
    output = network.normalise(torch.from_numpy(resized)[None])[0].numpy()
    pixels.add("output", output[..., ::16, ::16], recorded["output"])
    means.add("mean", output.astype(np.float64).mean((2, 3)), recorded["output_mean"])
    means.add("deviation", output.astype(np.float64).std((2, 3)), recorded["output_std"])
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 1, 1, 1, 3)
    pixels.add("red pixel", network.normalise(red).flatten().numpy(), recorded["red_pixel"])
    return [inputs.row(), pixels.row(), means.row()]


def check_ap(path: Path) -> list[Row]:
    """golden_ap.npz: AP of every sample, class and threshold, their sums, and the printed table."""
    recorded = np.load(path, allow_pickle=False)
    samples = np.stack(
        [
            sample_ap(found, scores[1:], truth, RESOLUTION)
            for found, truth, scores in zip(recorded["dt"], recorded["gt"], recorded["scores"])
        ]
    )
    result = accumulate(samples)
    each = Comparison("AP: every sample", absolute=AP_ABSOLUTE)
    each.add("per_sample", samples, recorded["per_sample"])
    rows = [each.row(), *_ap_rows("AP", result, recorded["ap_matrix"], recorded["ap_count"], recorded["ap"])]
    if "table" in recorded:
        rows.append(_table_row("AP: printed table", result, str(recorded["table"])))
    return rows


def _ap_rows(label: str, result: ApResult, sums: np.ndarray, counts: np.ndarray, ap: np.ndarray) -> list[Row]:
    matrix = Comparison(f"{label}: sums and means", absolute=AP_ABSOLUTE * max(1.0, float(np.max(counts))))
    matrix.add("sums", result.sums, sums)
    matrix.add("means", result.ap, ap)
    number = Comparison(f"{label}: samples counted")
    number.add("counts", np.repeat(result.counts[:, None], counts.shape[1], axis=1), counts)
    return [matrix.row(), number.row()]


def _table_row(label: str, result: ApResult, text: str) -> Row:
    comparison = Comparison(label)
    comparison.compared = 1
    if format_table(result.ap).strip() != text.strip():
        comparison.fail("the text differs")
    return comparison.row()


def check_annotation(folder: Path) -> list[Row]:
    """nuscenes.tar.gz annotated anew against npz.tar.gz, upstream's files."""
    row = Row("annotation", 0.0, 0.0, f"{ANNOTATION_POINTS:g}, {ANNOTATION_PIXELS} pixels a file", True)
    with tempfile.TemporaryDirectory() as scratch:
        _unpack(folder / "nuscenes.tar.gz", scratch)
        _unpack(folder / "npz.tar.gz", scratch)
        root = Path(scratch) / "nuscenes"
        summary = annotate(root)
        report = compare_annotations(summary.folder, Path(scratch) / "npz")
    failures = report.failures(ANNOTATION_POINTS, ANNOTATION_PIXELS)
    differing = sum(bool(d.pixels) for d in report.differences)
    if 2 * differing >= report.samples:
        failures.append(f"{differing} of {report.samples} files differ in pixels: most must not")
    row.absolute = max((d.largest for d in report.differences), default=0.0)
    row.good = not failures
    row.note = failures[0] if failures else f"{report.samples} files, {report.samples - differing} equal in every pixel"
    return [row]


def check_evaluation(folder: Path) -> list[Row]:
    """eval.tar.gz: upstream's result files scored against upstream's annotation files."""
    with tempfile.TemporaryDirectory() as scratch:
        _unpack(folder / "npz.tar.gz", scratch)
        _unpack(folder / "eval.tar.gz", scratch)
        recorded = json.loads((Path(scratch) / "eval" / "ap.json").read_text())
        tokens = (Path(scratch) / "eval" / "val.txt").read_text().split()
        root = Path(scratch) / "root"
        (root / "customer").mkdir(parents=True)
        (Path(scratch) / "npz").rename(root / "customer" / "pivot-bezier")
        tokens = [token.split(".")[0] for token in tokens]
        result = score_results(Path(scratch) / "eval" / "pred", root, tokens, RESOLUTION, workers=1, quiet=True)
        table = Path(scratch) / "eval" / "table.txt"
        rows = _ap_rows("evaluation of files", result, *(np.array(recorded[k]) for k in ("ap_sum", "count", "ap")))
        if table.is_file():
            rows.append(_table_row("evaluation of files: printed table", result, table.read_text()))
    return rows


def _unpack(archive: Path, where: str) -> None:
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            inside = (Path(where) / member.name).resolve().is_relative_to(Path(where).resolve())
            if not inside or not (member.isfile() or member.isdir()):
                raise PivotNetError(f"refusing to unpack {archive}: {member.name!r} is no plain file inside it")
        tar.extractall(where)
