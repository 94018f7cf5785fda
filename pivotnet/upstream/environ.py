"""Upstream's execution environment by name: devices, process group, synchronised batch norm, DDP; and what its
experiments configure for CUDA, fitted to the device that their model is on. Processes are started by torchrun; a config
that is started without it starts it (see launch.py)."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from pivotnet import device as devices
from pivotnet.annotation.format import FOLDER
from pivotnet.distributed import Ranks, init_group, ranks_from_environment
from pivotnet.errors import PivotNetError
from pivotnet.launch.supervise import end_with_parent
from pivotnet.launch.torchrun import hand_over
from pivotnet.limits import BATCH_SIZE, WORKERS, whole_number
from pivotnet.model.ops.sync_batch_norm import convert_sync_batch_norm
from pivotnet.training.optim import LR_FACTORS, SAVED, FlatAdamW
from pivotnet.upstream import launch


class ShareFSUUIDNameServer(contextlib.nullcontext):
    """Ranks find each other through torchrun's environment."""


class RlaunchReplicaEnv:
    """Where a process runs; also the callback that puts the model there. ``sync_bn``: 0 keeps batch norms local, 1
    joins all ranks, n joins groups of n ranks (all, if there are fewer). ``devices``: cards to use, "0-7" or "0,2"."""

    enabled_rank = None  # called back on every rank
    nr_gpus = 1  # torchrun has started all processes: core.py has none to start
    device: torch.device  # the card of this process

    def __init__(self, sync_bn: int = 0, devices: str | None = None, find_unused_parameters: bool = False) -> None:
        if "WORLD_SIZE" not in os.environ:
            launch.start(sys.argv)
        sys.excepthook = hand_over
        # upstream uses torch's old interfaces, which no user of it can change
        warnings.filterwarnings("ignore", category=UserWarning, module="torch")
        end_with_parent()
        self.sync_bn = whole_number("--sync_bn", str(sync_bn), 0, WORKERS)
        self.find_unused_parameters = find_unused_parameters
        self.ranks = ranks_from_environment()
        RlaunchReplicaEnv.device = _select(launch.parse_cards(devices), self.ranks.local_rank)

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
        """torchrun has chosen the meeting point."""

    @staticmethod
    def setup_nccl() -> None:
        """Collective libraries find their network by themselves; their own variables overrule them."""

    def init_dist(self) -> None:
        """Form the process group; also for a single process, since upstream's code asks for DDP's ``module``."""
        init_group(devices.distributed_backend(self.device), self.ranks)
        atexit.register(self.cleanup)
        dist.barrier()

    @staticmethod
    def cleanup() -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def setup(self, executor: Any) -> None:
        """Move the model before anything holds its parameters: on some devices moving makes new ones. DATA_ROOT in the
        environment replaces the data root of the config, before its data sets are made."""
        whole_number("-b", str(executor.exp.batch_size_per_device), most=BATCH_SIZE)
        whole_number("-e", str(executor.exp.max_epoch))
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
        options: dict[str, Any] = {"find_unused_parameters": self.find_unused_parameters}
        options["broadcast_buffers"] = self.sync_bn == 0  # synchronised batch norms keep them equal in all ranks
        options["gradient_as_bucket_view"] = True
        executor.model = DistributedDataParallel(executor.model, **options)


def _select(cards: list[int], local_rank: int) -> torch.device:
    """The card of this rank among the listed ones, as far as they go."""
    card = cards[local_rank] if local_rank < len(cards) else local_rank
    return devices.select_device(os.environ.get(launch.DEVICE), local_rank=card)


def adapt_loader(loader: DataLoader, model: nn.Module) -> DataLoader:
    """The loader with the collation of its data set (if that has one of its own), pinning memory only for cards."""
    device = next(model.parameters()).device
    loader.collate_fn = getattr(loader.dataset, "collate", loader.collate_fn)
    loader.pin_memory = devices.pin_memory(device)
    if loader.pin_memory and not hasattr(torch, "accelerator"):
        loader.pin_memory_device = device.type  # torch < 2.6 pins for CUDA by default
    return loader


def adapt_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """The same AdamW over joined parameters, of the groups that have some."""
    groups = [group for group in optimizer.param_groups if group["params"]]
    options = {name: optimizer.defaults[name] for name in SAVED}
    plain = [{key: group[key] for key in ("params", *SAVED)} for group in groups]
    return FlatAdamW(plain, Ranks(), **options)  # DistributedDataParallel averages the gradients


def collect_env_info() -> str:
    lines = [f"{name} {version}" for name, version in devices.versions().items()]
    return "\n".join([*lines, f"device {devices.device_name(RlaunchReplicaEnv.device)}"])


def get_root_dir() -> str:
    """The patched tree."""
    import mapmaster

    return os.path.dirname(os.path.dirname(os.path.abspath(mapmaster.__file__)))
