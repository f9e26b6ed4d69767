"""The four-direction scan on a GPU: the Triton kernels of `mamba_unet.ops.triton_scan`."""

from torch import Tensor

from mamba_unet.ops.triton_scan import triton_scan


def ss2d_scan(u: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor) -> Tensor:
    """See `mamba_unet.ops.ss2d_scan`."""
    y, _ = triton_scan(u, dt, B, C, A, D, dt_bias, softplus=True)
    return y
