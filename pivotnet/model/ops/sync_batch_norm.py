"""Batch norm over the batches of all ranks, with one all-reduce each way and no value read on the host."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the joined batch of all ranks.

    In eval mode, and when a single process runs, it is BatchNorm2d. Every rank has to run every forward and backward.
    """

    def __init__(self, *args: Any, process_group: dist.ProcessGroup | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, H, W] per channel."""
        if not self.training or not _several_ranks(self.process_group):
            return super().forward(input)
        momentum: Any = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # a plain average over all batches
                momentum = 1.0 / self.num_batches_tracked.float()
        return _Normalise.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, momentum, self.eps, self.process_group
        )


class _Normalise(torch.autograd.Function):
    """Normalise by the statistics of all ranks; the batch norm kernels of the device do the heavy part."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: Any,  # a number, or a tensor of one
        eps: float,
        group: dist.ProcessGroup | None,
    ) -> Tensor:
        variance, mean = torch.var_mean(input.float(), dim=(0, 2, 3), unbiased=False)
        channels, local_count = len(mean), input.numel() // len(mean)
        # One row a rank: the sum over the ranks then gathers them. Plain sums of x and x^2 would lose the variance of
        # features far from zero.
        ranks = mean.new_zeros(dist.get_world_size(group), 2 * channels + 1)
        ranks[dist.get_rank(group)] = torch.cat([mean, variance, mean.new_full((1,), local_count)])
        dist.all_reduce(ranks, group=group)
        means, variances, counts = ranks.split([channels, channels, 1], dim=1)
        count = counts.sum()
        shares = counts / count  # [ranks, 1]
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        if running_mean is not None and running_var is not None:
            # Here, not after apply(): a checkpoint's recomputation may end as soon as the last tensor is saved.
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
        ctx.save_for_backward(input, weight, mean, variance, count)
        ctx.eps, ctx.group = eps, group
        return torch.batch_norm(input, weight, bias, mean, variance, False, 0.0, eps, False)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        input, weight, mean, variance, count = ctx.saved_tensors
        # With the statistics held fixed: scale * g, sum(g * normalised input), sum(g).
        grad_input, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad_output, input, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        if ctx.needs_input_grad[0]:
            sums = torch.cat([grad_weight, grad_bias]).float()
            dist.all_reduce(sums, group=ctx.group)
            mean_weight, mean_bias = (sums / count).chunk(2)
            inverse_std = (variance + ctx.eps).rsqrt()
            scale = inverse_std if weight is None else inverse_std * weight
            # What moves through the statistics: scale * (mean(g) + normalised input * mean(g * normalised input))
            slope = scale * inverse_std * mean_weight
            constant = torch.addcmul(scale * mean_bias, slope, mean, value=-1)
            moved = torch.addcmul(constant.view(-1, 1, 1), input, slope.view(-1, 1, 1))
            grad_input = (grad_input - moved).to(input.dtype)
        affine = weight is not None
        return (grad_input, grad_weight if affine else None, grad_bias if affine else None, *(None,) * 5)


def convert_sync_batch_norm(module: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Replace every BatchNorm2d in ``module`` by a SyncBatchNorm that holds the same tensors, options and mode.

    Returns:
        ``module``, or its replacement where it is a batch norm itself.
    """
    for name, child in module.named_children():
        replacement = convert_sync_batch_norm(child, process_group)
        if replacement is not child:
            setattr(module, name, replacement)
    if isinstance(module, SyncBatchNorm):
        module.process_group = process_group
    if not isinstance(module, nn.BatchNorm2d) or isinstance(module, SyncBatchNorm):
        return module
    synchronised = SyncBatchNorm(
        module.num_features,
        eps=module.eps,
        momentum=module.momentum,
        affine=module.affine,
        track_running_stats=module.track_running_stats,
        process_group=process_group,
    )
    synchronised._parameters.update(module._parameters)
    synchronised._buffers.update(module._buffers)
    return synchronised.train(module.training)


def _several_ranks(group: dist.ProcessGroup | None) -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1
