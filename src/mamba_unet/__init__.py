"""Mamba-UNet: a U-Net of Visual Mamba blocks for medical image segmentation (arXiv 2402.05079)."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {  # name -> module; imported on first use, so that `import mamba_unet` and `mamba-unet --help` stay instant
    "MambaUNet": "mamba_unet.models",
    "Predictor": "mamba_unet.inference",
    "build_model": "mamba_unet.models",
    "list_models": "mamba_unet.models",
}
_SUBMODULES = {
    "metrics": "mamba_unet.evaluation.metrics",
    "models": "mamba_unet.models",
    "ops": "mamba_unet.ops",  # `mamba_unet.ops.use_backend(...)` without an import of its own
}
__all__ = ["MambaUNet", "Predictor", "__version__", "build_model", "list_models", "metrics", "models", "ops"]

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor
    from mamba_unet.models import MambaUNet, build_model, list_models


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(_SUBMODULES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
