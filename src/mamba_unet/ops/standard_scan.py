"""The scan in operators that every runtime knows: what an exported network computes in place of our own operators.

L length, B batch, G scans of equal length, D channels, N d_state.

torch's `scan` operator carries the state along; ONNX has the same operator under the name Scan. One step of the loop is
one position, and no array has all states of the sequence. Shapes stay symbolic, so that one file serves every size.
Other forms were slower in onnxruntime, see docs/export.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def standard_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """See `mamba_unet.ops.chunked_scan.chunked_scan`; to be traced by `torch.export` or `torch.onnx.export`."""
    from torch._higher_order_ops.scan import scan

    states = A.shape[1]
    if states == 1:  # with one, torch 2.13's tracing fails; a second one stays 0
        A, B, C = F.pad(A, (0, 0, 0, 1)), F.pad(B, (0, 1)), F.pad(C, (0, 1))
    A = A.detach().contiguous()  # what the loop reads from outside needs no gradient and a plain layout

    def step(h: Tensor, at: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        delta_t, drive_t, B_t, C_t = at  # (B, G, 1, D), the same, (B, G, N, 1), (B, G, 1, N)
        h = torch.exp(delta_t * A) * h + drive_t * B_t
        return h.clone(), torch.matmul(C_t, h)

    start = u.new_zeros(u.shape[1], *A.shape).contiguous().clone()
    along = (delta.unsqueeze(-2), (delta * u).unsqueeze(-2), B.unsqueeze(-1), C.unsqueeze(-2))
    last_state, y = scan(step, start, tuple(x.detach() for x in along))
    return y.squeeze(-2), last_state[..., :states, :]
