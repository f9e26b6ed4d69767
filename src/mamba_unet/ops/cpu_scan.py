"""The compiled scan as one differentiable operator, which `torch.compile` and `torch.export` see as a single node.

B batch, S the map's one to three axes, K directions, D channels, N d_state, R rank of dt. All tensors are float32.
"""

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba_unet.ops import native
from mamba_unet.ops.backends import require_states
from mamba_unet.ops.paths import paths


def cpu_scan(
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    bias: Tensor,
    softplus: bool,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan along K paths at once; see the head of `scan_kernel.c`.

    Args:
        u: (B, *S, D).
        dt: (B, *S, K, D), or with `weight` (B, *S, K, R). K is 2 directions for each axis, or 1: forwards only.
        B: (B, *S, K, N).
        C: (B, *S, K, N).
        A: (K, D, N).
        D: (D,).
        bias: (K, D), added to dt.
        softplus: whether the step is softplus(dt + bias) or dt + bias.
        weight: (K, D, R), by which the kernel multiplies dt.

    Returns:
        y (B, *S, D) and the last states (B, K, N, D).
    """
    inputs = (u, dt, B, C, A, D, bias, weight)
    keep_borders = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    y, last, _ = _forward(*inputs, softplus, keep_borders)
    return y, last


def _laid_out(u: Tensor, dt: Tensor, B: Tensor, C: Tensor, *parameters: Tensor) -> list[Tensor]:
    """The tensors as the kernel reads them. Inside the operator, because compilers do not follow strides well."""
    axes = u.ndim - 2
    return [*(_walkable(x, axes) for x in (u, dt, B, C)), *(x.contiguous() for x in parameters)]


def _walkable(x: Tensor, axes: int) -> Tensor:
    """The tensor itself if its last axis is dense and one stride leads from pixel to pixel, else a copy."""
    even = all(x.stride(axis) == x.shape[axis + 1] * x.stride(axis + 1) for axis in range(1, axes))
    if even and x.stride(-1) == 1 and 0 not in x.stride():
        return x
    return x.clone(memory_format=torch.contiguous_format)  # `contiguous` leaves axes of length 1 any stride


def _in_blocks(weight: Tensor) -> Tensor:
    """(K, D, R) -> (K, blocks, R, lanes), R filled up with zeros to a multiple of 4 and D to one of lanes"""
    weight = F.pad(weight, (0, -weight.shape[2] % 4, 0, -weight.shape[1] % native.lanes()))
    return weight.unflatten(1, (-1, native.lanes())).transpose(2, 3).contiguous()


def _out_of_blocks(blocks: Tensor, weight: Tensor) -> Tensor:
    """`_in_blocks` undone, for a tensor of weight's shape"""
    return blocks.transpose(2, 3).flatten(1, 2)[:, : weight.shape[1], : weight.shape[2]].contiguous()


def _job(inputs: list[Tensor], weight: Tensor | None, blocks: Tensor | None, softplus: bool) -> native.Job:
    u, dt, B, C, A, D, bias = inputs
    batch, *shape, channels = u.shape
    directions, _, states = A.shape
    extents, inners = zip(*paths(shape), strict=True)
    job = native.Job(
        batch=batch,
        length=prod(shape),
        channels=channels,
        states=states,
        directions=directions,
        paths=len(shape),
        extent=native.Paths(*extents),
        inner=native.Paths(*inners),
        rank=0 if weight is None else weight.shape[2],
        softplus=softplus,
        u_at=native.Strides.of(u, len(shape)),
        dt_at=native.Strides.of(dt, len(shape)),
        B_at=native.Strides.of(B, len(shape)),
        C_at=native.Strides.of(C, len(shape)),
    )
    job.point(u=u, dt=dt, B=B, C=C, A=A, skip=D, bias=bias, weight=blocks)
    return job


def _split(batch: int, blocks: int, directions: int) -> int:
    """Into how many equal parts to split the directions so that each thread finds work."""
    equal = (parts for parts in range(1, directions) if directions % parts == 0)
    return next((parts for parts in equal if batch * blocks * parts >= torch.get_num_threads()), directions)


@torch.library.custom_op("mamba_unet::cpu_scan", mutates_args=())
def _forward(
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    bias: Tensor,
    weight: Tensor | None,
    softplus: bool,
    keep_borders: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    blocks = None if weight is None else _in_blocks(weight)
    inputs = _laid_out(u, dt, B, C, A, D, bias)
    job = _job(inputs, weight, blocks, softplus)
    job.groups = -(-job.channels // native.lanes())
    job.parts = _split(job.batch, job.groups, job.directions)
    y = u.new_empty(job.parts, *u.shape)
    last = u.new_empty(job.batch, job.directions, job.states, job.channels)
    borders = u.new_empty(_borders_size(u, A) if keep_borders else 0)
    job.point(y=y, last=last, borders=borders if keep_borders else None)
    native.run("forward", job)
    return _sum(y), last, borders


def _borders_size(u: Tensor, A: Tensor) -> int:
    batch, *shape, channels = u.shape
    blocks = -(-channels // native.lanes())
    chunks = -(-prod(shape) // native.chunk())
    return batch * blocks * A.shape[0] * chunks * A.shape[2] * native.lanes()


@_forward.register_fake
def _(u, dt, B, C, A, D, bias, weight, softplus, keep_borders):
    directions, channels, states = A.shape
    return (
        u.new_empty(u.shape),
        u.new_empty(u.shape[0], directions, states, channels),
        u.new_empty(_borders_size(u, A) if keep_borders else 0),
    )


@torch.library.custom_op("mamba_unet::cpu_scan_backward", mutates_args=())
def _backward(
    gy: Tensor,
    glast: Tensor | None,
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    bias: Tensor,
    weight: Tensor | None,
    borders: Tensor,
    softplus: bool,
) -> list[Tensor]:
    """The gradients of the tensors in their order, that of `weight` only if there is one."""
    require_states(borders, _borders_size(u, A))
    blocks = None if weight is None else _in_blocks(weight)
    inputs = _laid_out(u, dt, B, C, A, D, bias)
    job = _job(inputs, weight, blocks, softplus)
    # each group of blocks has its own copy of what is summed over channels: no more groups than threads need
    job.groups = min(-(-job.channels // native.lanes()), -(-torch.get_num_threads() // max(job.batch, 1)))
    job.parts = _split(job.batch, job.groups, job.directions)
    gu = u.new_empty(job.parts, *u.shape)
    gdt = u.new_empty(1 if weight is None else job.groups, *dt.shape)
    gB, gC = (u.new_empty(job.groups, *B.shape) for _ in range(2))
    gA, gbias, gskip = (u.new_empty(job.batch, *x.shape) for x in (A, bias, D))
    gweight = None if blocks is None else u.new_empty(job.batch, *blocks.shape)
    job.point(gy=gy, glast=glast, borders=borders, gu=gu, gdt=gdt, gB=gB, gC=gC)
    job.point(gA=gA, gbias=gbias, gskip=gskip, gweight=gweight)
    native.run("backward", job)
    gradients = [_sum(gu), _sum(gdt), _sum(gB), _sum(gC), gA.sum(0), gskip.sum(0), gbias.sum(0)]
    return gradients if gweight is None else [*gradients, _out_of_blocks(gweight.sum(0), weight)]


@_backward.register_fake
def _(gy, glast, u, dt, B, C, A, D, bias, weight, borders, softplus):
    return [u.new_empty(x.shape) for x in (u, dt, B, C, A, D, bias, weight) if x is not None]


def _sum(copies: Tensor) -> Tensor:
    return copies.sum(0) if copies.shape[0] > 1 else copies.squeeze(0)


def _setup(ctx, inputs, output):
    *tensors, softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)  # the borders get none, and seldom the last state: no zeros as large as they
    ctx.softplus = softplus


def _differentiate(ctx, gy, glast, _):
    gy = torch.zeros_like(ctx.saved_tensors[0]) if gy is None else gy.contiguous()
    glast = None if glast is None else glast.contiguous()
    gradients = _backward(gy, glast, *ctx.saved_tensors, ctx.softplus)
    gweight = gradients[7] if len(gradients) > 7 else None
    return *gradients[:7], gweight, None, None


_forward.register_autograd(_differentiate, setup_context=_setup)
