"""Annotates all samples of a nuScenes version, on all cores."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping

import numpy as np
import shapely

from pivotnet.annotation.expansion import LocationMap, expansion_path, fingerprint, read_map
from pivotnet.annotation.folder import open_folder, sample_path, split_path
from pivotnet.annotation.format import Annotation, pad_pivots, save_annotation
from pivotnet.annotation.npz import is_whole
from pivotnet.annotation.tables import Sample, read_samples
from pivotnet.annotation.vectors import control_lines, ego_vectors, pivot_lines, rasterize
from pivotnet.config import CLASSES, MapConfig
from pivotnet.console import interrupted_by_sigterm, progress
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike, atomic_write, make_folder
from pivotnet.pool import available_cores, run_in_pool

_CHUNK = 8  # samples handed to a worker at once: short enough to stop soon
_MERGING_INSTANCES = 128  # from here on ids no longer fit into a byte


def _annotate_one(
    root: PathLike, maps: Mapping[str, LocationMap], config: MapConfig, bezier: bool, sample: Sample
) -> list[int]:
    """Annotate and write a sample; its instances by class. Raises PivotNetError: the map's geometry around the sample
    cannot be clipped or joined, or the file cannot be written."""
    try:
        lines = ego_vectors(maps[sample.location], *sample.translation, sample.yaw, config)
        (thin, thick), map_vectors = rasterize(lines, config)
    except shapely.errors.GEOSException as error:
        raise PivotNetError(
            f"the map {sample.location} around sample {sample.token} has broken geometry ({error}): fix the map"
        ) from error
    points, lengths = pad_pivots(pivot_lines(map_vectors, config))
    annotation = Annotation(
        image_paths=sample.image_paths,
        trans=sample.trans,
        rots=sample.rots,
        intrins=sample.intrins,
        semantic_mask=(thin != 0).view(np.uint8),
        instance_mask=thin,
        instance_mask8=thick,
        ego_vectors=lines,
        map_vectors=map_vectors,
        ctr_points=control_lines(map_vectors, config) if bezier else [],
        pivot_points=points,
        pivot_lengths=lengths,
    )
    save_annotation(sample_path(root, sample.token), annotation)
    return [len(own) for own in lengths.values()]


@interrupted_by_sigterm()
def annotate(
    root: PathLike,
    version: str = "v1.0-trainval",
    bezier: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
) -> str:
    """Annotate the samples of a nuScenes version under ROOT/customer/pivot-bezier and write its split lists; returns
    what was done, in a few lines. Raises PivotNetError: anything that the user can repair. Whenever it stops, every
    file is whole; the next run keeps those, unless ``overwrite``. Options: see ``pivotnet annotate``."""
    config = MapConfig()
    samples = read_samples(root, version)
    locations = sorted({sample.location for sample in samples})
    fingerprints = {location: fingerprint(expansion_path(root, location)) for location in locations}
    todo = [sample for sample in samples if overwrite or not is_whole(sample_path(root, sample.token))]
    maps = {location: read_map(root, location) for location in sorted({sample.location for sample in todo})}
    # Only now is anything written: all input is there and readable.
    folder = open_folder(root, bezier, config, fingerprints, overwrite)
    job = functools.partial(_annotate_one, root, maps, config, bezier)
    # Forked workers share the maps' memory; elsewhere, where forking is unsafe or unknown, each gets a pickled copy.
    method = "fork" if sys.platform == "linux" else "spawn"
    start = time.perf_counter()
    made = run_in_pool(job, todo, workers or available_cores(), method, _CHUNK)
    counts = list(progress(made, "annotate", len(todo)))
    seconds = time.perf_counter() - start
    sizes = []
    for split in ("test",) if version.endswith("test") else ("train", "val"):
        tokens = [sample.token for sample in samples if sample.split == split]
        make_folder(split_path(root, split).parent)
        with atomic_write(split_path(root, split), "w") as stream:
            stream.writelines(f"{token}\n" for token in tokens)
        sizes.append(f"{split} {len(tokens)}")
    instances = np.array(counts, np.int64).reshape(-1, len(CLASSES))
    by_class = ", ".join(f"{name} {count}" for name, count in zip(CLASSES, instances.sum(0)))
    merging = (instances.sum(1) >= _MERGING_INSTANCES).sum()
    note = f"\nnote       {merging} samples have more than 127 instances; the last share id 255, as upstream's do"
    return (
        f"folder     {folder}\n"
        f"samples    {len(todo)} written, {len(samples) - len(todo)} kept from before\n"
        f"instances  {by_class} (in the written samples)\n"
        f"splits     {', '.join(sizes)}\n"
        f"time       {seconds:.1f} s, {len(todo) / seconds if todo else 0.0:.1f} samples/s{note if merging else ''}"
    )
