"""cross_scan: the public function, which checks its inputs and picks a backend.

B batch, S the map's one, two or three axes, K = 2 walks per axis, D channels (d_inner), N d_state, R rank of dt.
"""

from torch import Tensor

from mamba_unet.ops.backends import choose
from mamba_unet.ops.cross_scan.inputs import Inputs


def cross_scan(
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
    """Scan a map along each of its axes, both ways, and add up the outputs, without re-ordering or copying the map.

    A walk visits every position once. Walk 0 goes along the last axis fastest (row by row), walk 1 along the one before
    (column by column), with three axes walk 2 along the first; the other axes follow in their order, the first of them
    slowest. The second half of the walks are the first half backwards. So two axes give SS2D's four directions, three
    give six, and one gives Mamba's selective scan from either end.

    Along its walk a scan runs h = exp(delta A) h + delta B u, y = C h, with delta = softplus(dt + dt_bias). What
    belongs to a position lies at that position: with two axes `dt[b, i, j, k]` is walk k's step at row i, column j.

    Args:
        u: (B, *S, D).
        dt: (B, *S, K, D), before bias and softplus; or (B, *S, K, R) where `dt_weight` is given.
        B: (B, *S, K, N).
        C: (B, *S, K, N).
        A: (K, D, N), negative.
        D: (D,), skip connection, already summed over the walks.
        dt_bias: (K, D).
        dt_weight: (K, D, R); the steps before bias and softplus are then dt_weight[k] @ dt[b, ..., k]. The compiled
            kernel multiplies step by step and holds neither them nor their gradient in memory.
        backend: "auto", "reference", "torch", "cpu" or "triton"; see `backend_status`.

    Returns:
        y (B, *S, D), the sum of the K outputs and of u * D: float32 for half inputs, which are to be normalised before
        they are cast down; otherwise in u's dtype.

    Raises:
        ValueError: shapes, types or devices do not fit, or the backend cannot run here.

    Source: for two axes Liu et al., VMamba (arXiv 2401.10166), section 4.2; Mamba-UNet (arXiv 2402.05079), figure 3.
    """
    inputs = Inputs(u, dt, B, C, A, D, dt_bias, dt_weight).checked()
    match choose(backend, u):
        case "reference":
            from mamba_unet.ops.cross_scan.reference import cross_scan as scan
        case "torch":
            from mamba_unet.ops.cross_scan.torch import cross_scan as scan
        case "cpu":
            from mamba_unet.ops.cross_scan.cpu import cross_scan as scan
        case "triton":
            from mamba_unet.ops.cross_scan.triton import cross_scan as scan
    return scan(inputs)
