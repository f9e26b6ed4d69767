"""NIfTI: voxels, colours, and an affine whose sizes are right even where a header contradicts itself."""

from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.volumes.formats import Kind, UnreadableError
from mamba_unet.volumes.volume import Volume, native

SIZES_AGREE = 0.01  # relative: headers hold sizes and affine as float32, some rounded to few decimals
COLOURS = (("R", "G", "B"), ("R", "G", "B", "A"))


def read_nifti_file(path: Path, kind: Kind, name: str) -> Volume:
    import nibabel as nib

    # a unit quaternion whose parts were rounded one by one may be a little too long; nibabel allows less than happens
    nib.Nifti1Header.quaternion_threshold = min(nib.Nifti1Header.quaternion_threshold, -1e-5)
    return read_nifti(nib.load(path, mmap=False), path, name)


def read_nifti(image: Any, file: Path, name: str) -> Volume:
    """The volume of a nibabel image; its voxels are loaded here, scaled by slope and intercept.

    Axes stay in stored order. A fourth axis is time, a fifth, or RGB pixels, are channels. Lengths come in millimetres
    (a header may count in metres or microns).

    Args:
        image: of nibabel.
        file: what errors name.
        name: of the volume.

    Raises:
        UnreadableError: other axes than these, complex numbers, a singular affine.
    """
    from nibabel.nifti1 import Nifti1Header

    dtype, shape = image.get_data_dtype(), image.shape
    colours = dtype.names in COLOURS
    axes = [*shape, *[1] * (5 - len(shape))]
    if not 2 <= len(shape) <= 7 or 0 in shape or any(size > 1 for size in axes[5:]) or (colours and axes[4] > 1):
        raise UnreadableError(
            file, f"shape {shape}: expected a 3D volume, frames of it over a fourth axis, channels over a fifth"
        )
    if dtype.kind not in "biuf" and not colours:
        raise UnreadableError(file, f"type {dtype}: expected one real number per voxel, or RGB colours")
    affine, notes = _affine(image, file)
    stored = np.asanyarray(image.dataobj)
    if colours:
        array = np.stack([stored[colour] for colour in "RGB"], axis=-1).reshape(*axes[:4], 3)
    else:
        array = stored.reshape(axes[:5])
    return Volume(
        name,
        native(np.moveaxis(array.T, 0, 1)),  # (C, T, Z, Y, X) -> (T, C, D, H, W)
        affine,
        source=file,
        header=image.header if isinstance(image.header, Nifti1Header) else None,
        stored_shape=shape[:4] if axes[4] > 1 else shape,
        notes=notes,
    )


def _affine(image: Any, file: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(4, 4) of (X, Y, Z) to millimetres, and remarks.

    Where sform and pixdim give different voxel sizes, pixdim is right: so do ITK and nnU-Net read it, and the files of
    ACDC, whose sform is a diagonal of ones, mean it so.
    """
    from nibabel.nifti1 import Nifti1Header

    header, notes = image.header, ()
    affine = header.get_best_affine() if image.affine is None else np.array(image.affine, float)
    if isinstance(header, Nifti1Header):
        coded = int(header["qform_code"]) > 0
        if _singular(affine) and coded:
            affine = header.get_qform()
        zooms = np.array([*header.get_zooms()[:3], 1.0, 1.0][:3], float)
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        usable = np.isfinite(zooms).all() and (zooms > 0).all() and (sizes > 0).all()
        if usable and np.abs(sizes / zooms - 1).max() > SIZES_AGREE:
            said = [" x ".join(f"{size:.4g}" for size in values) for values in (sizes, zooms)]
            notes = (
                f"the header contradicts itself: voxels of {said[0]} by its affine (sform), of {said[1]} by its sizes "
                "(pixdim); the sizes are taken. Save the file again with one of them corrected",
            )
            affine = header.get_qform() if coded else affine @ np.diag([*(zooms / sizes), 1.0])
        to_mm = {1: 1e3, 3: 1e-3}.get(int(header["xyzt_units"]) % 8, 1)  # codes 1 metre, 2 mm, 3 micron
        affine = np.diag([to_mm, to_mm, to_mm, 1]) @ affine
    if _singular(affine):
        raise UnreadableError(file, "its affine is singular: voxel size or direction is lost")
    return affine, notes


def _singular(affine: np.ndarray) -> bool:
    axes = affine[:3, :3]
    if not np.isfinite(affine).all():
        return True
    return abs(np.linalg.det(axes)) <= 1e-9 * np.prod(np.linalg.norm(axes, axis=0))
