"""Label files in, tables out: what `mamba-unet measure` does."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from unicodedata import normalize

import numpy as np
from tqdm import tqdm

from mamba_unet.measures.cardiac import BESIDE_LABELS
from mamba_unet.measures.statistics import CaseStatistics, StructureStatistics, structure_statistics
from mamba_unet.volumes.find import VolumeFile, expand, find_volumes
from mamba_unet.volumes.formats import FILES, PICTURES, UnreadableError, ending, stem
from mamba_unet.volumes.geometry import Turn, misplacement, slice_axis
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.read import case_name, read_volume
from mamba_unet.volumes.volume import Volume
from mamba_unet.volumes.write import stored_class_names

log = logging.getLogger(__name__)

MOST_CLASSES = WHITE = 255  # a mask of one class is often black and white
MOST_UNDECLARED = 15  # classes of a picture that nobody named
GREY_LEVELS = 8  # a picture whose largest value is so many times the number of its values holds grey levels
UNNAMED = re.compile(r"class \d+")
NEARLY_WHOLE = 1e-3  # labels that went through a slope or float32


def measure_files(
    labels: Sequence[str | Path],
    images: Sequence[str | Path] = (),
    class_names: Sequence[str] | None = None,
    spacing_mm: Sequence[float] | None = None,
    progress: bool = True,
) -> tuple[list[CaseStatistics], dict[str, str]]:
    """Measure label files one after another; a bad one does not stop the others, whatever it does to its reader.

    Args:
        labels: files, folders and globs of label maps: NIfTI, MHA, NRRD, HDF5 or npz with an array `label`. Where some
            in a folder are named `..._gt` (ACDC), the others there are taken for their images and left alone; of files
            that are given by name only the `...` beside a `..._gt`.
        images: the images of the same names, for mean intensities; searched as `labels` are.
        class_names: with or without "background" in front. By default those a NIfTI file says (`predict` writes them),
            else "class 1", "class 2", ..., as many as the files have together.
        spacing_mm: of D, H, W, in place of what files say.
        progress: show a bar.

    Returns:
        What was measured, and for each file that failed its error.

    Raises:
        ValueError: nothing to measure, or two inputs of one name.
    """
    if class_names is not None and len(class_names) == 1 and "," in class_names[0]:
        raise ValueError(f"{class_names[0]!r} is one name with commas; give several names apart: RV MYO LV")
    if class_names is not None and class_names[0].lower() != "background":
        class_names = ("background", *class_names)
    found = _without_images(find_volumes([path for given in labels for path in _label_files(given)]))
    pictures = {normalize("NFC", file.name): file for file in find_volumes(images)} if images else {}
    measured, failures = [], {}
    with Reader() as reader:
        for file in tqdm(found, desc="measure", unit="case", disable=not progress):
            name = file.name.removesuffix("_gt")
            picture = pictures.get(normalize("NFC", name))
            try:
                if images and picture is None:
                    raise ValueError(f"no image is called {name!r}; there are {', '.join(sorted(pictures))}")
                measured.append(_measure_file(name, file, picture, class_names, spacing_mm, reader))
            except UnreadableError as error:
                failures[str(file.path)] = error.reason if error.file == file.path else str(error)
            except (OSError, ValueError) as error:
                failures[str(file.path)] = str(error)
    return _with_absent(measured), failures


def _without_images(files: Sequence[VolumeFile]) -> list[VolumeFile]:
    """Label files alone: `a` is the image of an `a_gt` in the same folder.

    Raises:
        ValueError: two would have one name in the tables.
    """
    truths = {(file.path.parent, file.name) for file in files if file.name.endswith("_gt")}
    found = [file for file in files if (file.path.parent, f"{file.name}_gt") not in truths]
    named: dict[str, VolumeFile] = {}
    for file in found:
        other = named.setdefault(file.name.removesuffix("_gt"), file)
        if other is not file:
            raise ValueError(
                f"{other.path} and {file.path} would both be called {file.name.removesuffix('_gt')!r}; measure them "
                "one after the other, into two folders"
            )
    return found


def _label_files(given: str | Path) -> list[Path]:
    """The files that an input stands for; of a folder, or a pattern, those that may be label maps."""
    matches = expand(given)
    if matches == [Path(given)] and not matches[0].is_dir():
        return matches
    beside: dict[Path, list[Path]] = defaultdict(list)
    for match in matches:
        beside[match if match.is_dir() else match.parent] += sorted(match.iterdir()) if match.is_dir() else [match]
    return [file for files in beside.values() for file in _labels_among(files)] or [Path(given)]


def _labels_among(files: Iterable[Path]) -> list[Path]:
    """Of one folder's files: not the pictures, probabilities and DICOM that `predict` puts beside labels; those named
    `..._gt` alone, where there are some."""
    files = [path for path in files if ending(path, FILES) and not path.name.startswith(".")]
    files = [path for path in files if not ending(path, BESIDE_LABELS)]
    twice = {stem(path) for path in files if not ending(path, PICTURES)}  # a picture beside holds the same
    files = [path for path in files if not (ending(path, PICTURES) and stem(path) in twice)]
    return [path for path in files if case_name(path).endswith("_gt")] or files


def _with_absent(cases: Sequence[CaseStatistics]) -> list[CaseStatistics]:
    """Where nobody named the classes, every case has a line for each that another one has, of 0 voxels here."""
    unnamed = [case for case in cases if all(UNNAMED.fullmatch(one.structure) for one in case.structures)]
    most = max((one.class_index for case in unnamed for one in case.structures), default=0)
    return [_up_to(case, most) if case in unnamed else case for case in cases]


def _up_to(case: CaseStatistics, most: int) -> CaseStatistics:
    """The case with the classes 1 to `most` in every frame."""
    structures: list[StructureStatistics] = []
    for one, following in zip_longest(case.structures, case.structures[1:]):
        structures.append(one)
        if following is None or following.frame != one.frame:
            for index in range(one.class_index + 1, most + 1):
                structures.append(one.absent(index, f"class {index}"))
    return replace(case, structures=structures)


def _measure_file(
    name: str,
    file: VolumeFile,
    picture: VolumeFile | None,
    class_names: Sequence[str] | None,
    spacing_mm: Sequence[float] | None,
    reader: Reader,
) -> CaseStatistics:
    label = read_labels(file, reader)
    for note in label.notes:
        log.warning("%s: %s", file.path, note)
    image = None if picture is None else align(reader.read(picture.read, picture.path), label)
    if spacing_mm is not None:
        if label.spacing_mm is not None and not np.allclose(label.spacing_mm, spacing_mm, rtol=1e-3):
            log.warning("%s: voxels of %s mm are taken to be %s mm, as stated", file.path, label.spacing_mm, spacing_mm)
        label = replace(label, spacing_mm=tuple(spacing_mm))
    names = class_names or stored_class_names(label.header)
    if names is None:  # a label map without foreground has one class, which is nowhere
        known, most = label.class_names or ("background",), max(int(label.array.max()), 1)
        names = (*known, *(f"class {index}" for index in range(len(known), most + 1)))
        _require_classes(label)
    structures = structure_statistics(label.grey, names, label.spacing_mm, image, slice_axis(label))
    beside = [one.path for one in (file, picture) if one is not None]
    source = next((path for path in beside if (path.parent / "Info.cfg").is_file()), file.path)
    return CaseStatistics(name, structures, source)


def _require_classes(label: Volume) -> None:
    """Refuse a picture whose values nobody named and that look like grey levels.

    Raises:
        UnreadableError: names the values.
    """
    values = np.unique(label.array)
    values = values[values > 0].tolist()
    many = len(values) > MOST_UNDECLARED
    if ending(label.where, PICTURES) and values and (many or values[-1] > GREY_LEVELS * len(values)):
        shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
        raise UnreadableError(
            label.where,
            f"its values {shown} do not plainly show classes: grey levels that JPEG or resizing made? Save masks as "
            "PNG, one value per class, or name the classes (--class-names)",
        )


def align(image: Volume, label: Volume) -> np.ndarray:
    """The image's (T, D, H, W) in the axes of its label, which another program may have stored in another order.

    Raises:
        ValueError: several channels, or the two do not lie on one grid.
    """
    if image.channels > 1:
        raise ValueError(f"{image.where} has {image.channels} channels; expected one, whose mean can be told")
    if image.orientation is not None and label.orientation is not None and image.orientation != label.orientation:
        turned = Turn.between(image.orientation, label.orientation)
        image = replace(image, array=turned.apply(image.array), affine=turned.affine(image.affine, image.shape))
    if image.array.shape != label.array.shape or misplacement(image, label) > 0.1:
        raise ValueError(
            f"{image.where} and {label.where} do not lie on one grid (shapes {image.shape}, {label.shape}); resample "
            "the label onto the image with nearest neighbour"
        )
    return image.grey


def read_labels(file: VolumeFile, reader: Reader) -> Volume:
    """A label map with its geometry: class indices (T, 1, D, H, W), uint8.

    What a slope or another program's rounding left a hair beside a whole number is rounded, with a note.

    Raises:
        UnreadableError: damaged, or an image rather than a label map.
    """
    read = file.read if file.series is not None else partial(read_volume, file.path, "label")
    volume = reader.read(read, file.path)
    array, notes = volume.array, volume.notes
    if not np.isfinite(array).all():
        raise UnreadableError(file.path, "holds NaN or infinite values; expected class indices 0, 1, 2, ...")
    if array.dtype.kind == "f":
        whole = np.rint(array)
        if (array != whole).any() and np.abs(array - whole).max() < NEARLY_WHOLE:
            notes = (*notes, f"values up to {np.abs(array - whole).max():.1g} beside whole numbers are rounded")
            array = whole
    label = array.astype(np.uint8) if 0 <= array.min() <= array.max() <= MOST_CLASSES else None
    if label is None or (label != array).any() or volume.channels > 1:
        raise UnreadableError(
            file.path,
            f"values from {array.min():g} to {array.max():g}: expected class indices 0, 1, 2, ...; give images as "
            "--images",
        )
    if label.max() == WHITE:
        others = int(label[label < WHITE].max(initial=0))
        if not others:
            label, notes = (label > 0).astype(np.uint8), (*notes, f"0 and {WHITE} are taken for background and a class")
        elif others <= MOST_UNDECLARED:
            label = np.where(label == WHITE, 0, label).astype(np.uint8)
            notes = (*notes, f"{WHITE} beside small values is taken for voxels that nobody labelled, and not measured")
    geometry = {} if volume.told_mm else {"spacing_mm": None, "affine": None}
    return replace(volume, name=file.name, array=label, notes=notes, **geometry)
