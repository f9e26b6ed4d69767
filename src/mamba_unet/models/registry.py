"""Networks and their sizes by name: the one place that holds them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mamba_unet.models.baselines.attention_unet import AttentionUNet
from mamba_unet.models.baselines.dyn_unet import DynUNet
from mamba_unet.models.baselines.swin_unet import SwinUNet
from mamba_unet.models.baselines.transunet import TransUNet
from mamba_unet.models.baselines.unet import UNet
from mamba_unet.models.mamba_unet import MambaUNet


@dataclass(frozen=True)
class ModelSpec:
    """What a name of the registry stands for.

    Attributes:
        network: its class.
        arguments: constructor arguments that make it this network, such as the kind of its scan.
        spatial_dims: 2 for images (B, C, H, W); 3 for volumes (B, C, D, H, W), and then the constructor takes `spacing`
            and `patch_size` of D, H, W as well.
    """

    network: type[nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    spatial_dims: int = 2


FINE, VOLUME = {"stem": "conv"}, {"stem": "conv", "spatial_dims": 3}
NO_SCAN, DWCONV = {"scan": "identity"}, {"scan": "dwconv"}  # the controls

MODELS: Mapping[str, ModelSpec] = {
    "mamba_unet": ModelSpec(MambaUNet),
    "mamba_unet_no_scan": ModelSpec(MambaUNet, NO_SCAN),
    "mamba_unet_dwconv": ModelSpec(MambaUNet, DWCONV),
    "mamba_unet_fine": ModelSpec(MambaUNet, FINE),  # sees fine detail
    "mamba_unet_fine_no_scan": ModelSpec(MambaUNet, FINE | NO_SCAN),
    "mamba_unet_fine_dwconv": ModelSpec(MambaUNet, FINE | DWCONV),
    "mamba_unet_3d": ModelSpec(MambaUNet, VOLUME, spatial_dims=3),
    "mamba_unet_3d_no_scan": ModelSpec(MambaUNet, VOLUME | NO_SCAN, spatial_dims=3),
    "mamba_unet_3d_dwconv": ModelSpec(MambaUNet, VOLUME | DWCONV, spatial_dims=3),
    "unet": ModelSpec(UNet),
    "attention_unet": ModelSpec(AttentionUNet),
    "swin_unet": ModelSpec(SwinUNet),
    "transunet": ModelSpec(TransUNet),
    "unet_3d": ModelSpec(DynUNet, spatial_dims=3),
}

# of Mamba-UNet and its controls
SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"depths": (2, 2, 2, 2), "dims": (96, 192, 384, 768)},  # the paper's
    "tiny-d9": {"depths": (2, 2, 9, 2), "dims": (96, 192, 384, 768)},  # every block of VMamba-Tiny
    "mini": {"depths": (2, 2, 2, 2), "dims": (48, 96, 192, 384)},  # half the width
    "mini-n1": {"depths": (2, 2, 2, 2), "dims": (48, 96, 192, 384), "d_state": 1},
    "mini-deep": {"depths": (2, 2, 2, 2), "dims": (48, 96, 192, 384), "d_state": 1, "scan_from": 2},  # trains on a CPU
    "micro": {"depths": (1, 1, 1, 1), "dims": (32, 64, 128, 256)},  # the demo's
    "nano": {"depths": (1, 1, 1), "dims": (16, 32, 64), "d_state": 4},  # for tests
}

# The baselines are built as published, which is their default, or for tests.
BASELINE_SIZES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "unet": {"nano": {"channels": (8, 16, 16, 32, 32)}},
    "attention_unet": {"nano": {"channels": (8, 16, 32)}},
    "swin_unet": {"nano": {"depths": (2, 2), "dims": (16, 32), "num_heads": (2, 4), "window_size": 3}},
    "transunet": {
        "nano": {
            "image_size": 32,
            "hidden_size": 32,
            "depth": 2,
            "num_heads": 2,
            "mlp_dim": 64,
            "resnet_width": 32,
            "resnet_units": (1, 2, 1),
            "decoder_channels": (32, 32, 16, 16, 8),
        }
    },
    "unet_3d": {"nano": {"channels": (8, 16, 32)}},
}


def list_models() -> list[str]:
    """Names that `build_model` takes."""
    return sorted(MODELS)


def model_spec(name: str) -> ModelSpec:
    """What a name stands for; a ValueError names the nearest known one."""
    return _lookup(MODELS, name, "model")


def name_of(network: nn.Module) -> str:
    """The first name of a network's class and number of axes. A control has its base's, and its arguments tell."""
    axes = getattr(network, "spatial_dims", 2)
    for name, spec in MODELS.items():
        if (spec.network, spec.spatial_dims) == (type(network), axes):
            return name
    raise ValueError(
        f"{type(network).__name__} is no network of the registry, so nothing could build it from a file again; "
        "save its weights without class_names and preprocessing"
    )


def _lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {what} {name!r}, expected one of {', '.join(sorted(table))}.{hint}")
    return table[name]


def build_model(
    name: str = "mamba_unet", in_channels: int = 1, num_classes: int = 4, *, size: str | None = None, **sizes: Any
) -> nn.Module:
    """A network by name: (B, in_channels, *S) -> logits (B, num_classes, *S), S being H, W or, in 3D, D, H, W.

    Args:
        name: one of `list_models()`.
        in_channels: image channels.
        num_classes: classes including background.
        size: a name of `SIZES`, or of `BASELINE_SIZES[name]`; None is the network's own default.
        sizes: constructor arguments, which win over `size`; in 3D also `spacing` and `patch_size`.

    Raises:
        ValueError: unknown name or size, with the nearest known one.
    """
    arguments = resolve_config(size, sizes, name)
    return model_spec(name).network(in_channels=in_channels, num_classes=num_classes, **arguments)


def resolve_config(size: str | None, arguments: Mapping[str, Any], name: str = "mamba_unet") -> dict[str, Any]:
    """Constructor arguments of a network of a size, overridden by `arguments`; a ValueError names what is unknown."""
    sizes, own = BASELINE_SIZES.get(name, SIZES), model_spec(name).arguments
    return {**own, **({} if size is None else _lookup(sizes, size, f"size of {name}")), **arguments}
