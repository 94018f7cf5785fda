"""Which sample goes to which rank at which step.

Training follows upstream's stream: shuffle(range(size)) + shuffle(range(size)) + ..., one generator for all ranks, cut
into global batches; rank r of R takes every R-th index. Step k is a function of k alone, so a run resumes anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


def steps_per_epoch(size: int, batch_size: int, world_size: int) -> int:
    """Steps in which all ranks together see ``size`` samples at least once: ceil(size / (batch x ranks))."""
    return -(-size // (batch_size * world_size))


class TrainingSampler(Sampler[list[int]]):
    """Batches of indices for the steps ``start_step`` <= step < ``stop_step`` of one rank.

    With b = ``batch_size`` and R = ``world_size``, step k of all ranks together is stream[k*b*R : (k+1)*b*R], and
    rank r has its items r, r + R, r + 2R, ...: the same samples for R ranks x b as for 1 rank x (b R).
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        stop_step: int,
    ) -> None:
        if size < 1 or batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"size {size}, batch_size {batch_size}, rank {rank} of {world_size}")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_step = start_step
        self.stop_step = stop_step

    def __len__(self) -> int:
        return max(0, self.stop_step - self.start_step)

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size * self.world_size
        stream = self._stream(self.start_step * share)
        for _ in range(len(self)):
            batch = [next(stream) for _ in range(share)]
            yield batch[self.rank :: self.world_size]

    def _stream(self, position: int) -> Iterator[int]:
        """The endless shuffled stream from its item ``position`` on."""
        generator = torch.Generator().manual_seed(self.seed)
        passes, offset = divmod(position, self.size)
        for _ in range(passes):  # the generator's state after k passes is only reached through them
            torch.randperm(self.size, generator=generator)
        while True:
            yield from torch.randperm(self.size, generator=generator).tolist()[offset:]
            offset = 0


class EvaluationSampler(Sampler[list[int]]):
    """Batches of one rank's share of range(size), each index exactly once over all ranks."""

    def __init__(self, size: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, size, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.indices), self.batch_size):
            yield list(self.indices[start : start + self.batch_size])
