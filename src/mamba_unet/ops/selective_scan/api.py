"""selective_scan: the public function, which checks its inputs and picks a backend.

B batch, L length, D channels, N d_state, G groups of channels that share B and C.
"""

from torch import Tensor

from mamba_unet.ops.backends import choose
from mamba_unet.ops.selective_scan.inputs import Inputs


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t + D u_t along the last axis.

    Arguments and meaning are those of mamba-ssm's `selective_scan_fn`, for real A. Differentiable for every input,
    and through `last_state`.

    Args:
        u: (B, D, L).
        delta: (B, D, L), the step sizes; before `delta_bias` and softplus where these are given.
        A: (D, N).
        B: (B, N, L) or (B, G, N, L), G a divisor of D.
        C: as B.
        D: (D,), skip connection.
        z: (B, D, L); the output is multiplied by silu(z).
        delta_bias: (D,).
        delta_softplus: apply softplus to delta + delta_bias.
        return_last_state: also return the state after the last position.
        backend: "auto", "reference", "torch", "cpu" or "triton"; see `backend_status`.

    Returns:
        out (B, D, L) in u's dtype; with `return_last_state` also last_state (B, D, N), float32 for half inputs.

    Raises:
        ValueError: shapes, types or devices do not fit, or the backend cannot run here.

    Source: Gu & Dao, Mamba (arXiv 2312.00752), algorithm 2.
    """
    inputs = Inputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus).checked()
    match choose(backend, u):
        case "reference":
            from mamba_unet.ops.selective_scan.reference import selective_scan as scan
        case "torch":
            from mamba_unet.ops.selective_scan.torch import selective_scan as scan
        case "cpu":
            from mamba_unet.ops.selective_scan.cpu import selective_scan as scan
        case "triton":
            from mamba_unet.ops.selective_scan.triton import selective_scan as scan
    out, last_state = scan(inputs)
    out = out.to(u.dtype)
    return (out, last_state) if return_last_state else out
