"""Networks and their sizes by name: the one place that holds them."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from mamba_unet.models.baselines.attention_unet import AttentionUNet
from mamba_unet.models.baselines.swin_unet import SwinUNet
from mamba_unet.models.baselines.transunet import TransUNet
from mamba_unet.models.baselines.unet import UNet
from mamba_unet.models.mamba_unet import MambaUNet

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "mamba_unet": MambaUNet,
    "mamba_unet_no_scan": partial(MambaUNet, scan="identity"),  # the controls
    "mamba_unet_dwconv": partial(MambaUNet, scan="dwconv"),
    "mamba_unet_fine": partial(MambaUNet, stem="conv"),  # sees fine detail; and its controls
    "mamba_unet_fine_no_scan": partial(MambaUNet, scan="identity", stem="conv"),
    "mamba_unet_fine_dwconv": partial(MambaUNet, scan="dwconv", stem="conv"),
    "unet": UNet,
    "attention_unet": AttentionUNet,
    "swin_unet": SwinUNet,
    "transunet": TransUNet,
}

# of Mamba-UNet and its controls
SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"depths": (2, 2, 2, 2), "dims": (96, 192, 384, 768)},  # the paper's
    "tiny-d9": {"depths": (2, 2, 9, 2), "dims": (96, 192, 384, 768)},  # every block of VMamba-Tiny
    "mini": {"depths": (2, 2, 2, 2), "dims": (48, 96, 192, 384)},  # trains on a CPU
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
}


def list_models() -> list[str]:
    """Names that `build_model` takes."""
    return sorted(MODELS)


def name_of(network: nn.Module) -> str:
    """The name of a network's class. A control has its base's, and tells by its arguments what it is."""
    return next(name for name, made in MODELS.items() if made is type(network))


def _lookup(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown {what} {name!r}, expected one of {', '.join(sorted(table))}.{hint}")
    return table[name]


def build_model(
    name: str = "mamba_unet", in_channels: int = 1, num_classes: int = 4, *, size: str | None = None, **sizes: Any
) -> nn.Module:
    """A network by name: (B, in_channels, H, W) -> logits (B, num_classes, H, W).

    Args:
        name: one of `list_models()`.
        in_channels: image channels.
        num_classes: classes including background.
        size: a name of `SIZES`, or of `BASELINE_SIZES[name]`; None is the network's own default.
        sizes: constructor arguments, which win over `size`.

    Raises:
        ValueError: unknown name or size, with the nearest known one.
    """
    network = _lookup(MODELS, name, "model")
    return network(in_channels=in_channels, num_classes=num_classes, **resolve_config(size, sizes, name))


def resolve_config(size: str | None, arguments: Mapping[str, Any], name: str = "mamba_unet") -> dict[str, Any]:
    """Constructor arguments of a network's size, overridden by `arguments`; a ValueError names an unknown size."""
    sizes = BASELINE_SIZES.get(name, SIZES)
    return {**({} if size is None else _lookup(sizes, size, f"size of {name}")), **arguments}
