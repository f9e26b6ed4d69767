"""The selective scan of Mamba, and its form for maps of one to three axes. Imports torch and nothing else."""

from mamba_unet.ops.backends import BackendStatus, backend_status, use_backend
from mamba_unet.ops.cross_scan.api import cross_scan
from mamba_unet.ops.selective_scan.api import selective_scan

__all__ = ["BackendStatus", "backend_status", "cross_scan", "selective_scan", "use_backend"]
