"""The selective scan of Mamba and its four-direction form for images (SS2D). Imports torch and nothing else."""

from mamba_unet.ops.backends import BackendStatus, backend_status, use_backend
from mamba_unet.ops.selective_scan.api import selective_scan
from mamba_unet.ops.ss2d_scan.api import ss2d_scan

__all__ = ["BackendStatus", "backend_status", "selective_scan", "ss2d_scan", "use_backend"]
