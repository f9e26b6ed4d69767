"""ss2d_scan: the public function, which checks its inputs and picks a backend.

B batch, H W image, K = 4 scan directions, D channels (d_inner), N d_state, R rank of dt.
"""

from torch import Tensor

from mamba_unet.ops.backends import choose
from mamba_unet.ops.ss2d_scan.inputs import Inputs


def ss2d_scan(
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    dt_weight: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Scan an image in four directions and add up the four outputs, without re-ordering or copying the image.

    Direction 0 walks row by row, direction 1 column by column, directions 2 and 3 walk these paths backwards. Along
    its path a direction runs h = exp(delta A) h + delta B u, y = C h, with delta = softplus(dt + dt_bias). What
    belongs to a pixel lies at that pixel: `dt[b, i, j, k]` is direction k's step at row i, column j.

    Args:
        u: (B, H, W, D).
        dt: (B, H, W, 4, D), before bias and softplus; or (B, H, W, 4, R) where `dt_weight` is given.
        B: (B, H, W, 4, N).
        C: (B, H, W, 4, N).
        A: (4, D, N), negative.
        D: (D,), skip connection, already summed over the directions.
        dt_bias: (4, D).
        dt_weight: (4, D, R); the steps before bias and softplus are then dt_weight[k] @ dt[b, i, j, k]. The compiled
            kernel multiplies step by step and holds neither them nor their gradient in memory.
        backend: "auto", "reference", "torch", "cpu" or "triton"; see `backend_status`.

    Returns:
        y (B, H, W, D), the sum of the four outputs and of u * D: float32 for half inputs, which are to be normalised
        before they are cast down; otherwise in u's dtype.

    Raises:
        ValueError: shapes, types or devices do not fit, or the backend cannot run here.

    Source: Liu et al., VMamba (arXiv 2401.10166), section 4.2; Mamba-UNet (arXiv 2402.05079), figure 3.
    """
    inputs = Inputs(u, dt, B, C, A, D, dt_bias, dt_weight).checked()
    match choose(backend, u):
        case "reference":
            from mamba_unet.ops.ss2d_scan.reference import ss2d_scan as scan
        case "torch":
            from mamba_unet.ops.ss2d_scan.torch import ss2d_scan as scan
        case "cpu":
            from mamba_unet.ops.ss2d_scan.cpu import ss2d_scan as scan
        case "triton":
            from mamba_unet.ops.ss2d_scan.triton import ss2d_scan as scan
    return scan(inputs)
