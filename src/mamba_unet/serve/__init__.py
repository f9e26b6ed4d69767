"""A local web page: drop a volume on it, look through its slices with the segmentation over them."""

from mamba_unet.serve.app import create_app

__all__ = ["create_app"]
