"""Networks and their sizes by name: the one place that holds them."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mamba_unet.models.mamba_unet import MambaUNet

MODELS: Mapping[str, Callable[..., nn.Module]] = {"mamba_unet": MambaUNet}

SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"depths": (2, 2, 2, 2), "dims": (96, 192, 384, 768)},  # the paper's
    "tiny-d9": {"depths": (2, 2, 9, 2), "dims": (96, 192, 384, 768)},  # every block of VMamba-Tiny
    "mini": {"depths": (2, 2, 2, 2), "dims": (48, 96, 192, 384)},  # trains on a CPU
    "micro": {"depths": (1, 1, 1, 1), "dims": (32, 64, 128, 256)},  # the demo's
    "nano": {"depths": (1, 1, 1), "dims": (16, 32, 64), "d_state": 4},  # for tests
}


def list_models() -> list[str]:
    """Names that `build_model` takes."""
    return sorted(MODELS)


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
        size: a name of `SIZES`; None is the network's own default.
        sizes: constructor arguments, which win over `size`.

    Raises:
        ValueError: unknown name or size, with the nearest known one.
    """
    config = resolve_config(size, sizes)
    return _lookup(MODELS, name, "model")(in_channels=in_channels, num_classes=num_classes, **config)


def resolve_config(size: str | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a size by name, overridden by `arguments`; a ValueError names an unknown size."""
    return {**({} if size is None else _lookup(SIZES, size, "size")), **arguments}
