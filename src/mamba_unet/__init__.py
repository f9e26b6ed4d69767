"""Mamba-UNet: a U-Net of Visual Mamba blocks for medical image segmentation (arXiv 2402.05079)."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {  # name -> module; imported on first use, so that `import mamba_unet` and `mamba-unet --help` stay instant
    "Conventions": "mamba_unet.evaluation.metrics",
    "MambaUNet": "mamba_unet.models",
    "Predictor": "mamba_unet.inference",
    "build_model": "mamba_unet.models",
    "check": "mamba_unet.data",
    "compare": "mamba_unet.api",
    "evaluate": "mamba_unet.api",
    "export_model": "mamba_unet.api",
    "list_models": "mamba_unet.models",
    "load": "mamba_unet.models.loading",
    "measure": "mamba_unet.api",
    "predict": "mamba_unet.api",
    "plan": "mamba_unet.data",
    "prepare": "mamba_unet.data",
    "train": "mamba_unet.training.train",
}
_SUBMODULES = {
    "metrics": "mamba_unet.evaluation.metrics",
    "data": "mamba_unet.data",
    "models": "mamba_unet.models",
    "ops": "mamba_unet.ops",  # `mamba_unet.ops.use_backend(...)` without an import of its own
}
__all__ = [
    "Conventions",
    "MambaUNet",
    "Predictor",
    "__version__",
    "build_model",
    "check",
    "compare",
    "evaluate",
    "export_model",
    "list_models",
    "load",
    "measure",
    "metrics",
    "models",
    "ops",
    "plan",
    "predict",
    "prepare",
    "train",
]

if TYPE_CHECKING:
    from mamba_unet.api import compare, evaluate, export_model, measure, predict
    from mamba_unet.data import check, plan, prepare
    from mamba_unet.evaluation.metrics import Conventions
    from mamba_unet.inference import Predictor
    from mamba_unet.models import MambaUNet, build_model, list_models
    from mamba_unet.models.loading import load
    from mamba_unet.training.train import train


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(_SUBMODULES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
