"""The synthetic data that annotation, evaluation and loading are measured on; made once and kept in a folder."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from recordings import inputs

from pivotnet.annotation.format import FOLDER, MAX_POINTS, Annotation, load_annotation, save_annotation, to_upstream
from pivotnet.annotation.runner import annotate
from pivotnet.config import CAMERAS
from pivotnet.evaluation.results import MapInstances, result_path, save_result
from pivotnet.files import atomic_write
from pivotnet.synthetic.generate import generate
from pivotnet.synthetic.plan import Options

PICKLED = Path("customer") / "pickled"  # annotated samples as upstream's code reads them
RESULTS, PICKLED_RESULTS = Path("results"), Path("results-pickled")
MISSED, FALSE_ALARMS = 0.15, 0.2  # shares of a sample's lines
LARGEST_SHIFT = 6  # pixels


def make_tree(folder: Path, scenes: int, samples: int, seed: int, images: bool, map_scale: float) -> Path:
    """A synthetic nuScenes tree of those options below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / f"{'images' if images else 'maps'}{map_scale:g}_{scenes}x{samples}_seed{seed}"
    generate(root, Options(scenes, samples, seed, images, map_scale), 1, lambda done, total: None)
    return root


def link_tree(root: Path) -> Path:
    """A tree with the same tables and maps and no annotated samples, for another converter to write into."""
    copy = root.with_name(f"{root.name}_other")
    copy.mkdir(exist_ok=True)
    for part in ("maps", "samples", "v1.0-trainval"):
        if (root / part).exists() and not (copy / part).exists():
            os.symlink(root / part, copy / part)
    return copy


def annotated_tokens(root: Path) -> list[str]:
    """All samples of a tree, which is annotated now if it was not."""
    annotate(root, workers=1)
    return sorted(path.stem for path in (root / FOLDER).glob("*.npz"))


def write_pickled(root: Path, tokens: list[str]) -> None:
    """The annotated samples once more, in the layout that upstream's data set unpickles."""
    (root / PICKLED).mkdir(parents=True, exist_ok=True)
    for token in tokens:
        path = root / PICKLED / f"{token}.npz"
        if not path.exists():
            content = to_upstream(load_annotation(root / FOLDER / f"{token}.npz"))
            plain = {key: value if isinstance(value, np.ndarray) else _boxed(value) for key, value in content.items()}
            _save(path, **plain)


def _boxed(value: object) -> np.ndarray:
    box = np.empty((), dtype=object)
    box[()] = value
    return box


def write_results(root: Path, count: int, seed: int) -> list[str]:
    """Annotated samples of 13 drawn lines and made-up result files for them, both in our layout and in upstream's: the
    true lines, moved by a few pixels, some missing, some of another place added. Returns their tokens."""
    for folder in (FOLDER, RESULTS, PICKLED_RESULTS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    tokens = [f"{index:032x}" for index in range(count)]
    for index, token in enumerate(tokens):
        truth = _drawn(seed + index)
        save_annotation(root / FOLDER / f"{token}.npz", _annotated(truth))
        mask, scores, labels = _found(truth, inputs.generator(seed, "results", index))
        lines = [np.zeros((2, 2), np.float32) for _ in scores]
        instances = MapInstances(lines, np.array(scores, np.float32), np.array(labels, np.int64))
        save_result(result_path(root / RESULTS, token), mask, instances)
        classes = [label + 1 for label in labels]
        content = {"map": [None, *lines], "confidence_level": [-1, *scores], "pred_label": [0, *classes]}
        _save(root / PICKLED_RESULTS / f"{token}.npz", dt_mask=mask, dt_res=_boxed(content))
    write_pickled(root, tokens)
    (root / PICKLED_RESULTS / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens))
    return tokens


def _save(path: Path, **arrays: np.ndarray) -> None:
    with atomic_write(path) as stream:
        np.savez_compressed(stream, **arrays)


def _annotated(truth: np.ndarray) -> Annotation:
    """An annotated sample of those instances; the evaluation looks at nothing else of it."""
    cameras = len(CAMERAS)
    return Annotation(
        image_paths=[f"samples/{camera}/0.jpg" for camera in CAMERAS],
        trans=np.zeros((cameras, 3)),
        rots=np.tile(np.eye(3), (cameras, 1, 1)),
        intrins=np.tile(np.eye(3), (cameras, 1, 1)),
        semantic_mask=(truth > 0).astype(np.uint8),
        instance_mask=truth,
        instance_mask8=truth,
        ego_vectors=[],
        map_vectors=[],
        ctr_points=[],
        pivot_points={kind: np.zeros((0, limit, 2)) for kind, limit in enumerate(MAX_POINTS)},
        pivot_lengths={kind: np.zeros(0, np.int64) for kind in range(len(MAX_POINTS))},
    )


def _drawn(seed: int) -> np.ndarray:
    """True lines of a sample, one pixel thick, ids running over the classes; uint8 [3, 400, 200]."""
    target = inputs.target(seed, "typical")
    mask = np.zeros((3, *inputs.MAP_SIZE), np.uint8)
    identifier = 0
    for kind, layer in enumerate(mask):
        for points, length in zip(target["points"][kind], target["valid_len"][kind]):
            identifier += 1
            pixels = (points[:length] * inputs.MAP_SIZE).astype(np.int32)[:, ::-1]
            cv2.polylines(layer, [np.ascontiguousarray(pixels)], False, identifier, thickness=1)
    return mask


def _found(truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[float], list[int]]:
    """Mask uint8 [3, 400, 200] with running ids, scores and classes of made-up detections."""
    mask = np.zeros_like(truth)
    scores: list[float] = []
    labels: list[int] = []
    for kind, layer in enumerate(truth):
        for identifier in np.unique(layer[layer > 0]):
            rows, columns = np.nonzero(layer == identifier)
            copies = int(rng.random() >= MISSED) + int(rng.random() < FALSE_ALARMS)
            for number in range(copies):
                largest = LARGEST_SHIFT if number == 0 else 10 * LARGEST_SHIFT
                down, right = rng.integers(-largest, largest + 1, 2)
                places = np.clip(rows + down, 0, 399), np.clip(columns + right, 0, 199)
                scores.append(float(np.float32(rng.uniform(0.5, 1))))
                labels.append(kind)
                mask[(kind, *places)] = len(scores)
    return mask, scores, labels
