"""The synthetic data that annotation, evaluation and loading are measured on; made once and kept in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from recordings.golden_data import detections

from benchmarks import SEED
from pivotnet.annotation.format import FOLDER, Annotation, load_annotation, pad_pivots, save_annotation, to_upstream
from pivotnet.annotation.runner import annotate
from pivotnet.config import CAMERAS
from pivotnet.evaluation.results import MapInstances, result_path, save_result
from pivotnet.files import atomic_write, make_folder
from pivotnet.synthetic.generate import generate
from pivotnet.synthetic.plan import Options

PICKLED = Path("customer") / "pickled"  # annotated samples as upstream's code reads them
RESULTS, PICKLED_RESULTS = Path("results"), Path("results-pickled")


def make_tree(folder: Path, name: str, options: Options) -> Path:
    """A synthetic nuScenes tree below ``folder``."""
    root = make_folder(folder, "--data") / f"{name}_{options.scenes}x{options.samples_per_scene}"
    generate(root, options, 1, lambda done, total: None)
    return root


def link_tree(root: Path) -> Path:
    """A tree with the same tables and maps and no annotated samples, for another converter to write into."""
    copy = make_folder(root.with_name(f"{root.name}_other"))
    for part in ("maps", "samples", "v1.0-trainval"):
        if (root / part).exists() and not (copy / part).exists():
            (copy / part).symlink_to(root / part)
    return copy


def annotated_tokens(root: Path) -> list[str]:
    """All samples of a tree, which are annotated now if they were not, in the layout that upstream unpickles too."""
    annotate(root, workers=1)
    tokens = sorted(path.stem for path in (root / FOLDER).glob("*.npz"))
    _write_pickled(root, tokens)
    return tokens


def write_results(root: Path, count: int) -> list[str]:
    """Annotated samples of 13 drawn lines and made-up result files for them, both in our layout and in upstream's: the
    true lines, moved by a few pixels, some missing, some false ones added. Returns their tokens."""
    for folder in (FOLDER, RESULTS, PICKLED_RESULTS):
        make_folder(root / folder, "--data")
    tokens = [f"{index:032x}" for index in range(count)]
    for index, token in enumerate(tokens):
        truth, mask, scores = detections(SEED, 4 * index)  # every fourth has the lines of "typical"
        save_annotation(root / FOLDER / f"{token}.npz", _annotated(truth))
        labels = [int((mask == number + 1).any((1, 2)).argmax()) for number in range(len(scores))]
        lines = [np.zeros((2, 2), np.float32) for _ in labels]
        instances = MapInstances(lines, scores.astype(np.float32), np.array(labels, np.int64))
        save_result(result_path(root / RESULTS, token), mask, instances)
        classes = [0, *(label + 1 for label in labels)]
        content = {"map": [None, *lines], "confidence_level": [-1, *scores.tolist()], "pred_label": classes}
        _save_pickled(root / PICKLED_RESULTS / f"{token}.npz", dt_mask=mask, dt_res=content)
    _write_pickled(root, tokens)
    (root / PICKLED_RESULTS / "tokens.txt").write_text("".join(f"{token}\n" for token in tokens))
    return tokens


def _write_pickled(root: Path, tokens: list[str]) -> None:
    make_folder(root / PICKLED)
    for token in tokens:
        if not (root / PICKLED / f"{token}.npz").exists():
            annotation = load_annotation(root / FOLDER / f"{token}.npz")
            _save_pickled(root / PICKLED / f"{token}.npz", **to_upstream(annotation))


def _save_pickled(path: Path, **content: Any) -> None:
    arrays = {
        key: value if isinstance(value, np.ndarray) else np.array(value, object) for key, value in content.items()
    }
    with atomic_write(path) as stream:
        np.savez_compressed(stream, **arrays)


def _annotated(truth: np.ndarray) -> Annotation:
    """An annotated sample of those instances; the evaluation looks at nothing else of it."""
    pivot_points, pivot_lengths = pad_pivots([])
    return Annotation(
        image_paths=[f"samples/{camera}/0.jpg" for camera in CAMERAS],
        trans=np.zeros((len(CAMERAS), 3)),
        rots=np.tile(np.eye(3), (len(CAMERAS), 1, 1)),
        intrins=np.tile(np.eye(3), (len(CAMERAS), 1, 1)),
        semantic_mask=(truth > 0).astype(np.uint8),
        instance_mask=truth,
        instance_mask8=truth,
        ego_vectors=[],
        map_vectors=[],
        ctr_points=[],
        pivot_points=pivot_points,
        pivot_lengths=pivot_lengths,
    )
