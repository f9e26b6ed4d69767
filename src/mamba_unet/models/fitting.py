"""A checkpoint's values for a network of other sizes, channels or axes than those it was made for."""

import math

import torch
from torch import Tensor, nn

from mamba_unet.models.layers import PatchExpand, PatchMerging
from mamba_unet.models.resolution import resize_grid
from mamba_unet.models.ss2d import SS2D


def resized(name: str, value: Tensor, parameter: Tensor) -> Tensor:
    """A checkpoint's value for a network of other sizes than the checkpoint's, where one follows from the other.

    Position embeddings and tables of relative position biases are interpolated.
    """
    if name.endswith("position_embeddings") and value.shape[-1] == parameter.shape[-1]:
        side = math.isqrt(parameter.shape[1])
        return resize_grid(value, side, side)
    if name.endswith("relative_position_bias_table") and value.shape[-1] == parameter.shape[-1]:
        side = math.isqrt(parameter.shape[0])
        return resize_grid(value[None], side, side)[0]
    return value


def for_channels(filters: Tensor, channels: int) -> Tensor:
    """Filters (out, m, *kernel) of a first convolution for another number of input channels.

    Every channel gets the sum over the m channels, divided by their new number: an image whose channels are all alike
    is answered as before, unless the layer standardises its filters, as TransUNet's does. For one channel that is the
    sum.
    """
    return (filters.sum(dim=1, keepdim=True) / channels).repeat(1, channels, *[1] * (filters.ndim - 2))


def first_convolution(model: nn.Module) -> str | None:
    """The name of the filters that see the image."""
    names = (name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
    return next((f"{name}.weight" for name in names), None)


def inflated(model: nn.Module, name: str, value: Tensor, parameter: Tensor) -> Tensor:
    """A value of a network for images in the shape that the same network for volumes has; as it is where none follows.

    At the start the network answers the slices of a volume as it answered images, as far as its layers allow. Where no
    stage shrinks depth, a volume of one slice gets the very logits of the image:

    - A convolution stands in the middle of the new filter, whose other slices are zero. Where a filter covers
      neighbouring slices once (patches, merging) each gets its share; where it makes slices (transposed, expanding)
      each is made alike.
    - The walks along rows and columns are those of the image. The walks along depth take their steps, decays and input
      from the walks along rows, and start with nothing to read out: the rows that give C, and D, are zero.
    """
    owner, _, leaf = name.rpartition(".")
    module, parent = model.get_submodule(owner), model.get_submodule(owner.rpartition(".")[0])
    match module, parent:
        case ((nn.Conv3d() | nn.ConvTranspose3d()), _) if value.ndim == 4:
            return _inflated_filters(module, value)
        case SS2D(), _:
            return _inflated_walks(module, leaf, value)
        case _, PatchMerging(scale=(depth, *plane)) if value.shape[-1] * depth == parameter.shape[-1]:
            joined = value.unflatten(-1, (math.prod(plane), 1, -1)).expand(*[-1] * value.ndim, depth, -1)
            return joined.flatten(-3) / (depth if leaf == "weight" and value.ndim == 2 else 1)
        case _, PatchExpand(scale=(depth, *_)) if value.ndim == 2:
            return value.repeat(depth, 1)
    return value


def _inflated_filters(module: nn.Conv3d | nn.ConvTranspose3d, value: Tensor) -> Tensor:
    """(out, in, h, w) -> (out, in, d, h, w)"""
    depth = module.kernel_size[0]
    if isinstance(module, nn.ConvTranspose3d):
        return value.unsqueeze(2).repeat(1, 1, depth, 1, 1)
    if module.stride[0] == depth:
        return value.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth
    filters = value.new_zeros(*value.shape[:2], depth, *value.shape[2:])
    filters[:, :, depth // 2] = value
    return filters


def _inflated_walks(module: SS2D, leaf: str, value: Tensor) -> Tensor:
    """Parameters of four walks (row, column and both backwards) for six, with depth behind the column."""
    if value.shape[0] % 4:
        return value
    rows, columns, rows_back, columns_back = value.unflatten(0, (4, -1)).unbind(0)
    depth, depth_back = rows.clone(), rows_back.clone()
    for walk in (depth, depth_back):
        if leaf == "Ds":
            walk.zero_()
        elif leaf == "x_proj_weight":
            walk[:, -module.d_state :] = 0
    return torch.stack((rows, columns, depth, rows_back, columns_back, depth_back)).flatten(0, 1)
