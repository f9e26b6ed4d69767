"""One image of a DICOM file: its pixels' shape and bits, and where it lies in the patient.

Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.3 (image pixel), C.7.6.16 (multi-frame functional groups).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.volumes.formats import RefusedError

if TYPE_CHECKING:
    from pydicom import Dataset


_TELLING_TILES = ("ImageType", "FrameType", "ImageComments", "DerivationDescription", "ScanOptions", "SequenceName")
_SCALE = ("RescaleSlope", "RescaleIntercept")


@dataclass(frozen=True, eq=False)
class Frame:
    """One image: the pixels `index` of a data set, with its attributes in one place.

    Attributes:
        name: the file's.
        header: the data set itself, or a multi-frame object's functional groups of this frame, flattened.
        position: (3,), of the centre of the first pixel, millimetres, left posterior superior.
        axes: (2, 3), unit vectors along a row (to the next column) and along a column (to the next row).
        spacing: between rows, then between columns, millimetres (PS3.3, 10.7.1.3).
    """

    name: str
    dataset: "Dataset"
    index: int
    header: "Dataset"
    position: np.ndarray
    axes: np.ndarray
    spacing: np.ndarray

    @classmethod
    def of(cls, name: str, dataset: "Dataset", index: int, header: "Dataset") -> "Frame":
        axes = _vector(header, "ImageOrientationPatient", 6).reshape(2, 3)
        spacing = _vector(header, "PixelSpacing", 2)
        if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-2 or not 1e-6 < spacing.min() <= spacing.max() < 1e6:
            raise RefusedError(
                f"ImageOrientationPatient {axes.tolist()}, PixelSpacing {spacing.tolist()}: expected rows and columns "
                "at right angles, and pixel sizes in mm"
            )
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        position = _vector(header, "ImagePositionPatient", 3)
        if np.abs(position).max() > 1e6:
            raise RefusedError(f"ImagePositionPatient {position.tolist()}: expected millimetres in a patient")
        return cls(name, dataset, index, header, position, axes, spacing)


def number(header: "Dataset", keyword: str) -> float | None:
    """An attribute that is one number; None where it is absent, empty or no number."""
    try:
        value = header.get(keyword)
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def frames_of(name: str, dataset: "Dataset", notes: list[str]) -> list[Frame]:
    """The images of a file, each with its position in the patient.

    `notes` takes what the user should know.

    Raises:
        RefusedError: a position is not told.
    """
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    count = int(dataset.get("NumberOfFrames") or 1)
    if groups is None and count != 1:
        return _evenly_spaced(name, dataset, count, notes)
    if groups is None:
        return [Frame.of(name, dataset, 0, dataset)]
    if len(groups) != count:
        raise RefusedError(f"NumberOfFrames is {count}, but {len(groups)} frames are described; export it again")
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    headers = [_flattened((*shared, own)) for own in groups]
    _take_scale_of_the_whole(name, dataset, headers, notes)
    return [Frame.of(name, dataset, index, header) for index, header in enumerate(headers)]


def _flattened(groups: Sequence["Dataset"]) -> "Dataset":
    """The attributes of all groups; not those of private ones, which may hold a position or a slope of their own."""
    from pydicom import Dataset

    header = Dataset()
    for group in groups:
        for element in group:
            if element.VR == "SQ" and not element.tag.is_private and element.value:
                header.update(element.value[0])
    if directions := header.get("DiffusionGradientDirectionSequence"):  # it lies one level deeper
        header.update(directions[0])
    return header


def _take_scale_of_the_whole(name: str, dataset: "Dataset", headers: Sequence["Dataset"], notes: list[str]) -> None:
    """Give all frames the scale that some programs write beside the functional groups, where these tell none."""
    told = [keyword for keyword in _SCALE if dataset.get(keyword) not in (None, "")]
    if not told or any(header.get(keyword) not in (None, "") for header in headers for keyword in _SCALE):
        return
    for header in headers:
        for keyword in told:
            header[keyword] = dataset[keyword]
    said = ", ".join(f"{keyword} {str(dataset.get(keyword))[:60]}" for keyword in told)
    notes.append(
        f"{name} tells the scale of its values for the whole file alone ({said}), not for its frames "
        "(PixelValueTransformationSequence); it is taken for all of them: check that the values are in the scanner's "
        "units"
    )


def _evenly_spaced(name: str, dataset: "Dataset", count: int, notes: list[str]) -> list[Frame]:
    """The frames of an old CT or MR object with one position: SpacingBetweenSlices is the step along the normal."""
    from pydicom import Dataset

    step = number(dataset, "SpacingBetweenSlices")
    times = [keyword for keyword in ("FrameTime", "FrameTimeVector", "CineRate") if keyword in dataset]
    if times or not step or not np.isfinite(step) or dataset.get("Modality") not in ("CT", "MR"):
        raise RefusedError(
            f"{count} frames without a position of each (no PerFrameFunctionalGroupsSequence, and no "
            "SpacingBetweenSlices of a CT or MR); expected one image in each file or an Enhanced object: convert it "
            "to NIfTI"
        )
    notes.append(
        f"{name} has {count} frames and one position; they are taken to lie {step:g} mm apart (SpacingBetweenSlices) "
        "along the normal of the image: check that the result is not upside down"
    )
    first = Frame.of(name, dataset, 0, dataset)
    frames = []
    for index in range(count):
        header = Dataset()
        for keyword in (
            "ImageOrientationPatient",
            "PixelSpacing",
            "SliceThickness",
            *_SCALE,
        ):
            if keyword in dataset:
                header[keyword] = dataset[keyword]
        header.ImagePositionPatient = (first.position + index * step * np.cross(*first.axes)).tolist()
        frames.append(Frame.of(name, dataset, index, header))
    return frames


def check_attributes(dataset: "Dataset") -> None:
    """That the pixels are grey whole numbers of slices, in attributes that make sense.

    Raises:
        RefusedError: what else they are, and what to do.
    """
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "PixelData"):
        if dataset.get(keyword) is None:
            raise RefusedError(f"{keyword} is absent: the file is cut short, or holds no image of whole numbers")
    colours, photometric = dataset.get("SamplesPerPixel", 1), dataset.get("PhotometricInterpretation", "MONOCHROME2")
    if colours != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedError(f"a colour image ({photometric}); expected grey values of a scanner")
    if photometric == "MONOCHROME1":
        raise RefusedError(
            "MONOCHROME1 (low values are shown white) does not tell whether the values are inverted or only their "
            "display; expected MONOCHROME2: convert the series to NIfTI with a program that shows it as you want it"
        )
    if "ModalityLUTSequence" in dataset:
        raise RefusedError("its values are in a look-up table (ModalityLUTSequence); expected a slope and an intercept")
    if _is_mosaic(dataset):
        raise RefusedError(
            "a Siemens MOSAIC: all slices lie as tiles in one image; expected one image for each slice: convert the "
            "series to NIfTI (dcm2niix does), or export it as Enhanced MR"
        )
    allocated, stored = dataset.BitsAllocated, dataset.BitsStored
    high = dataset.get("HighBit", stored - 1)
    if allocated not in (1, 8, 16, 32) or not 1 <= stored <= high + 1 <= allocated:
        raise RefusedError(
            f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}: expected 8, 16 or 32 bits that hold the "
            "stored ones; export the series again"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if dataset.PixelRepresentation not in (0, 1) or min(dataset.Rows, dataset.Columns, frames) < 1:
        raise RefusedError(
            f"PixelRepresentation {dataset.PixelRepresentation}, {frames} frames of {dataset.Rows} x {dataset.Columns} "
            "pixels: expected 0 or 1, and at least one pixel; export the series again"
        )


def _is_mosaic(dataset: "Dataset") -> bool:
    """By ImageType, or by what Siemens writes in private elements, which anonymisers may keep without ImageType."""
    if any("MOSAIC" in str(dataset.get(keyword) or "").upper() for keyword in _TELLING_TILES):
        return True
    for tag in dataset.keys():
        value = dataset.get_item(tag).value if tag.is_private else None
        if isinstance(value, bytes) and (_tiles(value) > 1 or (b"MOSAIC" in value and len(value) < 256)):
            return True
        if (tag.group, tag.element & 0xFF) == (0x0019, 0x0A):  # NumberOfImagesInMosaic, of two bytes
            count = int.from_bytes(value, "little") if isinstance(value, bytes) and len(value) == 2 else value
            if isinstance(count, int) and count > 1:
                return True
        if isinstance(value, (str, list)) and "MOSAIC" in str(value):
            return True
    return False


def _tiles(header: bytes) -> int:
    """NumberOfImagesInMosaic in a Siemens CSA header, 0 without it.

    Each field is a name of 64 bytes, then VM, VR, type, number of items and a mark; an item is four integers, of which
    the second is its length, and text.
    """
    at = header.find(b"NumberOfImagesInMosaic\0")
    if at < 0 or len(header) < at + 100:
        return 0
    items = int.from_bytes(header[at + 76 : at + 80], "little")
    length = int.from_bytes(header[at + 88 : at + 92], "little")
    text = header[at + 100 : at + 100 + min(length, 16)].strip(b"\0 ")
    return int(text) if items and text.isdigit() else 0


def _vector(header: "Dataset", keyword: str, length: int) -> np.ndarray:
    stored = header.get(keyword)
    if stored is None or isinstance(stored, (str, float)) or len(stored) != length:
        raise RefusedError(
            f"{keyword} is {'absent' if stored is None else stored}: where the image lies in the patient is not "
            "told, as in pictures of a screen (secondary capture) and radiographs; save it as PNG to have it "
            "segmented as a picture"
        )
    vector = np.array([float(value) for value in stored])
    if not np.isfinite(vector).all():
        raise RefusedError(f"{keyword} is {list(stored)}, expected {length} finite numbers")
    return vector
