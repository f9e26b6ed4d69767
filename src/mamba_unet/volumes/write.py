"""A result per voxel, back in the exact geometry of the scan it was made from.

T frames, K classes, D H W array axes as stored; X Y Z the same axes as NIfTI counts them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.files import atomic_path
from mamba_unet.volumes.volume import Volume


def save_nifti(
    path: str | Path,
    scan: Volume,
    array: np.ndarray,
    dtype: type[np.generic] = np.uint8,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write `to_nibabel(...)` to `path` (.nii.gz or .nii), atomically."""
    import nibabel as nib

    image = to_nibabel(scan, array, dtype, class_names)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def to_nibabel(
    scan: Volume, array: np.ndarray, dtype: type[np.generic] = np.uint8, class_names: Sequence[str] | None = None
) -> Any:
    """A nibabel image of a result, in the place of the scan.

    For a scan that was NIfTI: its stored shape, its affine and the rest of its header as they were, NIfTI-2 kept. For
    others: their affine; else their spacing from the origin; else the identity, in voxels.

    Args:
        scan: what the result was made from.
        array: (T, D, H, W), stored as the scan is; or per class (T, K, D, H, W), stored (X, Y, Z, K), or
            (X, Y, Z, T, K) for more than one frame.
        dtype: to store.
        class_names: the first is background; kept in a header extension as JSON, {"labels": {"0": ...}}.

    Raises:
        ValueError: the array is not of the scan's shape.
    """
    import nibabel as nib

    frames, *frame = scan.array.shape
    if array.ndim not in (4, 5) or array.shape[0] != frames or list(array.shape[-3:]) != frame:
        raise ValueError(f"{scan.name}: array of shape {array.shape} for a scan of shape {scan.array.shape}")
    per_class = array.ndim == 5
    stored = np.moveaxis(array, 1, 0).T if per_class else array.T  # X Y Z T [K]
    if per_class:
        stored = stored if frames > 1 else stored[..., 0, :]
    elif scan.stored_shape is not None:
        stored = stored.reshape(scan.stored_shape)
    elif frames == 1:
        stored = stored[..., 0]
    stored = stored.astype(dtype, copy=False)

    if scan.header is not None:
        kind = nib.Nifti2Image if isinstance(scan.header, nib.Nifti2Header) else nib.Nifti1Image
        image = kind(stored, scan.header.get_best_affine(), scan.header, dtype=dtype)
        if per_class and frames == 1:
            image.header.set_zooms((*image.header.get_zooms()[:3], 1.0))  # classes, where it may have had time
    else:
        affine, code = scan.affine, "scanner"
        if affine is None:
            affine, code = np.diag([*(scan.spacing_mm or (1.0, 1.0, 1.0))[::-1], 1.0]), "aligned"
        image = nib.Nifti1Image(stored, affine, dtype=dtype)
        image.set_sform(affine, code)
        image.set_qform(affine, code)
        image.header.set_xyzt_units("unknown" if scan.spacing_mm is None else "mm")
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header["descrip"] = b"by mamba-unet"
    if class_names is not None:
        names = json.dumps({"labels": dict(enumerate(class_names))}).encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", names))
    return image
