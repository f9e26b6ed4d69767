"""Trained networks on new images: tiles through networks, an image to its segmentation, many images to files."""

from mamba_unet.inference.pipeline import predict_files
from mamba_unet.inference.predictor import Predictor, Segmentation, choose_device

__all__ = ["Predictor", "Segmentation", "choose_device", "predict_files"]
