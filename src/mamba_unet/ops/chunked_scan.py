"""The portable scan: PyTorch operations over chunks of the sequence, O(L) in time and memory, forward and backward.

L length, B batch, G scans of equal length that share nothing else (groups or directions), D channels, N d_state.

Within a chunk the exponentials, the input terms and the contractions with B and C are one operation each, and only the
recurrence itself is a loop of one `addcmul` per position. The forward pass keeps the state at the chunks' borders; the
backward pass recomputes the states inside one chunk at a time, so that nothing of size L * N * D is ever held.

One custom operator, so that `torch.compile` and `torch.export` see a single node instead of L unrolled steps. In
a file that is to run without this package it is `standard_scan` instead.
"""

import torch
from torch import Tensor

from mamba_unet.ops.backends import require_states, wants_standard_operators
from mamba_unet.ops.standard_scan import standard_scan

CHUNK = 32  # positions; the states kept are then N / 32 of the size of `delta`


def chunked_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t along the first axis.

    Args:
        u: (L, B, G, D).
        delta: (L, B, G, D), the step sizes themselves.
        A: (G, N, D).
        B: (L, B, G, N).
        C: (L, B, G, N).

    Returns:
        y (L, B, G, D) and the last state (B, G, N, D). All tensors are of one dtype, float32 or float64.
    """
    if wants_standard_operators():
        return standard_scan(u, delta, A, B, C)
    inputs = (u, delta, A, B, C)
    keep_states = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    y, last_state, _ = _forward(*(tensor.contiguous() for tensor in inputs), keep_states)
    return y, last_state


def _states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The decays and the states of one chunk that is entered with state h, both (T, B, G, N, D)."""
    decay = torch.mul(delta.unsqueeze(-2), A).exp_()
    states = (delta * u).unsqueeze(-2) * B.unsqueeze(-1)
    for decay_t, h_t in zip(decay.unbind(0), states.unbind(0), strict=True):
        h = h_t.addcmul_(decay_t, h)
    return decay, states


@torch.library.custom_op("mamba_unet::chunked_scan", mutates_args=())
def _forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, keep_states: bool
) -> tuple[Tensor, Tensor, Tensor]:
    h = u.new_zeros(u.shape[1], *A.shape).contiguous()
    y = torch.empty_like(u)
    borders = []  # the state that enters each chunk
    with torch.autocast(u.device.type, enabled=False):
        for y_c, u_c, delta_c, B_c, C_c in zip(*(x.split(CHUNK) for x in (y, u, delta, B, C)), strict=True):
            if keep_states:
                borders.append(h)
            _, states = _states(u_c, delta_c, A, B_c, h)
            y_c.copy_(torch.matmul(C_c.unsqueeze(-2), states).squeeze(-2))
            h = states[-1].clone()
    return y, h, torch.stack(borders) if keep_states else u.new_empty(0)


@_forward.register_fake
def _(u, delta, A, B, C, keep_states):
    state = (u.shape[1], *A.shape)
    borders = ((u.shape[0] + CHUNK - 1) // CHUNK, *state) if keep_states else (0,)
    return torch.empty_like(u), u.new_empty(state), u.new_empty(borders)


@torch.library.custom_op("mamba_unet::chunked_scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor, grad_last: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, borders: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    require_states(borders, -(-u.shape[0] // CHUNK) * u.shape[1] * A.numel())
    grad_u, grad_delta, grad_B, grad_C = (torch.empty_like(x) for x in (u, delta, B, C))
    grad_A = torch.zeros_like(A)
    flowing = grad_last.clone()  # the gradient of the state that leaves the chunk at hand
    chunks = zip(
        *(x.split(CHUNK) for x in (grad_y, u, delta, B, C, grad_u, grad_delta, grad_B, grad_C)), borders, strict=True
    )
    with torch.autocast(u.device.type, enabled=False):
        for grad_y_c, u_c, delta_c, B_c, C_c, grad_u_c, grad_delta_c, grad_B_c, grad_C_c, entering in reversed(
            list(chunks)
        ):
            decay, states = _states(u_c, delta_c, A, B_c, entering)
            grad_C_c.copy_(torch.matmul(states, grad_y_c.unsqueeze(-1)).squeeze(-1))
            # gradients of the states, last position first
            grad_states = C_c.unsqueeze(-1) * grad_y_c.unsqueeze(-2)
            grad_states[-1] += flowing
            steps = grad_states.unbind(0)
            for t in range(len(steps) - 2, -1, -1):
                steps[t].addcmul_(decay[t + 1], steps[t + 1])
            flowing = decay[0] * steps[0]
            # drive = delta * u * B
            grad_drive = torch.matmul(B_c.unsqueeze(-2), grad_states).squeeze(-2)
            grad_B_c.copy_(torch.matmul(grad_states, (delta_c * u_c).unsqueeze(-1)).squeeze(-1))
            torch.mul(grad_drive, delta_c, out=grad_u_c)
            # decay = exp(delta * A), met by the state before
            grad_states[0] *= entering
            grad_states[1:] *= states[:-1]
            grad_exponent = grad_states.mul_(decay)
            grad_A += (grad_exponent * delta_c.unsqueeze(-2)).sum((0, 1))
            torch.add(grad_drive * u_c, (grad_exponent * A).sum(-2), out=grad_delta_c)
    return grad_u, grad_delta, grad_A, grad_B, grad_C


@_backward.register_fake
def _(grad_y, grad_last, u, delta, A, B, C, borders):
    return tuple(torch.empty_like(x) for x in (u, delta, A, B, C))


def _setup(ctx, inputs, output):
    *tensors, _ = inputs
    _, _, borders = output
    ctx.save_for_backward(*tensors, borders)


def _differentiate(ctx, grad_y, grad_last, _):
    return *_backward(grad_y.contiguous(), grad_last, *ctx.saved_tensors), None


_forward.register_autograd(_differentiate, setup_context=_setup)
