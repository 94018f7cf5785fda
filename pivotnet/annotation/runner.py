"""Annotates all samples of a nuScenes version, on all cores."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pivotnet.annotation.convert import convert_sample
from pivotnet.annotation.expansion import LocationMap, expansion_path, fingerprint, read_map
from pivotnet.annotation.folder import annotation_folder, open_folder, sample_path, write_split
from pivotnet.annotation.format import save_annotation
from pivotnet.annotation.npz import is_whole
from pivotnet.annotation.tables import Sample, read_samples
from pivotnet.config import CLASSES, MapConfig
from pivotnet.console import long_run
from pivotnet.files import PathLike
from pivotnet.pool import available_cores, run_in_pool

_CHUNK = 8  # samples handed to a worker at once: short enough to stop soon
_MERGING_INSTANCES = 128  # from here on ids no longer fit into a byte


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    folder: Path
    kept: int  # samples that an earlier run has finished
    instances: np.ndarray  # int [n, C] of each written sample, by class
    seconds: float  # from the first sample to the last, without reading tables and maps
    splits: dict[str, int]  # samples by split

    def __str__(self) -> str:
        written = len(self.instances)
        instances = ", ".join(f"{name} {count}" for name, count in zip(CLASSES, self.instances.sum(0)))
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        merging = (self.instances.sum(1) >= _MERGING_INSTANCES).sum()
        note = (
            f"\nnote       {merging} samples have more than 127 instances; the last ones share the id 255 in "
            "the masks, as upstream's do"
        )
        return (
            f"folder     {self.folder}\n"
            f"samples    {written} written, {self.kept} kept from before\n"
            f"instances  {instances} (in the written samples)\n"
            f"splits     {splits}\n"
            f"time       {self.seconds:.1f} s, {written / self.seconds if written else 0.0:.1f} samples/s"
            f"{note if merging else ''}"
        )


def _annotate_some(
    folder: Path, maps: Mapping[str, LocationMap], config: MapConfig, bezier: bool, samples: Sequence[Sample]
) -> list[list[int]]:
    """Annotate and write some samples; instances by class of each."""
    counts = []
    for sample in samples:
        annotation = convert_sample(sample, maps[sample.location], config, bezier)
        save_annotation(sample_path(folder, sample.token), annotation)
        counts.append([len(lengths) for lengths in annotation.pivot_lengths.values()])
    return counts


def annotate(
    root: PathLike,
    version: str = "v1.0-trainval",
    bezier: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Annotate the samples of a nuScenes version under ROOT/customer/pivot-bezier and write its split lists.

    Samples that an earlier run has finished are kept. Whenever it stops, every file is whole.

    Args:
        root: nuScenes root, with the tables in ``version``/ and the maps in maps/expansion/.
        version: v1.0-trainval, v1.0-mini or v1.0-test.
        bezier: fit curves too (BeMapNet's targets).
        workers: processes; one a core if None.
        overwrite: annotate everything again instead of keeping finished samples.
        progress: called with (samples done, samples to do) after every few samples.

    Raises:
        PivotNetError: anything that the user can repair; see the message.
    """
    config = MapConfig()
    samples = read_samples(root, version)
    locations = sorted({sample.location for sample in samples})
    fingerprints = {location: fingerprint(expansion_path(root, location)) for location in locations}
    folder = annotation_folder(root)
    todo = [sample for sample in samples if overwrite or not is_whole(sample_path(folder, sample.token))]
    maps = {location: read_map(root, location) for location in sorted({sample.location for sample in todo})}
    # Only now is anything written: all input is there and readable.
    open_folder(root, bezier, config, fingerprints, overwrite)
    chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
    job = functools.partial(_annotate_some, folder, maps, config, bezier)
    # Forked workers share the maps' memory; elsewhere, where forking is unsafe or unknown, each gets a pickled copy.
    method = "fork" if sys.platform == "linux" else "spawn"
    counts: list[list[int]] = []
    start = time.perf_counter()
    for some in run_in_pool(job, chunks, workers or available_cores(), method):
        counts += some
        if progress:
            progress(len(counts), len(todo))
    seconds = time.perf_counter() - start
    splits = ("test",) if version.endswith("test") else ("train", "val")
    tokens = {split: [sample.token for sample in samples if sample.split == split] for split in splits}
    for split in splits:
        write_split(root, split, tokens[split])
    instances = np.array(counts, np.int64).reshape(-1, len(CLASSES))
    sizes = {split: len(tokens[split]) for split in splits}
    return Summary(folder, len(samples) - len(todo), instances, seconds, sizes)


def annotate_on_terminal(
    root: PathLike, version: str, bezier: bool, workers: int | None = None, overwrite: bool = False
) -> None:
    """``annotate`` with a progress bar, and its summary printed."""
    with long_run("annotate") as progress:
        summary = annotate(root, version, bezier, workers, overwrite, progress)
    print(summary)
