"""The report of a run: figures and one HTML page."""

from mamba_unet.report.page import write_report

__all__ = ["write_report"]
