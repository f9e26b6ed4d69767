"""The scan on a GPU: Triton kernels for the walks over a channels-last map, forward and backward.

B batch, S the map's one to three axes, L their product, the steps of a walk, K directions, D channels, N d_state.

A direction is a walk over pixels, never a copy. There is a path for each axis, which goes along that axis fastest: see
`mamba_unet.ops.paths`. Direction k walks path k, direction k + paths the same path from its end. Both cover the same
pixels segment by segment, so one program walks both and adds them up in place; the next path is another launch.

The L steps are cut into segments that run in parallel, and a segment into tiles of unrolled steps:

  forward   1. `_segment_kernel`   every segment from a zero state: its last state and its summed delta
            2. `_carry_kernel`     over the segments: the state that enters each
            3. `_scan_kernel`      every segment from its entering state: y
  backward  1. `_sweep_kernel`     every segment again: the states that enter its tiles, dC, and the gradient that the
                                   segment's own outputs send to its entering state
            2. `_carry_kernel`     over the segments, last first: the gradient of the state that leaves each
            3. `_backward_kernel`  every segment, last tile first: all other gradients

A program is one warp with its states in registers, (N, D) tiles with D across the lanes. There are no atomics: what
several programs contribute to is kept apart and added up in a fixed order, so results repeat bit for bit. Why it is
built this way and what it moves through memory: docs/decisions/0003-triton-scan.md.
"""

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from mamba_unet.ops.backends import require_states
from mamba_unet.ops.checks import compute_dtype
from mamba_unet.ops.low_rank import gradients as low_rank_gradients
from mamba_unet.ops.low_rank import multiply_out
from mamba_unet.ops.paths import paths

# steps unrolled; the backward pass holds the states of a whole tile in registers, and all tiles' first ones in memory
FORWARD_TILE, BACKWARD_TILE = 8, 4
# (N, D) elements per program, 32 threads: more spill registers, fewer repeat more work; `_backward_kernel` holds most
STATE, BACKWARD_STATE, MAX_BLOCK_D = 1024, 512, 64
MIN_SEGMENT = 32  # steps, a multiple of both tiles
TARGET_PROGRAMS = 2048  # fills the largest GPUs; a constant, so that results do not depend on the GPU

LOG2_E = tl.constexpr(1.4426950408889634)

# one binary for all image sizes: Triton would compile anew for sizes that are 1 or multiples of 16
_jit = triton.jit(do_not_specialize=("length", "extent", "inner", "blocks", "segments", "segment_steps"))


# --- pieces of the kernels ---


