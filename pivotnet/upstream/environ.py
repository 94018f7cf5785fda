"""Upstream's execution environment by name: devices, process group, synchronised batch norm, DDP.

Works under torchrun, and started plainly: then core.py starts one process for each listed card, as upstream does. The
CPU counts as one card unless CARDS says otherwise.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import warnings
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pivotnet import device as devices
from pivotnet.annotation.format import FOLDER
from pivotnet.distributed import TIMEOUT, Ranks, ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.launch.supervise import end_with_parent
from pivotnet.launch.torchrun import hand_over
from pivotnet.model.ops.sync_batch_norm import convert_sync_batch_norm
from pivotnet.training.optim import LR_FACTORS
from pivotnet.upstream.performance import Performance, requested_steps

DEVICE = "PIVOTNET_DEVICE"  # npu, cuda or cpu; the first of them that works where it is not set


def parse_cards(text: str | None) -> list[int]:
    """ "0-3" -> [0, 1, 2, 3]; "0,2" -> [0, 2]; nothing -> [].

    Raises:
        PivotNetError: another form.
    """
    try:
        cards: list[int] = []
        for part in (text or "").split(",") if text else []:
            first, _, last = part.partition("-")
            cards.extend(range(int(first), int(last or first) + 1))
        return cards
    except ValueError as error:
        raise PivotNetError(f"-d {text!r} lists no cards: write 0-7 or 0,2,3") from error


def count_cards(listed: list[int]) -> int:
    """Processes to start on this machine: CARDS, else those of the listed cards that exist, else all.

    Raises:
        PivotNetError: none of the listed cards exists, or CARDS is no number.
    """
    chosen = os.environ.get("CARDS", "")
    if chosen:
        if not chosen.isdigit() or int(chosen) < 1:
            raise PivotNetError(f"CARDS is {chosen!r}: give a whole number of at least 1")
        return int(chosen)
    kind = devices.select_device(os.environ.get(DEVICE)).type
    existing = 1 if kind == "cpu" else devices.device_count(kind)
    count = len([card for card in listed if card < existing]) if listed else existing
    if count == 0:
        raise PivotNetError(f"none of the cards {listed} exists: {existing} of type {kind} are visible; correct -d")
    return count


class ShareFSUUIDNameServer(contextlib.nullcontext):
    """Ranks find each other through torchrun's environment, or that of the process which started them."""


class RlaunchReplicaEnv:
    """Where a process runs; also the callback that puts the model there.

    Args:
        sync_bn: 0 keeps batch norms local, 1 joins all ranks, n joins groups of n ranks (all, if there are fewer).
        devices: cards to use, "0-7" or "0,2".
        find_unused_parameters: DDP's.
    """

    enabled_rank = None  # called back on every rank

    def __init__(self, sync_bn: int = 0, devices: str | None = None, find_unused_parameters: bool = False) -> None:
        sys.excepthook = hand_over
        end_with_parent()
        self.sync_bn, self.find_unused_parameters = int(sync_bn), find_unused_parameters
        cards = parse_cards(devices)
        self.nr_gpus = 1  # torchrun has started all processes: core.py has none to start
        self.ranks = ranks_from_environment()
        if "WORLD_SIZE" not in os.environ:
            self.nr_gpus = count_cards(cards)
            local = int(os.environ.get("LOCAL_RANK", 0))
            self.ranks = Ranks(local, local, self.nr_gpus, self.nr_gpus)
        local = self.ranks.local_rank
        self.device = _select(cards[local] if local < len(cards) else local)
        self._uri = "env://"
        self.performance = Performance(requested_steps(), self.device, self.ranks)

    def world_size(self) -> int:
        return self.ranks.world_size

    def global_rank(self) -> int:
        return self.ranks.rank

    def local_rank(self) -> int:
        return self.ranks.local_rank

    def rate_devices(self) -> int:
        """The number of cards whose learning rate upstream would use: the largest it knows that is not above ours."""
        world = self.ranks.world_size
        known = max(count for count in LR_FACTORS if count <= world)
        if known != world and self.ranks.main:
            warnings.warn(f"upstream has no learning rate for {world} cards; using that of {known}", stacklevel=2)
        return known

    def set_master_uri(self, ns: ShareFSUUIDNameServer) -> None:
        """Choose the meeting point of processes that core.py is about to start; they inherit it."""
        if "WORLD_SIZE" in os.environ:
            return
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        if "MASTER_PORT" not in os.environ:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
        self._uri = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"

    @staticmethod
    def setup_nccl() -> None:
        """Collective libraries find their network by themselves; their own variables overrule them."""

    def init_dist(self) -> None:
        """Form the process group; also for a single process, since upstream's code asks for DDP's ``module``."""
        dist.init_process_group(
            devices.distributed_backend(self.device),
            init_method=self._uri,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            timeout=TIMEOUT,
        )
        atexit.register(self.cleanup)
        dist.barrier()

    @staticmethod
    def cleanup() -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def setup(self, executor: Any) -> None:
        """Move the model before anything holds its parameters: on some devices moving makes new ones.

        DATA_ROOT in the environment replaces the data root of the config, before its data sets are made.
        """
        root = os.environ.get("DATA_ROOT")
        if root:
            executor.exp.exp_config.map_conf.update(nusc_root=root, anno_root=os.path.join(root, FOLDER))
        executor.model = executor.model.to(self.device)
        if self.sync_bn > 0:
            convert_sync_batch_norm(executor.model, self._batch_norm_group())
        devices.set_reduced_precision(False)

    def _batch_norm_group(self) -> dist.ProcessGroup | None:
        size, world = self.sync_bn, self.ranks.world_size
        if size == 1 or size >= world:
            return None
        if world % size:
            raise PivotNetError(f"--sync_bn {size} does not divide {world} ranks: give 1 to join them all")
        groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world, size)]
        return groups[self.ranks.rank // size]

    def after_init(self, executor: Any) -> None:
        """Wrap the model for data-parallel training."""
        model: nn.Module = executor.model
        executor.model = DistributedDataParallel(
            model,
            find_unused_parameters=self.find_unused_parameters,
            # synchronised batch norms keep the buffers of all ranks equal
            broadcast_buffers=self.sync_bn == 0,
            **devices.ddp_options(self.device),
        )

    def before_train(self, executor: Any) -> None:
        self.performance.begin(executor)

    def before_step(self, executor: Any, step: int, data_dict: Any) -> None:
        self.performance.records.loaded()

    def after_step(self, executor: Any, step: int, data_dict: Any, **result: Any) -> None:
        # loss and extra (terms) of a training step; an evaluation has none
        if "loss" in result:
            self.performance.step(executor, result["loss"], result["extra"])

    def after_epoch(self, executor: Any, epoch: int, update_best_ckpt: bool = False) -> None:
        self.performance.records.disturb()  # a checkpoint or an evaluation

    def after_train(self, executor: Any) -> None:
        self.performance.finish(executor)


_selected: Any = None  # the card of this process, once there is one


def _select(card: int) -> Any:
    global _selected
    _selected = devices.select_device(os.environ.get(DEVICE), local_rank=card)
    return _selected


def collect_env_info() -> str:
    """Versions of Python and the packages, and the device."""
    lines = [f"{name} {version}" for name, version in devices.versions().items()]
    # selecting another card would make it the current one
    device = _selected or devices.select_device(os.environ.get(DEVICE))
    return "\n".join([*lines, f"device {devices.device_name(device)}"])


def get_root_dir() -> str:
    """The patched tree."""
    import mapmaster

    return os.path.dirname(os.path.dirname(os.path.abspath(mapmaster.__file__)))
