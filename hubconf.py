"""Networks for torch.hub: those of the registry by their names, and `trained`, with its weights.

    torch.hub.load("path/to/this/repository", "mamba_unet", source="local", in_channels=1, num_classes=4)
    torch.hub.load("path/to/this/repository", "trained", source="local", checkpoint="acdc")

`torch.hub.list` names them all. Where the package is not installed, the one beside this file is taken.
"""

import sys as _sys
from importlib.util import find_spec as _find_spec
from pathlib import Path as _Path

if _find_spec("mamba_unet") is None:
    _sys.path.append(str(_Path(__file__).resolve().parent / "src"))

from mamba_unet.models.loading import load as _load
from mamba_unet.models.registry import MODELS as _MODELS
from mamba_unet.models.registry import build_model as _build_model

dependencies = ["torch", "numpy", "safetensors", "huggingface_hub"]


def trained(checkpoint):
    """A trained network in eval mode: a run folder, a .safetensors file, hf:owner/name, or `acdc`; see `.metadata`."""
    return _load(checkpoint)


def _entry(name):
    def build(in_channels=1, num_classes=4, size=None, **arguments):
        return _build_model(name, in_channels, num_classes, size=size, **arguments)

    build.__doc__ = f"{name} with random weights: (B, in_channels, H, W) -> logits (B, num_classes, H, W)."
    return build


globals().update({_name: _entry(_name) for _name in _MODELS})
