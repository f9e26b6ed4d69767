"""Trained networks on new scans: slices through networks, a scan to its segmentation, many scans to files."""

from mamba_unet.inference.pipeline import predict_files
from mamba_unet.inference.predictor import Predictor, Segmentation, choose_device
from mamba_unet.inference.scores import predict_volume

__all__ = ["Predictor", "Segmentation", "choose_device", "predict_files", "predict_volume"]
