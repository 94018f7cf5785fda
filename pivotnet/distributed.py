"""One process a card, started by torchrun or by hand; what the ranks exchange besides gradients."""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pivotnet import device as devices
from pivotnet import heartbeat
from pivotnet.errors import CollectiveError, LostRankError, PivotNetError, first_line
from pivotnet.limits import whole_number

TIMEOUT = timedelta(minutes=30)  # of a collective: a rank may decode, evaluate or write for long


@dataclass(frozen=True)
class Ranks:
    """This process among the others."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.rank == 0


def ranks_from_environment() -> Ranks:
    """What torchrun set, a single process without it; PivotNetError where a variable is no number."""
    if "WORLD_SIZE" not in os.environ:
        return Ranks()
    found = {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": os.environ["WORLD_SIZE"], **os.environ}
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    return Ranks(*(whole_number(f"{name} in the environment", found[name], int("SIZE" in name)) for name in names))


@contextlib.contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """The default process group for the block, on the device's backend; nothing for a single process. When the block
    fails the group is left as it is, since closing it would wait for ranks that may be gone. It is closed after an
    error that all ranks share. Raises PivotNetError: the group cannot be formed; LostRankError: another rank is lost
    inside the block."""
    if ranks.world_size == 1:
        yield
        return
    backend = devices.distributed_backend(device)
    try:
        init_group(backend, ranks)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
        group = f"the {backend} group of {ranks.world_size} ranks at {address}"
        reason = f"({first_line(error)}): start all ranks through torchrun"
        raise PivotNetError(f"rank {ranks.rank} cannot join {group} {reason}") from error
    stop_heartbeat = heartbeat.start(ranks.rank)
    try:
        yield
    except CollectiveError:
        _close(backend)
        raise
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        reason = f"({first_line(error)}): what that rank said last is the cause"
        raise LostRankError(f"rank {ranks.rank} lost the connection to another rank {reason}") from error
    finally:
        stop_heartbeat()
    _close(backend)


def init_group(backend: str, ranks: Ranks) -> None:
    """torch's init_process_group, without the lines about connections that gloo writes to stdout."""
    sys.stdout.flush()
    stdout = os.dup(1)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.world_size, timeout=TIMEOUT)
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _close(backend: str) -> None:
    # torch 2.1 may wait for ever when a gloo group is closed right after a collective: there the process's end does it
    if backend != "gloo" or tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4):
        dist.destroy_process_group()


def _is_lost_connection(error: RuntimeError) -> bool:
    kinds = tuple(getattr(dist, name) for name in ("DistError", "DistBackendError") if hasattr(dist, name))
    words = "Connection (closed|reset) by peer|Broken pipe|Timed out waiting"
    return isinstance(error, kinds) or re.search(words, str(error)) is not None


def gather_objects(value: Any, ranks: Ranks) -> list[Any]:
    """``value`` of every rank, in their order, on every rank (small host objects; waits for all ranks)."""
    heartbeat.arrive()
    if ranks.world_size == 1:
        return [value]
    gathered: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(gathered, value)
    return gathered


@contextlib.contextmanager
def agreed(ranks: Ranks) -> Iterator[None]:
    """A block whose PivotNetError in one rank, the lowest if several have one, is a CollectiveError in every rank."""
    cause: PivotNetError | None = None
    try:
        yield
    except PivotNetError as error:
        cause = error
    for rank, message in enumerate(gather_objects(None if cause is None else str(cause), ranks)):
        if message is not None:
            raise CollectiveError(message if rank == 0 else f"rank {rank}: {message}") from cause


def average_over_ranks(vector: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Mean of a device tensor over the ranks, in its place, without a host wait."""
    if ranks.world_size > 1:
        dist.all_reduce(vector)
        vector *= 1 / ranks.world_size
    return vector
