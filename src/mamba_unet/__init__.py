"""Mamba-UNet: a U-Net of Visual Mamba blocks for medical image segmentation (arXiv 2402.05079)."""
