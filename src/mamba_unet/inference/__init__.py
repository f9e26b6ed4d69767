"""Trained networks on new images: tiles through networks, an image to its segmentation, many images to files."""

from mamba_unet.inference.pipeline import predict_files
from mamba_unet.inference.predictor import Predictor, choose_device
from mamba_unet.inference.segmentation import Segmentation

__all__ = ["Predictor", "Segmentation", "choose_device", "predict_files"]
