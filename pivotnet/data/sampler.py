"""Which sample goes to which rank at which step.

Training follows upstream's stream: shuffle(range(size)) + shuffle(range(size)) + ..., one generator for all ranks, cut
into global batches; rank r of R takes every R-th index. Step k is a function of k alone, so a run resumes anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch


def steps_per_epoch(size: int, batch_size: int, world_size: int) -> int:
    """Steps in which all ranks together see ``size`` samples at least once: ceil(size / (batch x ranks))."""
    return -(-size // (batch_size * world_size))


@dataclass(frozen=True)
class TrainingSampler:
    """Batches of indices for the steps ``start_step`` <= step < ``stop_step`` of one rank.

    With b = ``batch_size`` and R = ``world_size``, step k of all ranks together is stream[k*b*R : (k+1)*b*R], and
    rank r has its items r, r + R, r + 2R, ...: the same samples for R ranks x b as for 1 rank x (b R)."""

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
