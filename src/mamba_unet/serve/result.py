"""What the page shows and gives out of a scan and its segmentation: files in a job's folder, facts for its JSON.

T frames, D H W array axes as stored, X Y Z the same axes as NIfTI counts them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.volumes.geometry import PLANES, SLICE_AXES, axis_codes, slice_axis
from mamba_unet.volumes.volume import Volume

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor, Segmentation

IMAGE, LABEL = "image.nii.gz", "label.nii.gz"  # for the viewer
SEGMENTATION, DICOM_SEG, STATISTICS, CARDIAC = (
    "segmentation.nii.gz",
    "segmentation.dcm",
    "statistics.csv",
    "cardiac.csv",
)  # to take away
FILES = (IMAGE, LABEL, SEGMENTATION, DICOM_SEG, STATISTICS, CARDIAC)

LARGEST = 2048  # voxels along an axis that browsers' graphics take, save the smallest


def write_image(folder: Path, scan: Volume, predictor: "Predictor", axis: str | None) -> dict[str, Any]:
    """Write the scan for the viewer, and say how it is to be shown.

    Args:
        folder: to write `image.nii.gz` to.
        scan: as read.
        predictor: whose training data say along which axis slices are cut, where the scan does not.
        axis: x, y or z, where somebody chose it.
    """
    across = slice_axis(scan, predictor.preprocessing.orientation) if axis is None else SLICE_AXES.index(axis)
    affine = viewer_affine(scan)
    _save(folder / IMAGE, scan.grey, affine)
    rule = predictor.preprocessing.intensity[0]
    window = [rule["low"], rule["high"]] if rule["method"] == "window" else None
    return {
        "frames": scan.frames,
        "shape": scan.shape[::-1],  # X Y Z, as the viewer counts
        "step": _steps(scan.grey)[::-1],  # of the stored voxels, along X Y Z, every so manieth is shown
        "spacing_mm": scan.spacing_mm and scan.spacing_mm[::-1],
        "plane": PLANES[axis_codes(affine)[across]],
        "slice_axis": SLICE_AXES[across],
        "oriented": scan.affine is not None,
        "dicom": scan.dicom is not None,
        "window": window,
    }


def write_result(folder: Path, segmentation: "Segmentation") -> dict[str, Any]:
    """Write a segmentation for the viewer and to take away, and measure it.

    Returns:
        `files`: what there is to take away; `focus`: the voxel to look at first, see `_focus`; `structures`: a row per
        frame and class; `cardiac`: the heart's measures of a cine, or None; `notes`: what could not be done, and why.
    """
    from mamba_unet.measures.cardiac import cardiac_cases, write_cardiac
    from mamba_unet.measures.statistics import CaseStatistics, write_statistics

    scan, labels = segmentation.volume, segmentation.labels
    for name in (DICOM_SEG, CARDIAC):
        (folder / name).unlink(missing_ok=True)  # of another model
    _save(folder / LABEL, labels, viewer_affine(scan))
    segmentation.save(folder / SEGMENTATION)
    notes = []
    if scan.dicom is not None:
        try:
            segmentation.save_dicom_seg(folder / DICOM_SEG)
        except ValueError as error:
            notes.append(f"No DICOM segmentation: {error}")
    names, axis = segmentation.class_names, segmentation.slice_axis
    case = CaseStatistics(scan.name, segmentation.statistics)
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
        "files": [name for name in (SEGMENTATION, DICOM_SEG, STATISTICS, CARDIAC) if (folder / name).exists()],
        "focus": _focus(labels[0], axis),
        "structures": structures,
        "cardiac": cardiac,
        "notes": notes,
    }


def viewer_affine(scan: Volume) -> np.ndarray:
    """(4, 4). A picture has no directions; these show its rows from the top and its columns from the left.

    So the page shows them by the radiologists' convention, in which the patient's right is on the left.
    """
    if scan.affine is not None:
        return scan.affine
    z, y, x = scan.spacing_mm or (1.0, 1.0, 1.0)
    return np.diag([-x, -y, z, 1.0])


def _holds_heart(class_names: Sequence[str]) -> bool:
    from mamba_unet.measures.cardiac import heart_structures

    try:
        return bool(heart_structures(class_names))
    except ValueError:  # no left ventricle
        return False


def _focus(label: np.ndarray, axis: int) -> list[int] | None:
    """The middle (x, y, z) of what is labelled, in the slice that holds most of it; None where nothing is."""
    places = np.argwhere(label)  # of D, H, W
    if not len(places):
        return None
    fullest = np.bincount(places[:, axis]).argmax()
    middle = np.median(places[places[:, axis] == fullest], axis=0)
    return middle.astype(int).tolist()[::-1]


def _steps(array: np.ndarray) -> list[int]:
    return [-(-size // LARGEST) for size in array.shape[1:]]


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """(T, D, H, W) as X Y Z [T], in a type and a size that viewers know."""
    import nibabel as nib

    steps = _steps(array)
    array = array[(slice(None), *(slice(None, None, step) for step in steps))]
    if array.dtype not in (np.uint8, np.int16, np.uint16, np.float32):
        array = array.astype(np.uint8 if array.dtype == bool else np.float32)
    shown = nib.Nifti1Image(array.T if len(array) > 1 else array[0].T, affine @ np.diag([*steps[::-1], 1]))
    nib.save(shown, path)
