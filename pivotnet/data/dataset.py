"""Annotated samples and their camera images -> batches. ROOT is a nuScenes tree that ``pivotnet annotate`` has
processed: images under ROOT/samples, annotated samples and the split lists under ROOT/customer/pivot-bezier."""

from __future__ import annotations

import functools
import math
import mmap
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Union

import cv2
import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from pivotnet import device as devices
from pivotnet.annotation.folder import sample_path
from pivotnet.annotation.format import Annotation, load_annotation
from pivotnet.config import CAMERAS, Config
from pivotnet.data.images import read_bgr, resize
from pivotnet.data.projection import project_bev_grid
from pivotnet.data.targets import Sample, build_targets
from pivotnet.errors import PivotNetError
from pivotnet.files import PathLike
from pivotnet.structures import Batch

CACHE_BYTES = 512 * 2**20  # decoded images are kept in memory if the whole split's fit into this
STEP = 0.03  # seconds in which all workers together should load a batch; an H200 takes 0.1 for a step
MOST_WORKERS = 8  # a rank by default: each holds two batches in shared memory


def steps_per_epoch(size: int, batch_size: int, world_size: int) -> int:
    """Steps in which all ranks together see ``size`` samples at least once: ceil(size / (batch x ranks))."""
    return -(-size // (batch_size * world_size))


@dataclass(frozen=True)
class TrainingSampler:
    """Batches of indices for the steps ``start_step`` <= step < ``stop_step`` of one rank, from upstream's stream:
    shuffle(range(size)) + shuffle(range(size)) + ..., one generator for all ranks. A step is a function of its number
    alone, so a run resumes anywhere. With b = ``batch_size`` and R = ``world_size``, step k of all ranks together is
    stream[k*b*R : (k+1)*b*R], and rank r has its items r, r + R, r + 2R, ...: the same samples for R ranks x b as for 1
    rank x (b R)."""

    size: int
    batch_size: int
    stop_step: int
    start_step: int = 0
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return max(0, self.stop_step - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        total = self.batch_size * self.world_size
        stream = self._stream(self.start_step * total)
        for _ in range(len(self)):
            yield list(islice(stream, total))[self.rank :: self.world_size]

    def _stream(self, position: int) -> Iterator[int]:
        """The endless shuffled stream from its item ``position`` on."""
        generator = torch.Generator().manual_seed(self.seed)
        passes, offset = divmod(position, self.size)
        for _ in range(passes):  # the generator's state after k passes is only reached through them
            torch.randperm(self.size, generator=generator)
        while True:
            yield from torch.randperm(self.size, generator=generator).tolist()[offset:]
            offset = 0


@dataclass
class Item:
    """One sample on its way into a batch."""

    token: str
    images: np.ndarray  # uint8 [6, H, W, 3] BGR, network input size
    reference_points: torch.Tensor  # float32 [N, 2]
    reference_valid: torch.Tensor  # bool [N]
    targets: Sample | None


def camera_matrices(annotation: Annotation) -> tuple[np.ndarray, np.ndarray]:
    """Camera-to-ego transforms float64 [6, 4, 4] (metres) and intrinsics float64 [6, 3, 3] (pixels)."""
    extrinsic = np.tile(np.eye(4), (len(CAMERAS), 1, 1))
    extrinsic[:, :3, :3] = annotation.rots
    extrinsic[:, :3, 3] = annotation.trans
    return extrinsic, np.asarray(annotation.intrins, np.float64)


def camera_paths(annotation: Annotation) -> list[str]:
    """The six image paths in CAMERAS' order, relative to the root."""
    by_camera = {Path(path).parent.name: path for path in annotation.image_paths}
    return [by_camera[camera] for camera in CAMERAS]


class MapDataset(Dataset[Union[Item, PivotNetError]]):
    """Samples by index. ``dataset[i]`` *returns* the PivotNetError of a bad sample instead of raising it: an exception
    that is raised in a worker arrives wrapped in the text of two tracebacks. ``Loader`` raises it. With ``cache``
    images are decoded once; processes that are forked share them."""

    def __init__(
        self, config: Config, data_root: PathLike, tokens: list[str], *, with_targets: bool, cache: bool = False
    ) -> None:
        self.config = config
        self.root = Path(data_root)
        self.tokens = tokens
        self.with_targets = with_targets
        self.shape = (len(CAMERAS), *config.model.image_size, 3)
        self.cached: np.ndarray | None = None  # uint8 [samples, 6, H, W, 3], and whether they are there
        if cache:
            memory, known = (mmap.mmap(-1, len(tokens) * size) for size in (math.prod(self.shape), 1))
            self.cached = np.frombuffer(memory, np.uint8).reshape(-1, *self.shape)
            self.known = np.frombuffer(known, np.bool_)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Item | PivotNetError:
        try:
            return self.load(index)
        except PivotNetError as error:
            return error

    def load(self, index: int) -> Item:
        """Read one sample. Raises PivotNetError: its annotation or an image is missing or broken."""
        token = self.tokens[index]
        annotation = load_annotation(sample_path(self.root, token))
        images = np.empty(self.shape, np.uint8) if self.cached is None else self.cached[index]
        if self.cached is None or not self.known[index]:
            for view, path in zip(images, camera_paths(annotation)):
                try:
                    resize(read_bgr(self.root / path), view.shape[:2], view)
                except PivotNetError as error:
                    raise PivotNetError(f"sample {token}: {error}") from error
        if self.cached is not None:
            self.known[index] = True
        points, valid = project_bev_grid(*camera_matrices(annotation), self.config.model.bev_size, self.config.map)
        targets = Sample(annotation.instance_mask8, annotation.pivot_points, annotation.pivot_lengths)
        return Item(token, images, points, valid, targets if self.with_targets else None)


def collate(items: list[Item | PivotNetError], config: Config) -> Batch | PivotNetError:
    """Items -> Batch; the first error among them is passed on instead (see MapDataset)."""
    good = []
    for item in items:
        if isinstance(item, PivotNetError):
            return item
        good.append(item)
    samples = [item.targets for item in good if item.targets is not None]
    return Batch(
        # one item's images are passed on as they are: copies of them are what takes time here
        images=torch.from_numpy(np.stack([item.images for item in good]) if len(good) > 1 else good[0].images[None]),
        reference_points=torch.stack([item.reference_points for item in good]),
        reference_valid=torch.stack([item.reference_valid for item in good]),
        tokens=[item.token for item in good],
        targets=build_targets(samples, config) if samples else None,
    )


def _start_worker(_worker: int) -> None:
    # A worker is one of many processes: OpenCV's own threads in each would only compete for the cores.
    cv2.setNumThreads(0)
    # torchrun sends SIGTERM to the whole process group, but the rank still needs its workers to end its step. They end
    # when it asks them to, or when it is gone.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Loader(DataLoader):
    """Iterates over batches; an error in a worker becomes one PivotNetError here."""

    dataset: MapDataset

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        iterator = super().__iter__()
        try:
            for batch in iterator:
                if isinstance(batch, PivotNetError):
                    raise batch
                yield batch
        finally:
            # Ends the workers now. Left to the garbage collector (an error's traceback holds this frame), their queues
            # may go first, and torch then waits 5 s for each worker that nobody can stop.
            del iterator


def build_loader(
    config: Config,
    data_root: PathLike,
    tokens: list[str],
    *,
    sampler: TrainingSampler | BatchSampler,
    with_targets: bool,
    workers: int | None = None,
    device: torch.device | None = None,
    local_ranks: int = 1,
) -> Loader:
    """A loader of the batches that ``sampler`` lists by indices into ``tokens``, for ``device`` (page-locked memory).
    By default (``workers`` None) the number of processes follows from the time that a sample takes, up to MOST_WORKERS
    and this rank's share of the cores but one; ``local_ranks`` share the cores and memory of this machine."""
    height, width = config.model.image_size
    bytes_needed = len(tokens) * len(CAMERAS) * height * width * 3
    shared = isinstance(sampler, TrainingSampler) and multiprocessing.get_start_method() == "fork"
    cache = shared and bytes_needed * local_ranks <= CACHE_BYTES
    dataset = MapDataset(config, data_root, tokens, with_targets=with_targets, cache=cache)
    if workers is None:
        dataset[0]  # not timed: the first sample takes longer, as libraries initialise
        start = time.perf_counter()
        dataset[len(tokens) - 1]
        needed = math.ceil((time.perf_counter() - start) * sampler.batch_size / STEP)
        workers = max(1, min(needed, MOST_WORKERS, (os.cpu_count() or 1) // local_ranks - 1))
    pinned = device is not None and devices.pin_memory(device)
    options: dict[str, Any] = {"collate_fn": functools.partial(collate, config=config), "pin_memory": pinned}
    if pinned and device is not None and not hasattr(torch, "accelerator"):
        options["pin_memory_device"] = device.type  # torch < 2.6 pins for CUDA by default
    if workers > 0:
        # A loader is iterated once, by a sampler as long as the run: its workers live from the first step to the last.
        options.update(prefetch_factor=2, worker_init_fn=_start_worker)
    return Loader(dataset, batch_sampler=sampler, num_workers=workers, **options)
