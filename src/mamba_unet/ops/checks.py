"""What both scans demand of their inputs, checked once, before a backend is chosen."""

import torch
from torch import Tensor

MAX_STATE = 64  # d_state; the fused kernels keep a state of this size on chip


def check_tensors(tensors: dict[str, Tensor | None]) -> None:
    """Raise ValueError unless all are real floating-point tensors on one device."""
    device = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, not {type(tensor).__name__}")
        if not tensor.dtype.is_floating_point:
            raise ValueError(f"{name} must be real floating point, not {tensor.dtype}")
        device = device or tensor.device
        if tensor.device != device:
            raise ValueError(f"all inputs must be on one device; {name} is on {tensor.device}, others on {device}")


def check_shape(name: str, tensor: Tensor | None, expected: tuple[int, ...], legend: str) -> None:
    """Raise ValueError unless the tensor (if there is one) has this shape."""
    if tensor is not None and tensor.shape != expected:
        raise ValueError(f"{name} must have shape {legend} = {tuple(expected)}, not {tuple(tensor.shape)}")


def check_state_size(n: int) -> None:
    if not 1 <= n <= MAX_STATE:
        raise ValueError(f"d_state N must be 1..{MAX_STATE}, not {n}")


def compute_dtype(u: Tensor) -> torch.dtype:
    """The recurrence runs in float32, for half inputs too: in half precision it overflows. float64 stays float64."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32
