"""Annotates all samples of a nuScenes version, on all cores."""

from __future__ import annotations

import functools
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pivotnet.annotation.convert import Options, convert_sample
from pivotnet.annotation.expansion import LocationMap, expansion_path, fingerprint, read_map
from pivotnet.annotation.folder import annotation_folder, open_folder, sample_path, write_split
from pivotnet.annotation.format import save_annotation
from pivotnet.annotation.tables import Sample, read_samples
from pivotnet.config import CLASSES, MapConfig
from pivotnet.console import long_run
from pivotnet.files import PathLike
from pivotnet.pool import available_cores, run_in_pool

_CHUNK = 8  # samples handed to a worker at once: short enough to stop soon
_MERGING_INSTANCES = 128  # from here on ids no longer fit into a byte


@dataclass
class Summary:
    """What a run did."""

    folder: Path
    written: int = 0
    kept: int = 0  # finished by an earlier run
    instances: list[int] = field(default_factory=lambda: [0] * len(CLASSES))  # by class, of the written samples
    merging: int = 0  # written samples with more instances than ids
    seconds: float = 0.0  # from the first sample to the last, without reading tables and maps
    splits: dict[str, int] = field(default_factory=dict)  # samples by split

    def __str__(self) -> str:
        instances = ", ".join(f"{name} {count}" for name, count in zip(CLASSES, self.instances))
        rate = self.written / self.seconds if self.written else 0.0
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        note = (
            f"\nnote       {self.merging} samples have more than 127 instances; the last ones share the id 255 in "
            "the masks unless --distinct-ids is given"
        )
        return (
            f"folder     {self.folder}\n"
            f"samples    {self.written} written, {self.kept} kept from before\n"
            f"instances  {instances} (in the written samples)\n"
            f"splits     {splits}\n"
            f"time       {self.seconds:.1f} s, {rate:.1f} samples/s{note if self.merging else ''}"
        )


def _annotate_some(
    folder: Path, maps: Mapping[str, LocationMap], options: Options, config: MapConfig, samples: Sequence[Sample]
) -> list[list[int]]:
    """Annotate and write some samples; instances by class of each."""
    counts = []
    for sample in samples:
        annotation = convert_sample(sample, maps[sample.location], options, config)
        save_annotation(sample_path(folder, sample.token), annotation)
        counts.append([len(lengths) for lengths in annotation.pivot_lengths.values()])
    return counts


def annotate(
    root: PathLike,
    version: str = "v1.0-trainval",
    options: Options | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Annotate the samples of a nuScenes version under ROOT/customer/pivot-bezier and write its split lists.

    Samples that an earlier run has finished are kept. Whenever it stops, every file is whole.

    Args:
        root: nuScenes root, with the tables in ``version``/ and the maps in maps/expansion/.
        version: v1.0-trainval, v1.0-mini or v1.0-test.
        options: what to annotate; the defaults are upstream's.
        workers: processes; one a core if None.
        overwrite: annotate everything again instead of keeping finished samples.
        progress: called with (samples done, samples to do) after every few samples.

    Raises:
        PivotNetError: anything that the user can repair; see the message.
    """
    options, config = options or Options(), MapConfig()
    samples = read_samples(root, version)
    locations = sorted({sample.location for sample in samples})
    fingerprints = {location: fingerprint(expansion_path(root, location)) for location in locations}
    folder = annotation_folder(root)
    # A file that something has cut short is no longer a zip file.
    todo = [sample for sample in samples if overwrite or not zipfile.is_zipfile(sample_path(folder, sample.token))]
    maps = {location: read_map(root, location) for location in sorted({sample.location for sample in todo})}
    # Only now is anything written: all input is there and readable.
    open_folder(root, options, config, fingerprints, overwrite)
    summary = Summary(folder, kept=len(samples) - len(todo))
    chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
    job = functools.partial(_annotate_some, folder, maps, options, config)
    # Forked workers share the maps' memory; elsewhere, where forking is unsafe or unknown, each gets a pickled copy.
    method = "fork" if sys.platform == "linux" else "spawn"
    start = time.perf_counter()
    for counts in run_in_pool(job, chunks, workers or available_cores(), method):
        summary.written += len(counts)
        summary.merging += sum(sum(count) >= _MERGING_INSTANCES for count in counts)
        summary.instances = [sum(column) for column in zip(summary.instances, *counts)]
        if progress:
            progress(summary.written, len(todo))
    summary.seconds = time.perf_counter() - start
    for split in ("test",) if version.endswith("test") else ("train", "val"):
        tokens = [sample.token for sample in samples if sample.split == split]
        write_split(root, split, tokens)
        summary.splits[split] = len(tokens)
    return summary


def annotate_on_terminal(
    root: PathLike, version: str, options: Options, workers: int | None = None, overwrite: bool = False
) -> None:
    """``annotate`` with a progress bar, and its summary printed."""
    with long_run("annotate") as progress:
        summary = annotate(root, version, options, workers, overwrite, progress)
    print(summary)
