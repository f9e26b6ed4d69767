"""Step sizes of low rank, dt = W r, multiplied out: one matrix product for each walk.

B batch, S the map's axes, K walks, D channels, R rank of dt.
"""

from contextlib import nullcontext

import torch
from torch import Tensor


def multiply_out(low: Tensor, weight: Tensor) -> Tensor:
    """dt of low rank times its weight, in dt's type, under autocast too.

    Args:
        low: (B, *S, K, R).
        weight: (K, D, R).

    Returns:
        (B, *S, K, D), of which each walk lies in one piece.
    """
    with _without_autocast(low):
        product = torch.matmul(_by_walk(low), weight.to(low.dtype).mT)
    return product.unflatten(1, low.shape[:-2]).movedim(0, -2)


def gradients(grad: Tensor, low: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients by `low` and by `weight`, of the gradient (B, *S, K, D) by their product; both contiguous."""
    with _without_autocast(low):
        grad_weight = torch.matmul(_by_walk(low).mT, _by_walk(grad)).mT
    return multiply_out(grad, weight.mT).contiguous(), grad_weight.to(weight.dtype).contiguous()


def _by_walk(x: Tensor) -> Tensor:
    """(B, *S, K, X) -> (K, B * L, X)"""
    return x.movedim(-2, 0).flatten(1, -2)


def _without_autocast(x: Tensor) -> torch.autocast | nullcontext:
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