@triton.jit
def _locate(blocks, segments, BLOCK_D: tl.constexpr):
    """What a program works on: batch element, segment and channels. Neighbours share pixels, hence B and C in cache."""
    program = tl.program_id(0)
    d = program % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    # four channels to a thread, whatever the type: wider loads of half types would mean other layouts, and shuffles
    d = tl.max_contiguous(d, 4)
    return (program // blocks // segments).to(tl.int64), program // blocks % segments, d


@triton.jit
def _span(segment, segment_steps, length, backwards):
    """A segment's first step and number of steps. Segments are stretches of pixels, numbered along the forward path."""
    start = segment * segment_steps
    count = tl.minimum(length - start, segment_steps)
    return start + backwards * (length - count - 2 * start), count


@triton.jit
def _pixel(step, length, extent, inner, PATH: tl.constexpr, PATHS: tl.constexpr, backwards):
    """Where step(s) of a path stand in row-major order; `backwards` (0 or 1) walks it from its end."""
    if PATH == 0:  # along the last axis
        pixel = step
    else:
        line = step // extent
        pixel = (step - line * extent) * inner + line
        if PATH + 1 < PATHS:  # not along the first axis: lines lie behind each other, too
            pixel += line // inner * (extent - 1) * inner
    return (pixel + backwards * (length - 1 - 2 * pixel)).to(tl.int64)


@triton.jit
def _softplus_and_slope(x):
    """log(1 + exp(x)) and its derivative, accurate also where exp(x) is small: delta is often 1e-3."""
    small = tl.exp(-tl.abs(x))
    # log1p(small) = 2 atanh(s) with s <= 1/3, an odd power series: 8 terms suffice float32, 18 float64
    s = small / (2.0 + small)
    square = s * s
    TERMS: tl.constexpr = 17 if x.dtype == tl.float64 else 7
    series = tl.full(x.shape, 1.0 / (2 * TERMS + 1), x.dtype)
    for i in tl.static_range(TERMS):
        series = series * square + 1.0 / (2 * (TERMS - i) - 1)
    return tl.maximum(x, 0.0) + 2.0 * s * series, tl.where(x >= 0.0, 1.0, small) / (1.0 + small)


@triton.jit
def _load_delta(pointers, mask, bias, SOFTPLUS: tl.constexpr):
    """A tile of step sizes and their slope by dt; zero outside the mask, where the state then stays as it is."""
    delta = tl.load(pointers, mask=mask, other=0.0).to(bias.dtype) + bias[None, :]
    if SOFTPLUS:
        delta, slope = _softplus_and_slope(delta)
    else:
        slope = tl.full(delta.shape, 1.0, delta.dtype)
    return tl.where(mask, delta, 0.0), tl.where(mask, slope, 0.0)


@triton.jit
def _next(h, decay, B, drive, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """One step of the recurrence, (N, D) from B (N,) and drive = delta * u (D,)."""
    h = decay * h + B[:, None] * drive[None, :]
    if N < BLOCK_N:  # there B is 0, but infinite drive times 0 would be NaN
        h = tl.where((tl.arange(0, BLOCK_N) < N)[:, None], h, 0.0)
    return h


# --- forward ---


@_jit
def _segment_kernel(
    u_ptr, u_b, u_p, dt_ptr, dt_b, dt_p, dt_k, B_ptr, B_b, B_p, B_k, A_ptr, bias_ptr, states_ptr, totals_ptr,
    length, extent, inner, channels, blocks, segments, segment_steps,
    PATH: tl.constexpr, PATHS: tl.constexpr, SOFTPLUS: tl.constexpr,
    TILE: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b, segment, d = _locate(blocks, segments, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    nd = n[:, None] * channels + d[None, :]
    in_n, in_d = n < N, d < channels
    in_nd = in_n[:, None] & in_d[None, :]
    size = N * channels
    way = tl.program_id(1)
    k = (PATH + PATHS * way).to(tl.int64)
    place = (b * tl.num_programs(1) + way) * segments + segment
    u_ptr += b * u_b
    dt_ptr += b * dt_b + k * dt_k
    B_ptr += b * B_b + k * B_k

    A = tl.load(A_ptr + k * size + nd, mask=in_nd, other=-1.0)
    bias = tl.load(bias_ptr + k * channels + d, mask=in_d, other=0.0)
    h = tl.zeros((BLOCK_N, BLOCK_D), A.dtype)
    total = tl.zeros((TILE, BLOCK_D), A.dtype)
    first, count = _span(segment, segment_steps, length, way)
    for start in range(0, count, TILE):
        step = start + tl.arange(0, TILE)
        pixel = _pixel(first + step, length, extent, inner, PATH, PATHS, way)[:, None]
        inside = (step < count)[:, None] & in_d[None, :]
        delta, _ = _load_delta(dt_ptr + pixel * dt_p + d[None, :], inside, bias, SOFTPLUS)
        total += delta
        for t in tl.static_range(TILE):
            p = _pixel(first + start + t, length, extent, inner, PATH, PATHS, way)
            valid = start + t < count
            u = tl.load(u_ptr + p * u_p + d, mask=in_d & valid, other=0.0).to(h.dtype)
            B = tl.load(B_ptr + p * B_p + n, mask=in_n & valid, other=0.0).to(h.dtype)
            delta_t = tl.sum(tl.where((step == start + t)[:, None], delta, 0.0), axis=0)
            h = _next(h, tl.exp2((delta_t * LOG2_E)[None, :] * A), B, delta_t * u, N, BLOCK_N)

    tl.store(states_ptr + place * size + nd, h, mask=in_nd)
    tl.store(totals_ptr + place * channels + d, tl.sum(total, axis=0), mask=in_d)


@_jit
def _carry_kernel(
    states_ptr, totals_ptr, initial_ptr, A_ptr, channels, segments,
    PATH: tl.constexpr, PATHS: tl.constexpr, WAYS: tl.constexpr, ADJOINT: tl.constexpr,
    TILE: tl.constexpr, N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Replace what each segment adds by what enters it: forward the states, ADJOINT (last segment first) gradients."""
    pair = tl.program_id(0).to(tl.int64)  # image and way
    way = pair % WAYS
    nd = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    size = N * channels
    in_nd = nd < size
    A = tl.load(A_ptr + (PATH + PATHS * way) * size + nd, mask=in_nd, other=0.0)
    entering = tl.load(initial_ptr + pair * size + nd, mask=in_nd, other=0.0)
    for start in range(0, segments, TILE):
        order = start + tl.arange(0, TILE)
        place = pair * segments + tl.where((way + ADJOINT) % 2 > 0, segments - 1 - order, order)
        inside = (order < segments)[:, None] & in_nd[None, :]
        own_ptr = states_ptr + place[:, None] * size + nd[None, :]
        own = tl.load(own_ptr, mask=inside, other=0.0)
        total = tl.load(totals_ptr + place[:, None] * channels + (nd % channels)[None, :], mask=inside, other=0.0)
        decay = tl.exp2((total * LOG2_E) * A[None, :])
        out = own
        for t in tl.static_range(TILE):
            is_t = (order == start + t)[:, None]
            out = tl.where(is_t, entering[None, :], out)
            decay_t = tl.sum(tl.where(is_t, decay, 0.0), axis=0)
            entering = decay_t * entering + tl.sum(tl.where(is_t, own, 0.0), axis=0)
        tl.store(own_ptr, out, mask=inside)


@_jit
def _scan_kernel(
    u_ptr, u_b, u_p, dt_ptr, dt_b, dt_p, dt_k, B_ptr, B_b, B_p, B_k, C_ptr, C_b, C_p, C_k, A_ptr, bias_ptr, D_ptr,
    states_ptr, y_ptr, last_ptr, length, extent, inner, channels, directions, blocks, segments, segment_steps,
    PATH: tl.constexpr, PATHS: tl.constexpr, WAYS: tl.constexpr, SOFTPLUS: tl.constexpr,
    TILE: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b, segment, d = _locate(blocks, segments, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    nd = n[:, None] * channels + d[None, :]
    in_n, in_d = n < N, d < channels
    in_nd = in_n[:, None] & in_d[None, :]
    size = N * channels
    u_ptr += b * u_b
    dt_ptr += b * dt_b
    B_ptr += b * B_b
    C_ptr += b * C_b
    y_ptr += b * length * channels
    D = tl.load(D_ptr + d, mask=in_d, other=0.0)

    for way in range(WAYS):
        k = tl.cast(PATH + PATHS * way, tl.int64)
        place = (b * WAYS + way) * segments + segment
        A = tl.load(A_ptr + k * size + nd, mask=in_nd, other=-1.0)
        bias = tl.load(bias_ptr + k * channels + d, mask=in_d, other=0.0)
        h = tl.load(states_ptr + place * size + nd, mask=in_nd, other=0.0)
        first, count = _span(segment, segment_steps, length, way)
        for start in range(0, count, TILE):
            step = start + tl.arange(0, TILE)
            pixel = _pixel(first + step, length, extent, inner, PATH, PATHS, way)[:, None]
            inside = (step < count)[:, None] & in_d[None, :]
            delta, _ = _load_delta(dt_ptr + k * dt_k + pixel * dt_p + d[None, :], inside, bias, SOFTPLUS)
            # direction 0 begins y, the others add to it
            y_pixel = y_ptr + pixel * channels + d[None, :]
            y_before = tl.load(y_pixel, mask=inside & (k > 0), other=0.0)
            u_0 = tl.load(u_ptr + pixel * u_p + d[None, :], mask=inside & (k == 0), other=0.0).to(h.dtype)
            y = tl.zeros((TILE, BLOCK_D), h.dtype)
            for t in tl.static_range(TILE):
                p = _pixel(first + start + t, length, extent, inner, PATH, PATHS, way)
                valid = start + t < count
                u = tl.load(u_ptr + p * u_p + d, mask=in_d & valid, other=0.0).to(h.dtype)
                B = tl.load(B_ptr + k * B_k + p * B_p + n, mask=in_n & valid, other=0.0).to(h.dtype)
                C = tl.load(C_ptr + k * C_k + p * C_p + n, mask=in_n & valid, other=0.0).to(h.dtype)
                is_t = (step == start + t)[:, None]
                delta_t = tl.sum(tl.where(is_t, delta, 0.0), axis=0)
                h = _next(h, tl.exp2((delta_t * LOG2_E)[None, :] * A), B, delta_t * u, N, BLOCK_N)
                y = tl.where(is_t, tl.sum(C[:, None] * h, axis=0)[None, :], y)
            tl.store(y_pixel, y + tl.where(k > 0, y_before, u_0 * D[None, :]), mask=inside)

        is_last = segment == (segments - 1) * (1 - way)
        tl.store(last_ptr + (b * directions + k) * size + nd, h, mask=in_nd & is_last)
        tl.debug_barrier()  # the way back reads y where the way out wrote it


# --- backward ---


@_jit
def _sweep_kernel(
    u_ptr, u_b, u_p, dt_ptr, dt_b, dt_p, dt_k, B_ptr, B_b, B_p, B_k, C_ptr, C_b, C_p, C_k, A_ptr, bias_ptr,
    grad_y_ptr, states_ptr, tile_states_ptr, grad_states_ptr, totals_ptr, grad_C_ptr,
    length, extent, inner, channels, directions, blocks, segments, segment_steps,
    PATH: tl.constexpr, PATHS: tl.constexpr, SOFTPLUS: tl.constexpr,
    TILE: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b, segment, d = _locate(blocks, segments, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    nd = n[:, None] * channels + d[None, :]
    in_n, in_d = n < N, d < channels
    in_nd = in_n[:, None] & in_d[None, :]
    size = N * channels
    way = tl.program_id(1)
    k = (PATH + PATHS * way).to(tl.int64)
    place = (b * tl.num_programs(1) + way) * segments + segment
    tile_place = place * tl.cdiv(segment_steps, TILE)
    u_ptr += b * u_b
    dt_ptr += b * dt_b + k * dt_k
    B_ptr += b * B_b + k * B_k
    C_ptr += b * C_b + k * C_k
    grad_y_ptr += b * length * channels
    # (B, L, K, blocks, N), one part per block of channels
    grad_C_p = directions * blocks * N
    grad_C_ptr += b * length * grad_C_p + (k * blocks + tl.program_id(0) % blocks) * N

    A = tl.load(A_ptr + k * size + nd, mask=in_nd, other=-1.0)
    bias = tl.load(bias_ptr + k * channels + d, mask=in_d, other=0.0)
    h = tl.load(states_ptr + place * size + nd, mask=in_nd, other=0.0)
    left = tl.full((BLOCK_N, BLOCK_D), 1.0, A.dtype)  # what is left of the entering state
    grad_h = tl.zeros((BLOCK_N, BLOCK_D), A.dtype)
    total = tl.zeros((TILE, BLOCK_D), A.dtype)
    first, count = _span(segment, segment_steps, length, way)
    for start in range(0, count, TILE):
        tl.store(tile_states_ptr + (tile_place + start // TILE) * size + nd, h, mask=in_nd)
        step = start + tl.arange(0, TILE)
        pixel = _pixel(first + step, length, extent, inner, PATH, PATHS, way)[:, None]
        inside = (step < count)[:, None] & in_d[None, :]
        delta, _ = _load_delta(dt_ptr + pixel * dt_p + d[None, :], inside, bias, SOFTPLUS)
        total += delta
        for t in tl.static_range(TILE):
            p = _pixel(first + start + t, length, extent, inner, PATH, PATHS, way)
            valid = start + t < count
            u = tl.load(u_ptr + p * u_p + d, mask=in_d & valid, other=0.0).to(h.dtype)
            grad_y = tl.load(grad_y_ptr + p * channels + d, mask=in_d & valid, other=0.0)[None, :]
            B = tl.load(B_ptr + p * B_p + n, mask=in_n & valid, other=0.0).to(h.dtype)
            C = tl.load(C_ptr + p * C_p + n, mask=in_n & valid, other=0.0).to(h.dtype)
            delta_t = tl.sum(tl.where((step == start + t)[:, None], delta, 0.0), axis=0)
            decay = tl.exp2((delta_t * LOG2_E)[None, :] * A)
            h = _next(h, decay, B, delta_t * u, N, BLOCK_N)
            left = decay * left
            grad_h += left * (C[:, None] * grad_y)
            tl.store(grad_C_ptr + p * grad_C_p + n, tl.sum(h * grad_y, axis=1), mask=in_n & valid)

    tl.store(grad_states_ptr + place * size + nd, grad_h, mask=in_nd)
    tl.store(totals_ptr + place * channels + d, tl.sum(total, axis=0), mask=in_d)


@_jit
def _backward_kernel(
    u_ptr, u_b, u_p, dt_ptr, dt_b, dt_p, dt_k, B_ptr, B_b, B_p, B_k, C_ptr, C_b, C_p, C_k, A_ptr, bias_ptr, D_ptr,
    grad_y_ptr, tile_states_ptr, grad_states_ptr,
    grad_u_ptr, grad_dt_ptr, grad_B_ptr, grad_A_ptr, grad_bias_ptr, grad_D_ptr,
    length, extent, inner, channels, directions, blocks, segments, segment_steps,
    PATH: tl.constexpr, PATHS: tl.constexpr, WAYS: tl.constexpr, SOFTPLUS: tl.constexpr,
    TILE: tl.constexpr, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    b, segment, d = _locate(blocks, segments, BLOCK_D)
    n = tl.arange(0, BLOCK_N)
    nd = n[:, None] * channels + d[None, :]
    in_n, in_d = n < N, d < channels
    in_nd = in_n[:, None] & in_d[None, :]
    size = N * channels
    image = b * length
    u_ptr += b * u_b
    dt_ptr += b * dt_b
    B_ptr += b * B_b
    C_ptr += b * C_b
    grad_y_ptr += image * channels
    grad_u_ptr += image * channels
    grad_dt_ptr += image * directions * channels
    grad_B_p = directions * blocks * N
    grad_B_ptr += image * grad_B_p + tl.program_id(0) % blocks * N
    D = tl.load(D_ptr + d, mask=in_d, other=0.0)

    for way in range(WAYS):
        k = tl.cast(PATH + PATHS * way, tl.int64)
        place = (b * WAYS + way) * segments + segment
        tile_place = place * tl.cdiv(segment_steps, TILE)
        A = tl.load(A_ptr + k * size + nd, mask=in_nd, other=-1.0)
        bias = tl.load(bias_ptr + k * channels + d, mask=in_d, other=0.0)
        grad_h = tl.load(grad_states_ptr + place * size + nd, mask=in_nd, other=0.0)
        grad_A = tl.zeros((BLOCK_N, BLOCK_D), A.dtype)
        grad_bias = tl.zeros((TILE, BLOCK_D), A.dtype)
        grad_D = tl.zeros((TILE, BLOCK_D), A.dtype)
        first, count = _span(segment, segment_steps, length, way)
        tiles = tl.cdiv(count, TILE)
        for done in range(tiles):
            start = (tiles - 1 - done) * TILE
            step = start + tl.arange(0, TILE)
            pixel = _pixel(first + step, length, extent, inner, PATH, PATHS, way)[:, None]
            inside = (step < count)[:, None] & in_d[None, :]
            delta, slope = _load_delta(dt_ptr + k * dt_k + pixel * dt_p + d[None, :], inside, bias, SOFTPLUS)
            # here and not at the end, so that the rows are in L1 when the steps below read them one by one
            u_pixel, grad_y_pixel = u_ptr + pixel * u_p + d[None, :], grad_y_ptr + pixel * channels + d[None, :]
            u_tile = tl.load(u_pixel, mask=inside, other=0.0).to(delta.dtype)
            grad_D += tl.load(grad_y_pixel, mask=inside, other=0.0) * u_tile

            h = tl.load(tile_states_ptr + (tile_place + start // TILE) * size + nd, mask=in_nd, other=0.0)
            found = (h,)  # by each step of the tile
            drive, exponent = delta * u_tile, delta * LOG2_E
            for t in tl.static_range(TILE - 1):
                p = _pixel(first + start + t, length, extent, inner, PATH, PATHS, way)
                B = tl.load(B_ptr + k * B_k + p * B_p + n, mask=in_n & (start + t < count), other=0.0).to(h.dtype)
                is_t = (step == start + t)[:, None]
                decay = tl.exp2(tl.sum(tl.where(is_t, exponent, 0.0), axis=0)[None, :] * A)
                h = _next(h, decay, B, tl.sum(tl.where(is_t, drive, 0.0), axis=0), N, BLOCK_N)
                found = found + (h,)  # noqa: RUF005 (Triton does not unpack)

            grad_drive = tl.zeros((TILE, BLOCK_D), h.dtype)  # drive = delta * u
            grad_exponents = tl.zeros((TILE, BLOCK_D), h.dtype)  # by the rates A that delta multiplies
            for t in tl.static_range(TILE - 1, -1, -1):
                p = _pixel(first + start + t, length, extent, inner, PATH, PATHS, way)
                valid = start + t < count
                u = tl.load(u_ptr + p * u_p + d, mask=in_d & valid, other=0.0).to(h.dtype)
                grad_y = tl.load(grad_y_ptr + p * channels + d, mask=in_d & valid, other=0.0)
                B = tl.load(B_ptr + k * B_k + p * B_p + n, mask=in_n & valid, other=0.0).to(h.dtype)
                C = tl.load(C_ptr + k * C_k + p * C_p + n, mask=in_n & valid, other=0.0).to(h.dtype)
                is_t = (step == start + t)[:, None]
                delta_t = tl.sum(tl.where(is_t, delta, 0.0), axis=0)
                grad_h += C[:, None] * grad_y[None, :]
                grad_B = tl.sum(grad_h * (delta_t * u)[None, :], axis=1)
                tl.store(grad_B_ptr + p * grad_B_p + k * blocks * N + n, grad_B, mask=in_n & valid)
                grad_drive = tl.where(is_t, tl.sum(grad_h * B[:, None], axis=0)[None, :], grad_drive)
                grad_h = tl.exp2((delta_t * LOG2_E)[None, :] * A) * grad_h
                grad_exponent = grad_h * found[t]
                grad_A += grad_exponent * delta_t[None, :]
                grad_exponents = tl.where(is_t, tl.sum(grad_exponent * A, axis=0)[None, :], grad_exponents)

            u_tile = tl.load(u_pixel, mask=inside, other=0.0).to(h.dtype)
            grad_dt = (grad_drive * u_tile + grad_exponents) * slope
            grad_dt_pixel = grad_dt_ptr + (pixel * directions + k) * channels + d[None, :]
            tl.store(grad_dt_pixel, grad_dt.to(grad_dt_ptr.dtype.element_ty), mask=inside)
            # direction 0 begins the gradient of u, the others add to it
            grad_u_pixel = grad_u_ptr + pixel * channels + d[None, :]
            grad_u_before = tl.load(grad_u_pixel, mask=inside & (k > 0), other=0.0)
            grad_y_0 = tl.load(grad_y_pixel, mask=inside & (k == 0), other=0.0)
            grad_u = grad_drive * delta + tl.where(k > 0, grad_u_before, grad_y_0 * D[None, :])
            tl.store(grad_u_pixel, grad_u, mask=inside)
            grad_bias += grad_dt

        tl.store(grad_A_ptr + place * size + nd, grad_A, mask=in_nd)
        tl.store(grad_bias_ptr + place * channels + d, tl.sum(grad_bias, axis=0), mask=in_d)
        tl.store(grad_D_ptr + (b * segments + segment) * channels + d, tl.sum(grad_D, axis=0), mask=in_d & (k == 0))
        tl.debug_barrier()  # the way back reads grad_u where the way out wrote it


# --- the operator ---


def triton_scan(
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    softplus: bool,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan maps in K directions and add the K outputs and u * D up.

    Args:
        u: (B, *S, D).
        dt: (B, *S, K, D), the step sizes before `dt_bias` and, with `softplus`, softplus; with `weight`
            (B, *S, K, R). K is 2 for each axis, or 1: forwards only.
        B: (B, *S, K, N).
        C: (B, *S, K, N).
        A: (K, D, N).
        D: (D,).
        dt_bias: (K, D).
        weight: (K, D, R), by which dt is multiplied, in either pass anew: the whole of it is not kept in between.

    Returns:
        y (B, *S, D) and the last states (B, K, D, N), float64 if u is, else float32. Differentiable for every input,
        through both.
    """
    inputs = (u, dt, B, C, A, D, dt_bias, weight)
    keep_states = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    y, last, _ = _forward(*inputs, softplus, keep_states)
    return y, last.transpose(2, 3)


def _segment_steps(u: Tensor) -> int:
    """Steps per segment, as many as leave enough programs. A function of u's shape, which may be symbolic, alone."""
    batch, *shape, channels = u.shape
    segments = -(-TARGET_PROGRAMS // (max(batch, 1) * -(-channels // MAX_BLOCK_D)))
    return -(-prod(shape) // (segments * MIN_SEGMENT)) * MIN_SEGMENT


def _segments(u: Tensor) -> int:
    return -(-prod(u.shape[1:-1]) // _segment_steps(u))


def _paths(u: Tensor, A: Tensor) -> tuple[int, int]:
    """Launches and ways per launch: direction `path + launches * way` is met in launch `path`."""
    axes = u.ndim - 2
    return axes, A.shape[0] // axes


def _sizes(u: Tensor, A: Tensor, tile: int, state_elements: int) -> dict[str, int]:
    """The kernels' arguments that depend on shapes."""
    _, *shape, channels = u.shape
    N = A.shape[2]
    block_n = triton.next_power_of_2(N)
    block_d = max(min(triton.next_power_of_2(channels), state_elements // block_n, MAX_BLOCK_D), 4)
    return {
        "length": prod(shape),
        "channels": channels,
        "blocks": triton.cdiv(channels, block_d),
        "segments": _segments(u),
        "segment_steps": _segment_steps(u),
        "PATHS": len(shape),
        "TILE": tile,
        "N": N,
        "BLOCK_N": block_n,
        "BLOCK_D": block_d,
        "num_warps": 1,
    }


def _walks(u: Tensor) -> list[dict[str, int]]:
    """The kernels' arguments that are each path's own."""
    return [
        {"PATH": path, "extent": extent, "inner": inner} for path, (extent, inner) in enumerate(paths(u.shape[1:-1]))
    ]


def _pointer(name: str, x: Tensor, axes: int) -> dict[str, Tensor | int]:
    """Kernel arguments of an input (B, *S, ..., X): the tensor and its strides by image, pixel (and direction)."""
    x = x.flatten(1, axes)  # a copy only where rows do not follow each other evenly
    x = x if x.stride(-1) == 1 else x.contiguous()
    return {f"{name}_ptr": x} | {f"{name}_{axis}": x.stride(i) for i, axis in enumerate("bpk"[: x.ndim - 1])}


def _parameters(A: Tensor, dt_bias: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """A as (K, N, D), and finite from below: steps past a segment's end have delta = 0, and 0 times -inf is NaN."""
    A = A.to(dtype).clamp(min=torch.finfo(dtype).min).transpose(1, 2).contiguous()
    return {"A_ptr": A, "bias_ptr": dt_bias.to(dtype).contiguous()}


def _carry(
    states: Tensor, totals: Tensor, initial: Tensor, A: Tensor, walk: dict[str, int], axes: int, adjoint: bool
) -> None:
    batch, ways, segments, N, channels = states.shape
    _carry_kernel[(batch * ways, triton.cdiv(N * channels, 128))](
        states, totals, initial, A, channels, segments,
        PATH=walk["PATH"], PATHS=axes, WAYS=ways, ADJOINT=adjoint, TILE=8, N=N, BLOCK=128, num_warps=1,
    )  # fmt: skip


@torch.library.custom_op("mamba_unet::triton_scan", mutates_args=())
def _forward(
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    weight: Tensor | None,
    softplus: bool,
    keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, *S, D), last states (B, K, N, D) and, if to be kept, the states that enter the segments."""
    y, last, states = _forward_outputs(u, A, keep_states=True)
    if u.numel() == 0:
        return y, last, states
    dt = dt if weight is None else multiply_out(dt, weight)
    axes, ways = _paths(u, A)
    sizes = _sizes(u, A, FORWARD_TILE, STATE)
    programs = u.shape[0] * sizes["segments"] * sizes["blocks"]
    inputs = _pointer("u", u, axes) | _pointer("dt", dt, axes) | _pointer("B", B, axes)
    inputs |= _parameters(A, dt_bias, y.dtype)
    totals = y.new_empty(u.shape[0], ways, sizes["segments"], u.shape[-1])
    D = D.to(y.dtype).contiguous()
    with torch.cuda.device_of(u):
        for path, walk in enumerate(_walks(u)):
            if sizes["segments"] == 1:
                states[path].zero_()
            else:
                _segment_kernel[(programs, ways)](
                    **inputs, **walk, states_ptr=states[path], totals_ptr=totals, SOFTPLUS=softplus, **sizes
                )
                initial = torch.zeros_like(states[path, :, :, 0])
                _carry(states[path], totals, initial, inputs["A_ptr"], walk, axes, adjoint=False)
            _scan_kernel[(programs,)](
                **inputs, **_pointer("C", C, axes), **walk, D_ptr=D, states_ptr=states[path], y_ptr=y, last_ptr=last,
                directions=A.shape[0], WAYS=ways, SOFTPLUS=softplus, **sizes,
            )  # fmt: skip
    return y, last, states if keep_states else y.new_empty(0)


def _forward_outputs(u: Tensor, A: Tensor, keep_states: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, channels = u.shape[0], u.shape[-1]
    directions, _, state_size = A.shape
    axes, ways = _paths(u, A)
    dtype = compute_dtype(u)
    states = (axes, batch, ways, _segments(u), state_size, channels) if keep_states else (0,)
    return (
        u.new_empty(u.shape, dtype=dtype),
        u.new_empty((batch, directions, state_size, channels), dtype=dtype),
        u.new_empty(states, dtype=dtype),
    )


@_forward.register_fake
def _(u, dt, B, C, A, D, dt_bias, weight, softplus, keep_states):
    return _forward_outputs(u, A, keep_states)


@torch.library.custom_op("mamba_unet::triton_scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    grad_last: Tensor,
    u: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    weight: Tensor | None,
    states: Tensor,
    softplus: bool,
) -> list[Tensor]:
    """The gradients of the tensors in their order, that of `weight` only if there is one."""
    low, dt = dt, dt if weight is None else multiply_out(dt, weight)
    batch, *shape, channels = u.shape
    directions, _, state_size = A.shape
    axes, ways = _paths(u, A)
    sweep_sizes, sizes = _sizes(u, A, BACKWARD_TILE, STATE), _sizes(u, A, BACKWARD_TILE, BACKWARD_STATE)
    segments, tiles = sizes["segments"], sizes["segment_steps"] // BACKWARD_TILE
    require_states(states, axes * batch * ways * segments * state_size * channels)

    grad_u = states.new_empty(u.shape)
    grad_dt = dt.new_empty(dt.shape)
    # one part per block of channels, or per image and segment
    grad_B = states.new_empty(batch, *shape, directions, sizes["blocks"], state_size)
    grad_C = states.new_empty(batch, *shape, directions, sweep_sizes["blocks"], state_size)
    grad_A = states.new_empty(axes, batch, ways, segments, state_size, channels)
    grad_bias = states.new_empty(axes, batch, ways, segments, channels)
    grad_D = states.new_empty(batch, segments, channels)
    if u.numel() > 0:
        tile_states = states.new_empty(batch, ways, segments, tiles, state_size, channels)
        grad_states = states.new_empty(batch, ways, segments, state_size, channels)
        totals = states.new_empty(batch, ways, segments, channels)
        inputs = {}
        for name, x in (("u", u), ("dt", dt), ("B", B), ("C", C)):
            inputs |= _pointer(name, x, axes)
        inputs |= _parameters(A, dt_bias, states.dtype) | {"grad_y_ptr": grad_y.contiguous(), "directions": directions}
        grad_last = grad_last.unflatten(1, (ways, axes)).movedim(2, 0).contiguous()
        D = D.to(states.dtype).contiguous()
        with torch.cuda.device_of(u):
            for path, walk in enumerate(_walks(u)):
                _sweep_kernel[(batch * segments * sweep_sizes["blocks"], ways)](
                    **inputs, **walk, states_ptr=states[path], tile_states_ptr=tile_states,
                    grad_states_ptr=grad_states, totals_ptr=totals, grad_C_ptr=grad_C, SOFTPLUS=softplus,
                    **sweep_sizes,
                )  # fmt: skip
                _carry(grad_states, totals, grad_last[path], inputs["A_ptr"], walk, axes, adjoint=True)
                _backward_kernel[(batch * segments * sizes["blocks"],)](
                    **inputs, **walk, D_ptr=D, tile_states_ptr=tile_states, grad_states_ptr=grad_states,
                    grad_u_ptr=grad_u, grad_dt_ptr=grad_dt, grad_B_ptr=grad_B, grad_A_ptr=grad_A[path],
                    grad_bias_ptr=grad_bias[path], grad_D_ptr=grad_D, WAYS=ways, SOFTPLUS=softplus, **sizes,
                )  # fmt: skip

    def by_direction(x: Tensor) -> Tensor:
        """(paths, B, ways, segments, ...) -> (K, ...), summed"""
        return x.sum((1, 3)).transpose(0, 1).flatten(0, 1)

    gradients = [
        grad_u.to(u.dtype),
        grad_dt,
        grad_B.sum(-2).to(B.dtype),
        grad_C.sum(-2).to(C.dtype),
        by_direction(grad_A).transpose(1, 2).to(A.dtype).contiguous(),
        grad_D.sum((0, 1)).to(D.dtype),
        by_direction(grad_bias).to(dt_bias.dtype),
    ]
    if weight is not None:
        gradients[1], grad_weight = low_rank_gradients(grad_dt, low, weight)
        gradients.append(grad_weight)
    return gradients


@_backward.register_fake
def _(grad_y, grad_last, u, dt, B, C, A, D, dt_bias, weight, states, softplus):
    return [x.new_empty(x.shape) for x in (u, dt, B, C, A, D, dt_bias, weight) if x is not None]


def _setup(ctx, inputs, output):
    *tensors, softplus, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.softplus = softplus


def _differentiate(ctx, grad_y, grad_last, _):
    gradients = _backward(grad_y, grad_last, *ctx.saved_tensors, ctx.softplus)
    grad_weight = gradients[7] if len(gradients) > 7 else None
    return *gradients[:7], grad_weight, None, None


_forward.register_autograd(_differentiate, setup_context=_setup)
