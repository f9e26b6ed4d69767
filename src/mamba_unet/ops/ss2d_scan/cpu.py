"""The four-direction scan by the compiled kernel."""

from torch import Tensor

from mamba_unet.ops.cpu_scan import cpu_scan


def ss2d_scan(u: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor) -> Tensor:
    """See `mamba_unet.ops.ss2d_scan`. Computes in float32."""
    y, _ = cpu_scan(*(tensor.float() for tensor in (u, dt, B, C, A, D, dt_bias)), softplus=True)
    return y
