"""Batch norm over the batches of all ranks, with one all-reduce each way and no value read on the host."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the joined batch of all ranks. In eval mode, and when a single
    process runs, it is BatchNorm2d. Every rank has to run every forward and backward. It has weights, running
    statistics and a momentum, as all batch norms of the networks."""

    process_group: dist.ProcessGroup | None = None  # all ranks

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, H, W] per channel."""
        group = self.process_group
        if not self.training or not dist.is_available() or not dist.is_initialized() or dist.get_world_size(group) == 1:
            return super().forward(input)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var
        return _Normalise.apply(input, self.weight, self.bias, *statistics, self.momentum, self.eps, group)


class _Normalise(torch.autograd.Function):
    """Normalise by the statistics of all ranks; the batch norm kernels of the device do the heavy part."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, *options: Any
    ) -> Tensor:
        momentum, eps, group = options
        variance, mean = torch.var_mean(input.float(), dim=(0, 2, 3), unbiased=False)
        channels, local_count = len(mean), input.numel() // len(mean)
        # One row a rank: the sum over the ranks then gathers them. Plain sums of x and x^2 would lose the variance of
        # features far from zero.
        ranks = mean.new_zeros(dist.get_world_size(group), 2 * channels + 1)
        ranks[dist.get_rank(group)] = torch.cat([mean, variance, mean.new_full((1,), local_count)])
        dist.all_reduce(ranks, group=group)
        means, variances, counts = ranks.split([channels, channels, 1], dim=1)
        count = counts.sum()
        fractions = counts / count  # [ranks, 1]
        mean = (fractions * means).sum(0)
        variance = (fractions * (variances + (means - mean).square())).sum(0)
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
            scale = inverse_std * weight
            # What moves through the statistics: scale * (mean(g) + normalised input * mean(g * normalised input))
            slope = scale * inverse_std * mean_weight
            constant = torch.addcmul(scale * mean_bias, slope, mean, value=-1)
            moved = torch.addcmul(constant.view(-1, 1, 1), input, slope.view(-1, 1, 1))
            grad_input = (grad_input - moved).to(input.dtype)
        return (grad_input, grad_weight, grad_bias, *(None,) * 5)


def convert_sync_batch_norm(module: nn.Module, process_group: dist.ProcessGroup | None = None) -> nn.Module:
    """Make every BatchNorm2d in ``module`` a SyncBatchNorm; returns ``module``."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.__class__ = SyncBatchNorm  # the same attributes, only another forward
        if isinstance(norm, SyncBatchNorm):
            norm.process_group = process_group
    return module
