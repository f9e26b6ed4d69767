"""Label files in, tables out: what `mamba-unet measure` does."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mamba_unet.measures.statistics import CaseStatistics, structure_statistics
from mamba_unet.volumes.find import VolumeFile, find_volumes
from mamba_unet.volumes.formats import UnreadableError, ending, read_volume
from mamba_unet.volumes.read import ARRAYS, FILES
from mamba_unet.volumes.volume import Volume, slice_axis

log = logging.getLogger(__name__)

MOST_CLASSES = 255
BESIDE_LABELS = ("_preview.png", "_probabilities.nii.gz")


def measure_files(
    labels: Sequence[str | Path],
    images: Sequence[str | Path] = (),
    class_names: Sequence[str] | None = None,
    spacing_mm: Sequence[float] | None = None,
    progress: bool = True,
) -> tuple[list[CaseStatistics], dict[str, str]]:
    """Measure label files one after another; a bad one does not stop the others.

    Args:
        labels: files, folders and globs of label maps: NIfTI, MHA, NRRD, HDF5 or npz with an array `label`. Where some
            are named `..._gt` (ACDC), the others are taken for their images and left alone.
        images: the images of the same names, for mean intensities; searched as `labels` are.
        class_names: with or without "background" in front. By default those a NIfTI file says (`predict` writes them),
            else "class 1", "class 2", ...
        spacing_mm: of D, H, W, in place of what files say.
        progress: show a bar.

    Returns:
        What was measured, and for each file that failed its error.

    Raises:
        ValueError: nothing to measure, or two inputs of one name.
    """
    if class_names is not None and class_names[0].lower() != "background":
        class_names = ("background", *class_names)
    found = find_volumes([path for given in labels for path in _label_files(Path(given))])
    found = [file for file in found if file.name.endswith("_gt")] or found
    pictures = {file.name: file for file in find_volumes(images)} if images else {}
    measured, failures = [], {}
    for file in tqdm(found, desc="measure", unit="case", disable=not progress):
        name = file.name.removesuffix("_gt")
        try:
            if images and name not in pictures:
                raise ValueError(f"no image is called {name!r}; there are {', '.join(sorted(pictures))}")
            measured.append(_measure_file(name, file, pictures.get(name), class_names, spacing_mm))
        except UnreadableError as error:
            failures[str(file.path)] = error.reason if error.file == file.path else str(error)
        except (OSError, ValueError) as error:
            failures[str(file.path)] = str(error)
    return measured, failures


def _label_files(given: Path) -> list[Path]:
    """What of a folder may be label maps: not the pictures, probabilities and DICOM that `predict` puts beside them."""
    if not given.is_dir():
        return [given]
    files = [path for path in sorted(given.iterdir()) if ending(path, FILES) and not path.name.startswith(".")]
    return [path for path in files if not ending(path, BESIDE_LABELS)] or [given]


def _measure_file(
    name: str,
    file: VolumeFile,
    picture: VolumeFile | None,
    class_names: Sequence[str] | None,
    spacing_mm: Sequence[float] | None,
) -> CaseStatistics:
    scan = read_labels(file)
    if spacing_mm is not None:
        if scan.spacing_mm is not None and not np.allclose(scan.spacing_mm, spacing_mm, rtol=1e-3):
            log.warning("%s: voxels of %s mm are taken to be %s mm, as stated", file.path, scan.spacing_mm, spacing_mm)
        scan = replace(scan, spacing_mm=tuple(spacing_mm))
    names = class_names or stored_class_names(scan)
    if names is None:
        names = ("background", *(f"class {index}" for index in range(1, int(scan.array.max()) + 1)))
    image = None if picture is None else picture.read().array
    structures = structure_statistics(scan.array, names, scan.spacing_mm, image, slice_axis(scan))
    beside = [one.path for one in (file, picture) if one is not None]
    source = next((path for path in beside if (path.parent / "Info.cfg").is_file()), file.path)
    return CaseStatistics(name, structures, source)


def read_labels(file: VolumeFile) -> Volume:
    """A label map with its geometry: class indices (T, D, H, W), uint8.

    Voxels of 1 x 1 x 1 without a unit are what a NIfTI file has that nobody gave a size: the spacing is unknown then.

    Raises:
        UnreadableError: damaged, or an image rather than a label map.
    """
    if ending(file.path, ARRAYS):
        scan = Volume.from_array(read_volume([file.path], "label").array, name=file.name)
    else:
        scan = file.read()
    label = scan.array.astype(np.uint8) if 0 <= scan.array.min() <= scan.array.max() <= MOST_CLASSES else None
    if label is None or (label != scan.array).any():
        low, high = scan.array.min(), scan.array.max()
        raise UnreadableError(
            file.path, f"values from {low:g} to {high:g}: expected class indices 0, 1, 2, ...; give images as --images"
        )
    spacing_mm = scan.spacing_mm
    if scan.header is not None and scan.header.get_xyzt_units()[0] == "unknown" and spacing_mm == (1, 1, 1):
        spacing_mm = None
    return replace(scan, array=label, spacing_mm=spacing_mm, affine=None if spacing_mm is None else scan.affine)


def stored_class_names(scan: Volume) -> list[str] | None:
    """The class names that `scans.write.save_nifti` put into the header; None where there are none."""
    for extension in scan.header.extensions if scan.header is not None else ():
        try:
            labels = json.loads(extension.get_content())["labels"]
            return [labels[str(index)] for index in range(len(labels))]
        except (ValueError, TypeError, KeyError, AttributeError):  # another program's extension
            continue
    return None
