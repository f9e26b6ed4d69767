"""Networks: Mamba-UNet and its parts, and the registry of names and sizes."""

from mamba_unet.models.mamba_unet import MambaUNet
from mamba_unet.models.registry import ModelSpec, build_model, list_models, model_spec
from mamba_unet.models.ss2d import SS2D
from mamba_unet.models.vss import VSSBlock

__all__ = ["SS2D", "MambaUNet", "ModelSpec", "VSSBlock", "build_model", "list_models", "model_spec"]
