"""A result per voxel, back in the exact geometry of the image it was made from.

T frames, K classes, D H W array axes as stored; X Y Z the same axes as NIfTI counts them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.files import atomic_path
from mamba_unet.volumes.formats import NIFTI, ending
from mamba_unet.volumes.volume import Volume

NIFTI1_LONGEST = 32767  # voxels along an axis


def save_nifti(
    path: str | Path,
    volume: Volume,
    array: np.ndarray,
    dtype: type[np.generic] = np.uint8,
    class_names: Sequence[str] | None = None,
) -> None:
    """Write `to_nibabel(...)` to `path` (.nii.gz or .nii), atomically.

    Raises:
        ValueError: another ending; see `to_nibabel`.
    """
    if not ending(Path(path), NIFTI):
        raise ValueError(
            f"{path}: expected a name that ends in .nii.gz or .nii; for other formats take to_sitk() and "
            "SimpleITK.WriteImage"
        )
    import nibabel as nib

    image = to_nibabel(volume, array, dtype, class_names)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def to_nibabel(
    volume: Volume, array: np.ndarray, dtype: type[np.generic] = np.uint8, class_names: Sequence[str] | None = None
) -> Any:
    """A nibabel image of a result, in the place of the volume.

    For an image that was NIfTI: its stored shape, its affine and the rest of its header as they were, NIfTI-2 kept. For
    others: their affine; else their spacing from the origin; else the identity, in voxels.

    Args:
        volume: what the result was made from.
        array: (T, D, H, W), stored as the image is; or per class (T, K, D, H, W), stored (X, Y, Z, K), or
            (X, Y, Z, T, K) for more than one frame.
        dtype: to store.
        class_names: the first is background; kept in a header extension as JSON, {"labels": {"0": ...}}.

    Raises:
        ValueError: the array is not of the volume's shape.
    """
    import nibabel as nib

    frames, frame = volume.frames, list(volume.shape)
    if array.ndim not in (4, 5) or array.shape[0] != frames or list(array.shape[-3:]) != frame:
        raise ValueError(f"{volume.name}: array of shape {array.shape} for an image of shape {(frames, *frame)}")
    per_class = array.ndim == 5
    stored = np.moveaxis(array, 1, 0).T if per_class else array.T  # X Y Z T [K]
    if per_class:
        stored = stored if frames > 1 else stored[..., 0, :]
    elif volume.stored_shape is not None:
        stored = stored.reshape(volume.stored_shape)
    elif frames == 1:
        stored = stored[..., 0]
    stored = stored.astype(dtype, copy=False)

    if volume.header is not None:
        kind = nib.Nifti2Image if isinstance(volume.header, nib.Nifti2Header) else nib.Nifti1Image
        image = kind(stored, volume.header.get_best_affine(), volume.header, dtype=dtype)
        if per_class and frames == 1:
            image.header.set_zooms((*image.header.get_zooms()[:3], 1.0))  # classes, where it may have had time
    else:
        affine, code = volume.affine, "scanner"
        if affine is None:
            affine, code = np.diag([*(volume.spacing_mm or (1.0, 1.0, 1.0))[::-1], 1.0]), "aligned"
        kind = nib.Nifti1Image if max(stored.shape) <= NIFTI1_LONGEST else nib.Nifti2Image
        image = kind(stored, affine, dtype=dtype)
        image.set_sform(affine, code)
        image.set_qform(affine, code)
        image.header.set_xyzt_units("unknown" if volume.spacing_mm is None else "mm")
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header["descrip"] = b"by mamba-unet"
    if class_names is not None:
        names = json.dumps({"labels": dict(enumerate(class_names))}).encode()
        for stale in [one for one in image.header.extensions if _names_classes(one)]:  # of an image made from a result
            image.header.extensions.remove(stale)
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", names))
    return image


def stored_class_names(header: Any) -> list[str] | None:
    """The class names that `save_nifti` put into a NIfTI header, of several the last; None where there are none."""
    for extension in reversed(header.extensions if header is not None else ()):
        if (labels := _names_classes(extension)) is not None:
            return labels
    return None


def _names_classes(extension: Any) -> list[str] | None:
    try:
        labels = json.loads(extension.get_content())["labels"]
        return [labels[str(index)] for index in range(len(labels))]
    except (ValueError, TypeError, KeyError, AttributeError):  # another program's extension
        return None
