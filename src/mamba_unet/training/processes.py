"""What the processes of a distributed training compute together, so that they give what one would.

Sums run over all of them; so do the statistics of batch normalisation.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Sum(torch.autograd.Function):
    """Sum a tensor over all processes; so are its gradients, because every process's loss depends on the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.forward(ctx, grad)


def distributed() -> bool:
    """Whether this process is one of several that were started to train together."""
    return dist.is_available() and dist.is_initialized()


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum over all processes, with its gradient; `x` itself where there is one."""
    return _Sum.apply(x) if distributed() else x


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation over the joint batch of all processes, (B, C, *S) -> the same.

    As `torch.nn.SyncBatchNorm`, which works on GPUs alone. Every process holds as many samples.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        axes, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = sum_over_processes(x.sum(axes)) / count
        x = x - mean.view(shape)
        variance = sum_over_processes(x.square().sum(axes)) / count
        if self.track_running_stats:
            self._remember(mean.detach(), variance.detach() * (count / max(count - 1, 1)))
        x = x * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


def share_statistics(module: nn.Module) -> None:
    """Put a `SharedBatchNorm` with the same tensors in the place of every batch normalisation below `module`."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            shared = SharedBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats, device="meta"
            )
            shared._parameters, shared._buffers, shared.training = child._parameters, child._buffers, child.training
            setattr(module, name, shared)
        else:
            share_statistics(child)
