"""Data: reading, checking, preparing, exporting, splitting, augmenting (numpy; torch only where a tensor is wanted)."""

from mamba_unet.data.case import Case
from mamba_unet.data.export import export
from mamba_unet.data.phantom import write_phantom
from mamba_unet.data.planning import plan
from mamba_unet.data.prepare import check, prepare
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.problems import BadDataError, CheckReport, Problem
from mamba_unet.data.readers import detect_layout
from mamba_unet.data.samples import Samples
from mamba_unet.data.scribble import write_scribbles
from mamba_unet.views.intensity import normalise_intensity

__all__ = [
    "BadDataError",
    "Case",
    "CheckReport",
    "PreparedDataset",
    "Problem",
    "Samples",
    "check",
    "detect_layout",
    "export",
    "normalise_intensity",
    "plan",
    "prepare",
    "write_phantom",
    "write_scribbles",
]
