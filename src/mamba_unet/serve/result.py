"""What the page shows and gives out of a volume and its segmentation: files in a job's folder, facts for its JSON.

T frames, C channels, D H W array axes as stored, X Y Z the same axes as NIfTI counts them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.serve.window import windows
from mamba_unet.volumes.geometry import PLANES, SLICE_AXES, axis_codes, slice_axis
from mamba_unet.volumes.volume import Volume

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor, Segmentation

IMAGE, LABEL, DOUBT = "image.nii.gz", "label.nii.gz", "doubt.nii.gz"  # for the viewer; doubt in per cent
SEGMENTATION, DICOM_SEG, UNCERTAINTY, STATISTICS, CARDIAC = TAKEN = (
    "segmentation.nii.gz",
    "segmentation.dcm",
    "uncertainty.nii.gz",
    "statistics.csv",
    "cardiac.csv",
)  # to take away
FILES = (IMAGE, LABEL, DOUBT, *TAKEN)

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])  # NIfTI's
LARGEST = 2048  # voxels along an axis that browsers' graphics take, save the smallest


def write_image(folder: Path, volume: Volume, predictor: "Predictor", axis: str | None) -> dict[str, Any]:
    """Write the volume for the viewer, and say how it is to be shown.

    Args:
        folder: to write `image.nii.gz` to.
        volume: as read.
        predictor: whose training data say along which axis slices are cut, where the volume does not.
        axis: x, y or z, where somebody chose it.
    """
    across = slice_axis(volume, predictor.preprocessing.orientation) if axis is None else SLICE_AXES.index(axis)
    affine, array = viewer_affine(volume), viewer_array(volume)
    _save(folder / IMAGE, array, affine)
    color = array.dtype == RGB
    return {
        "frames": array.shape[0],
        "shape": array.shape[:0:-1],  # X Y Z, as the viewer counts
        "step": _steps(array)[::-1],  # 2 along an axis of X Y Z: every second of the stored voxels is shown
        "spacing_mm": volume.spacing_mm and volume.spacing_mm[::-1],
        "plane": PLANES[axis_codes(affine)[across]],
        "slice_axis": SLICE_AXES[across],
        "oriented": volume.orientation is not None,
        "dicom": volume.dicom is not None,
        "color": color,
        "windows": [] if color else windows(volume, array, predictor.preprocessing.intensity[0]),
    }


def write_result(folder: Path, segmentation: "Segmentation") -> dict[str, Any]:
    """Write a segmentation for the viewer and to take away, and measure it.

    Returns:
        `files`: what there is to take away; `focus`: the voxel to look at first, see `_focus`; `structures`: a row per
        frame and class; `cardiac`: the heart's measures of a cine, or None; `misfits`: in what image or answer are
        unlike those of the training; `notes`: on the file, and what could not be done, and why.
    """
    from mamba_unet.measures.cardiac import cardiac_cases, write_cardiac
    from mamba_unet.measures.statistics import CaseStatistics, write_statistics

    volume, labels = segmentation.volume, segmentation.labels
    for name in (DICOM_SEG, UNCERTAINTY, DOUBT, CARDIAC):
        (folder / name).unlink(missing_ok=True)  # of another model
    _save(folder / LABEL, labels, viewer_affine(volume))
    segmentation.save(folder / SEGMENTATION)
    if segmentation.uncertainty is not None:
        _save(folder / DOUBT, np.rint(100 * segmentation.uncertainty).astype(np.uint8), viewer_affine(volume))
        segmentation.save_uncertainty(folder / UNCERTAINTY)
    notes = [*volume.notes]
    if volume.dicom is not None:
        try:
            segmentation.save_dicom_seg(folder / DICOM_SEG)
        except ValueError as error:
            notes.append(f"No DICOM segmentation: {error}")
    names, axis = segmentation.class_names, segmentation.slice_axis
    case = CaseStatistics(volume.name, segmentation.statistics)
    write_statistics(folder / STATISTICS, [case])
    structures = [row | {"class_index": one.class_index} for row, one in zip(case.rows, case.structures, strict=True)]
    cardiac = None
    if len(labels) > 1 and _holds_heart(names):
        hearts, failures = cardiac_cases([case])
        notes += [f"No measures of the heart: {reason}" for reason in failures.values()]
        if hearts:
            write_cardiac(folder, hearts)
            heart = hearts[0]
            cardiac = {"ed": heart.ed, "es": heart.es, "phases_by": heart.phases_by, **asdict(heart.measures)}
    return {
        "files": [name for name in TAKEN if (folder / name).exists()],
        "focus": _focus(labels[0], axis),
        "structures": structures,
        "cardiac": cardiac,
        "misfits": list(segmentation.misfits),
        "notes": notes,
    }


def viewer_array(volume: Volume) -> np.ndarray:
    """(T, D, H, W) to look at: grey values or `RGB`. Of several modalities, the first."""
    array = volume.array
    if array.shape[1] != 3 or (array.dtype != np.uint8 and volume.affine is not None):
        return array[:, 0]
    if array.dtype == np.uint16:
        array = array >> 8
    elif array.dtype != np.uint8:
        array = array * (255 / (np.nanmax(array) or 1))
    return np.ascontiguousarray(np.moveaxis(array, 1, -1).astype(np.uint8)).view(RGB)[..., 0]


def viewer_affine(volume: Volume) -> np.ndarray:
    """(4, 4). A picture has no directions; these show its rows from the top and its columns from the left.

    So the page shows them by the radiologists' convention, in which the patient's right is on the left.
    """
    if volume.affine is not None:
        return volume.affine
    z, y, x = volume.spacing_mm or (1.0, 1.0, 1.0)
    return np.diag([-x, -y, z, 1.0])


def _holds_heart(class_names: Sequence[str]) -> bool:
    from mamba_unet.measures.cardiac import heart_structures

    try:
        return bool(heart_structures(class_names))
    except ValueError:  # no left ventricle
        return False


def _focus(label: np.ndarray, axis: int) -> list[int] | None:
    """The middle (x, y, z) of what is labelled in the middle one of the slices that hold it; None where none does."""
    voxels = np.argwhere(label)  # of D, H, W
    if not len(voxels):
        return None
    slices = np.unique(voxels[:, axis])
    middle = np.median(voxels[voxels[:, axis] == slices[(len(slices) - 1) // 2]], axis=0)
    return middle.astype(int).tolist()[::-1]


def _steps(array: np.ndarray) -> list[int]:
    return [-(-size // LARGEST) for size in array.shape[1:]]


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """(T, D, H, W) as X Y Z [T], in a type and a size that viewers know."""
    import nibabel as nib

    steps = _steps(array)
    array = array[(slice(None), *(slice(None, None, step) for step in steps))]
    if array.dtype not in (np.uint8, np.int16, np.uint16, np.float32, RGB):
        array = array.astype(np.uint8 if array.dtype == bool else np.float32)
    shown = nib.Nifti1Image(array.T if len(array) > 1 else array[0].T, affine @ np.diag([*steps[::-1], 1]))
    nib.save(shown, path)
