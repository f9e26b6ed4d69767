"""Data: reading, checking, preparing, exporting, splitting, augmenting (numpy; torch only where a tensor is wanted)."""

from mamba_unet.data.case import Case
from mamba_unet.data.export import export
from mamba_unet.data.phantom import write_phantom
from mamba_unet.data.prepare import check, prepare
from mamba_unet.data.prepared import PreparedDataset, SliceDataset
from mamba_unet.data.problems import BadDataError, CheckReport, Problem
from mamba_unet.data.readers import detect_layout
from mamba_unet.views.intensity import normalise_intensity
from mamba_unet.views.slices import Augmentation, resample_slice, sample_augmentation

__all__ = [
    "Augmentation",
    "BadDataError",
    "Case",
    "CheckReport",
    "PreparedDataset",
    "Problem",
    "SliceDataset",
    "check",
    "detect_layout",
    "export",
    "normalise_intensity",
    "prepare",
    "resample_slice",
    "sample_augmentation",
    "write_phantom",
]
