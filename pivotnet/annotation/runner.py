"""Annotates all samples of a nuScenes version, on all cores, location by location."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from pivotnet.annotation.convert import Options, convert_sample
from pivotnet.annotation.expansion import LocationMap, expansion_path, fingerprint, read_map
from pivotnet.annotation.folder import annotation_folder, open_folder, sample_path, write_split
from pivotnet.annotation.format import save_annotation
from pivotnet.annotation.splits import splits_of
from pivotnet.annotation.tables import Sample, read_samples
from pivotnet.config import CLASSES, MapConfig
from pivotnet.console import long_run
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike

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
        lines = [
            f"folder     {self.folder}",
            f"samples    {self.written} written, {self.kept} kept from before",
            f"instances  {instances} (in the written samples)",
            f"splits     {splits}",
            f"time       {self.seconds:.1f} s, {rate:.1f} samples/s",
        ]
        if self.merging:
            lines.append(
                f"note       {self.merging} samples have more than 127 instances; the last ones share the id 255 in "
                "the masks unless --distinct-ids is given"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class _Job:
    """What every worker knows."""

    folder: Path
    maps: Mapping[str, LocationMap]
    options: Options
    config: MapConfig

    def annotate(self, samples: Sequence[Sample]) -> list[list[int]]:
        """Annotate and write some samples; instances by class of each."""
        counts = []
        for sample in samples:
            annotation = convert_sample(sample, self.maps[sample.location], self.options, self.config)
            save_annotation(sample_path(self.folder, sample.token), annotation)
            counts.append([len(lengths) for lengths in annotation.pivot_lengths.values()])
        return counts


_job: _Job  # of this worker process


def _start_worker(job: _Job) -> None:
    global _job
    _job = job
    # Ctrl-C goes to the whole process group: the parent alone decides, after the samples in progress are whole.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _work(samples: Sequence[Sample]) -> list[list[int]]:
    return _job.annotate(samples)


def _run(job: _Job, samples: Sequence[Sample], workers: int | None) -> Iterator[list[list[int]]]:
    """Results of all samples in chunks of one location, as they are finished."""
    by_location = sorted(samples, key=lambda sample: sample.location)
    chunks = [by_location[start : start + _CHUNK] for start in range(0, len(by_location), _CHUNK)]
    workers = min(workers or available_cores(), len(chunks))
    if workers <= 1:
        yield from map(job.annotate, chunks)
        return
    # Forked workers share the maps' memory; elsewhere, where forking is unsafe or unknown, each gets a pickled copy.
    method = "fork" if sys.platform == "linux" else "spawn"
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _start_worker, (job,))
    try:
        for future in as_completed([pool.submit(_work, chunk) for chunk in chunks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise PivotNetError(
            f"one of {workers} annotation workers was killed (out of memory?): run again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        PivotNetError: anything that the user can fix; see the message.
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
    start = time.perf_counter()
    for counts in _run(_Job(folder, maps, options, config), todo, workers):
        summary.written += len(counts)
        summary.merging += sum(sum(count) >= _MERGING_INSTANCES for count in counts)
        summary.instances = [sum(column) for column in zip(summary.instances, *counts)]
        if progress:
            progress(summary.written, len(todo))
    summary.seconds = time.perf_counter() - start
    for split in splits_of(version):
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
