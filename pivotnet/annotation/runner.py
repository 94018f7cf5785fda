"""Annotates all samples of a nuScenes version, on all cores, location by location."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from pivotnet.annotation.convert import Options, convert_sample
from pivotnet.annotation.expansion import LocationMap, expansion_path, fingerprint, read_map
from pivotnet.annotation.folder import annotation_folder, open_folder, sample_path, write_split
from pivotnet.annotation.format import save_annotation
from pivotnet.annotation.splits import split_of_scene, splits_of
from pivotnet.annotation.tables import Sample, read_samples
from pivotnet.config import CLASSES, MapConfig
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike

_CHUNK = 8  # samples handed to a worker at once: short enough to stop soon
_MERGING_INSTANCES = 128  # from here on ids no longer fit into a byte
Progress = Callable[[int, int], None]  # called with (samples done, samples to do)


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


@dataclass(frozen=True)
class _Job:
    """What every worker knows."""

    folder: Path
    maps: Mapping[str, LocationMap]
    options: Options
    config: MapConfig


_job: _Job | None = None  # of this worker process


def _start_worker(job: _Job) -> None:
    global _job
    _job = job
    # Ctrl-C goes to the whole process group: the parent alone decides, after the samples in progress are whole.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _work(samples: Sequence[Sample]) -> list[list[int]]:
    assert _job is not None
    return _annotate_chunk(_job, samples)


def _annotate_chunk(job: _Job, samples: Sequence[Sample]) -> list[list[int]]:
    """Annotate and write some samples; instances by class of each."""
    counts = []
    for sample in samples:
        annotation = convert_sample(sample, job.maps[sample.location], job.options, job.config)
        save_annotation(sample_path(job.folder, sample.token), annotation)
        counts.append([len(annotation.pivot_lengths[kind]) for kind in range(len(CLASSES))])
    return counts


def _chunks(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    """Pieces of at most _CHUNK samples; those of one location lie together."""
    by_location = sorted(samples, key=lambda sample: sample.location)
    return [by_location[start : start + _CHUNK] for start in range(0, len(by_location), _CHUNK)]


def _run_chunks(job: _Job, chunks: Sequence[Sequence[Sample]], workers: int) -> Iterator[list[list[int]]]:
    """Results of all chunks, as they are finished."""
    if workers == 1:
        for chunk in chunks:
            yield _annotate_chunk(job, chunk)
        return
    # Forked workers share the maps' memory; elsewhere, where forking is unsafe or unknown, each gets a pickled copy.
    method = "fork" if sys.platform == "linux" else "spawn"
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _start_worker, (job,))
    try:
        waiting: set[Future] = {pool.submit(_work, chunk) for chunk in chunks}
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
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


def _is_finished(root: PathLike, sample: Sample) -> bool:
    """Whether a sample has a file; one that something has cut short is no longer a zip file, and does not count."""
    return zipfile.is_zipfile(sample_path(annotation_folder(root), sample.token))


def annotate(
    root: PathLike,
    version: str = "v1.0-trainval",
    options: Options | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Annotate the samples of a nuScenes version under ROOT/customer/pivot-bezier and write its split lists.

    Samples that an earlier run has finished are kept. Whenever it stops, every file is whole.

    Args:
        root: nuScenes root, with the tables in ``version``/ and the maps in maps/expansion/.
        version: v1.0-trainval, v1.0-mini or v1.0-test.
        options: what to annotate; the defaults are upstream's.
        workers: processes; one a core if None.
        overwrite: annotate everything again instead of keeping finished samples.
        progress: called after every few samples.

    Raises:
        PivotNetError: anything that the user can mend; see the message.
    """
    options, config = options or Options(), MapConfig()
    samples = read_samples(root, version)
    tokens: dict[str, list[str]] = {split: [] for split in splits_of(version)}
    for sample in samples:
        tokens[split_of_scene(sample.scene, version)].append(sample.token)
    locations = sorted({sample.location for sample in samples})
    fingerprints = {location: fingerprint(expansion_path(root, location)) for location in locations}
    todo = samples if overwrite else [sample for sample in samples if not _is_finished(root, sample)]
    maps = {location: read_map(root, location) for location in sorted({sample.location for sample in todo})}
    # Only now is anything written: all input is there and readable.
    folder = open_folder(root, options, config, fingerprints, overwrite)
    job = _Job(folder, maps, options, config)
    chunks = _chunks(todo)
    summary = Summary(folder, kept=len(samples) - len(todo))
    start = time.perf_counter()
    for counts in _run_chunks(job, chunks, max(1, min(workers or available_cores(), len(chunks)))):
        summary.written += len(counts)
        summary.merging += sum(sum(count) >= _MERGING_INSTANCES for count in counts)
        summary.instances = [sum(column) for column in zip(summary.instances, *counts)]
        if progress:
            progress(summary.written, len(todo))
    summary.seconds = time.perf_counter() - start
    for split, members in tokens.items():
        write_split(root, split, members)
        summary.splits[split] = len(members)
    return summary
