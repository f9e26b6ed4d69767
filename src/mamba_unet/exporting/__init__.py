"""Trained networks as files of other programs: ONNX, torch.export, a MONAI bundle. The way in is `export_model`."""

from mamba_unet.exporting.run import FORMATS, Exported, export_model

__all__ = ["FORMATS", "Exported", "export_model"]
