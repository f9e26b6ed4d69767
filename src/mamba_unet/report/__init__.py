"""What a run gave, to look at: figures and one self-contained HTML page."""

from mamba_unet.report.page import write_report

__all__ = ["write_report"]
