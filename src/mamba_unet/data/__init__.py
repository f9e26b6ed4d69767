"""Data: reading, checking, preparing, splitting and augmenting (numpy; torch only where a tensor is asked for)."""

from mamba_unet.data.case import Case
from mamba_unet.data.checks import BadDataError, CheckReport, Problem
from mamba_unet.data.intensity import normalise_intensity
from mamba_unet.data.phantom import write_phantom
from mamba_unet.data.prepare import check, prepare
from mamba_unet.data.prepared import PreparedDataset, SliceDataset
from mamba_unet.data.readers import detect_layout
from mamba_unet.data.transforms import Augmentation, resample_slice, sample_augmentation

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
    "normalise_intensity",
    "prepare",
    "resample_slice",
    "sample_augmentation",
    "write_phantom",
]
