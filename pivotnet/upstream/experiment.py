"""What an experiment of upstream configures for CUDA, fitted to the device that its model is on."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from pivotnet import device as devices
from pivotnet.distributed import Ranks
from pivotnet.training.optim import FlatAdamW


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
    names = ("lr", "betas", "eps", "weight_decay")
    options = {name: optimizer.defaults[name] for name in names}
    plain = [{key: group[key] for key in ("params", *names)} for group in groups]
    return FlatAdamW(plain, Ranks(), **options)  # DistributedDataParallel averages the gradients
