"""The compiled scan as one differentiable operator, which `torch.compile` and `torch.export` see as a single node.

B batch, H W image, K directions, D channels, N d_state. All tensors are float32.
"""

import torch
from torch import Tensor

from mamba_unet.ops import native


def cpu_scan(
    u: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, bias: Tensor, softplus: bool
) -> tuple[Tensor, Tensor]:
    """Scan along K paths at once; see the head of `scan_kernel.c`.

    Args:
        u: (B, H, W, D).
        dt: (B, H, W, K, D).
        B: (B, H, W, K, N).
        C: (B, H, W, K, N).
        A: (K, D, N).
        D: (D,).
        bias: (K, D), added to dt.
        softplus: whether the step is softplus(dt + bias) or dt + bias.

    Returns:
        y (B, H, W, D) and the last states (B, K, N, D).
    """
    keep_borders = torch.is_grad_enabled() and any(x.requires_grad for x in (u, dt, B, C, A, D, bias))
    u, dt, B, C = (_walkable(x) for x in (u, dt, B, C))
    A, D, bias = (x.contiguous() for x in (A, D, bias))
    y, last, _ = _forward(u, dt, B, C, A, D, bias, softplus, keep_borders)
    return y, last


def _walkable(x: Tensor) -> Tensor:
    """The tensor itself if its last axis is dense and one stride leads from pixel to pixel, else a copy."""
    if x.stride(-1) == 1 and x.stride(1) == x.shape[2] * x.stride(2) and 0 not in x.stride():
        return x
    return x.contiguous()


def _job(u: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, bias: Tensor, softplus: bool) -> native.Job:
    batch, height, width, channels = u.shape
    directions, _, states = A.shape
    job = native.Job(
        batch=batch,
        height=height,
        width=width,
        channels=channels,
        states=states,
        directions=directions,
        softplus=softplus,
        u_at=native.Strides.of(u),
        dt_at=native.Strides.of(dt),
        B_at=native.Strides.of(B),
        C_at=native.Strides.of(C),
    )
    job.point(u=u, dt=dt, B=B, C=C, A=A, skip=D, bias=bias)
    return job


def _split(batch: int, blocks: int, directions: int) -> int:
    """Into how many parts to split the directions so that each thread finds work."""
    parts = 1
    while parts < directions and batch * blocks * parts < torch.get_num_threads():
        parts *= 2
    return parts


@torch.library.custom_op("mamba_unet::cpu_scan", mutates_args=())
def _forward(
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    bias: Tensor,
    softplus: bool,
    keep_borders: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    job = _job(u, dt, B, C, A, D, bias, softplus)
    job.groups = -(-job.channels // native.lanes())
    job.parts = _split(job.batch, job.groups, job.directions)
    y = u.new_empty(job.parts, *u.shape)
    last = u.new_empty(job.batch, job.directions, job.states, job.channels)
    borders = u.new_empty(_borders_size(u, A) if keep_borders else 0)
    job.point(y=y, last=last, borders=borders if keep_borders else None)
    native.run("forward", job)
    return _sum(y), last, borders


def _borders_size(u: Tensor, A: Tensor) -> int:
    batch, height, width, channels = u.shape
    blocks = -(-channels // native.lanes())
    chunks = -(-(height * width) // native.chunk())
    return batch * blocks * A.shape[0] * chunks * A.shape[2] * native.lanes()


@_forward.register_fake
def _(u, dt, B, C, A, D, bias, softplus, keep_borders):
    directions, channels, states = A.shape
    return (
        u.new_empty(u.shape),
        u.new_empty(u.shape[0], directions, states, channels),
        u.new_empty(_borders_size(u, A) if keep_borders else 0),
    )


@torch.library.custom_op("mamba_unet::cpu_scan_backward", mutates_args=())
def _backward(
    gy: Tensor,
    glast: Tensor,
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    bias: Tensor,
    borders: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    job = _job(u, dt, B, C, A, D, bias, softplus)
    blocks = -(-job.channels // native.lanes())
    # each group of blocks has its own copy of the gradients of B and C: no more groups than threads need
    job.groups = min(blocks, -(-torch.get_num_threads() // max(job.batch, 1)))
    job.parts = _split(job.batch, job.groups, job.directions)
    gu = u.new_empty(job.parts, *u.shape)
    gdt = u.new_empty(dt.shape)
    gB, gC = (u.new_empty(job.groups, *B.shape) for _ in range(2))
    gA, gbias, gskip = (u.new_empty(job.batch, *x.shape) for x in (A, bias, D))
    job.point(gy=gy, glast=glast, borders=borders, gu=gu, gdt=gdt, gB=gB, gC=gC, gA=gA, gbias=gbias, gskip=gskip)
    native.run("backward", job)
    return _sum(gu), gdt, _sum(gB), _sum(gC), gA.sum(0), gskip.sum(0), gbias.sum(0)


@_backward.register_fake
def _(gy, glast, u, dt, B, C, A, D, bias, borders, softplus):
    return tuple(u.new_empty(x.shape) for x in (u, dt, B, C, A, D, bias))


def _sum(copies: Tensor) -> Tensor:
    return copies.sum(0) if copies.shape[0] > 1 else copies.squeeze(0)


def _setup(ctx, inputs, output):
    *tensors, softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.softplus = softplus


def _differentiate(ctx, gy, glast, _):
    gradients = _backward(gy.contiguous(), glast.contiguous(), *ctx.saved_tensors, ctx.softplus)
    return *gradients, None, None


_forward.register_autograd(_differentiate, setup_context=_setup)
