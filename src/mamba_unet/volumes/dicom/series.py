"""DICOM: the image series in a folder, a zip or a file, and a series as one scan.

Images are sorted by where they lie in the patient, never by file name or instance number. What could only be placed by
a guess is refused by name. Source: DICOM PS3.3, C.7.6.2 (image plane), C.7.6.16 (multi-frame functional groups).

T phases of a cine, D positions, H W rows and columns.
"""

import struct
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.volumes.formats import UnreadableError, stem
from mamba_unet.volumes.geometry import LPS_TO_RAS
from mamba_unet.volumes.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_UNZIPPED_BYTES = 4 << 30  # of all the files in a zip together
_SAME_POSITION_MM = 1e-3
_SAME_COSINE = 1e-3  # of orientations written with few decimals
_OFF_GRID = 0.25  # of a slice step: rounded positions deviate less from even steps, a missing slice by 0.5 or more
_TIME = (  # what orders the images at one position, the most explicit first; the last word is the order of recording
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "NominalPercentageOfCardiacPhase",
    "FrameReferenceTime",
    "AcquisitionTime",
    "InstanceNumber",
)
_NOT_TIME = ("ImageType", "FrameType", "EchoTime", "EffectiveEchoTime", "DiffusionBValue", "ConvolutionKernel")
_LISTED = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality"),
    *("ImageType", "Rows", "Columns", "NumberOfFrames", "InstanceNumber"),
    *("FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"),
    "SharedFunctionalGroupsSequence",
)


@dataclass(frozen=True)
class Series:
    """An image series that `find_series` found; `read_series` reads it.

    Attributes:
        uid: SeriesInstanceUID, of the first where several are joined.
        number: SeriesNumber, None where the files have none.
        description: SeriesDescription, "" where the files have none.
        modality: "CT", "MR", ...
        images: how many there are: slices times phases.
        joined: how many series it was stored as: scanners write one per slice for cardiac cine.
        path: folder, zip or file that was searched.
        files: its files, by their names below `path` or in the zip.
    """

    uid: str
    number: int | None
    description: str
    modality: str
    images: int
    joined: int
    path: Path
    files: tuple[str, ...]

    def __str__(self) -> str:
        number = "without a number" if self.number is None else self.number
        joined = f", {self.joined} series joined" if self.joined > 1 else ""
        return f"series {number} '{self.description}' ({self.modality}, {self.images} images{joined})"


def list_series(series: Sequence[Series]) -> str:
    """One line for each series: number, description, modality, images."""
    return "\n".join(f"  {one}" for one in series)


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM by its content, whatever its name."""
    with open(file, "rb") as stream:
        return _starts_dicom(stream)


def find_series(path: str | Path) -> list[Series]:
    """The image series in a folder (and all below it), a zip, or a single file, by number.

    A file is DICOM by its content, whatever its name. Other files, DICOMDIR and objects that hold no image
    (segmentations, structure sets, reports, presentation states, doses) are passed over; localizers and series without
    a position (dose reports, captures of a screen) too where there is anything else. Cine series of one slice each that
    make an even stack are joined to one.

    Returns:
        Empty where there is no DICOM image.

    Raises:
        UnreadableError: there is no such path, a DICOM file is damaged, the zip is encrypted or damaged or unpacks to
            more than `MAX_UNZIPPED_BYTES`.
    """
    path = Path(path)
    found: dict[str, list[tuple[str, Dataset]]] = defaultdict(list)
    with _reading(path), _opened(path) as (names, read):
        for name in names:
            with _reading(_place(path, name), "cannot be read, "):
                header = read(name, False)
                if header is not None and _is_image(header):
                    found[str(header.get("SeriesInstanceUID", ""))].append((name, header))
        groups = list(found.values())
        series = [_series(path, group) for group in _joined(_scans(groups) or groups)]
    return sorted(series, key=lambda one: (one.number is None, one.number, one.description, one.uid))


def read_series(series: Series) -> Volume:
    """Read a series as one scan: (1, D, H, W), or (T, D, H, W) for a cine.

    D counts positions along the normal of the image plane. The affine's slice step is the vector between positions,
    which holds a gantry's tilt; `spacing_mm[0]` is the distance between the planes, which makes volumes right. A single
    slice takes its thickness, 1 mm where that is unknown. Values have RescaleSlope and RescaleIntercept applied per
    image (Hounsfield units in CT): integers as narrow as hold them, else float32. Padding values stay.

    `Volume.dicom` is the list of T * D data sets in array order, without pixels (a multi-frame object once per frame).

    Raises:
        UnreadableError: names the series, and what makes it no single even stack of grey images: a gap, images that
            share a position and are no cine, mixed orientations or sizes, no geometry, colour, a transfer syntax
            that nothing here decodes, a damaged file.
    """
    with _reading(series.path, f"{series}: "), _opened(series.path) as (_, read):
        frames: list[_Frame] = []
        for name in series.files:
            with _reading(_place(series.path, name)):
                frames += _frames(name, read(name, True))
        frames = _distinct(frames)
        _check_uniform(frames)
        stack = _stack(frames)
        lps = _affine(stack[0])
        array = _values(series, stack)[:, None]
    return Volume(
        name=stem(series.path) if series.path.is_file() else series.path.resolve().name,
        array=array,
        affine=LPS_TO_RAS @ lps,
        spacing_mm=_spacing_mm(lps),
        slices_along=0,
        source=series.path,
        dicom=[frame.dataset for phase in stack for frame in phase],
    )


class _RefusedError(ValueError):
    """Why a file or a series is not read; `_reading` adds its name."""


@dataclass(frozen=True, eq=False)
class _Frame:
    """One image: the pixels `index` of a data set, with its attributes in one place.

    Attributes:
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
    def of(cls, name: str, dataset: "Dataset", index: int, header: "Dataset") -> "_Frame":
        axes = _vector(header, "ImageOrientationPatient", 6).reshape(2, 3)
        spacing = _vector(header, "PixelSpacing", 2)
        if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-2 or spacing.min() <= 0:
            raise _RefusedError(
                f"ImageOrientationPatient {axes.tolist()}, PixelSpacing {spacing.tolist()}: expected rows and columns "
                "at right angles, and pixels larger than nothing"
            )
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        return cls(name, dataset, index, header, _vector(header, "ImagePositionPatient", 3), axes, spacing)


def _vector(header: "Dataset", keyword: str, length: int) -> np.ndarray:
    stored = header.get(keyword)
    if stored is None or len(stored) != length:
        raise _RefusedError(
            f"{keyword} is {'absent' if stored is None else list(stored)}: where the image lies in the patient is not "
            "told, as in pictures of a screen (secondary capture) and radiographs; save it as PNG to have it "
            "segmented as a picture"
        )
    vector = np.array([float(number) for number in stored])
    if not np.isfinite(vector).all():
        raise _RefusedError(f"{keyword} is {list(stored)}, expected {length} finite numbers")
    return vector


def _frames(name: str, dataset: "Dataset") -> list[_Frame]:
    """The images of a file, once it is known to hold grey ones with a place in the patient."""
    from pydicom import Dataset

    for keyword in ("Rows", "Columns", "BitsStored", "PixelRepresentation", "PixelData"):
        if keyword not in dataset:
            raise _RefusedError(f"{keyword} is absent: the file is cut short, or holds no image of whole numbers")
    colours, photometric = dataset.get("SamplesPerPixel", 1), dataset.get("PhotometricInterpretation", "MONOCHROME2")
    if colours != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise _RefusedError(f"a colour image ({photometric}); expected grey values of a scanner")
    if photometric == "MONOCHROME1":
        raise _RefusedError(
            "MONOCHROME1 (low values are shown white) does not tell whether the values are inverted or only their "
            "display; expected MONOCHROME2: convert the series to NIfTI with a program that shows it as you want it"
        )
    if "ModalityLUTSequence" in dataset:
        raise _RefusedError(
            "its values are in a look-up table (ModalityLUTSequence); expected a slope and an intercept"
        )
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    count = int(dataset.get("NumberOfFrames") or 1)
    if groups is None and count > 1:
        raise _RefusedError(
            f"{count} frames without a position of each (no PerFrameFunctionalGroupsSequence); expected one image in "
            "each file or an Enhanced object: convert it to NIfTI"
        )
    if groups is None:
        return [_Frame.of(name, dataset, 0, dataset)]
    if len(groups) != count:
        raise _RefusedError(f"NumberOfFrames is {count}, but {len(groups)} frames are described")
    frames = []
    for index, own in enumerate(groups):
        header = Dataset()
        for group in (*dataset.get("SharedFunctionalGroupsSequence", []), own):
            for element in group:
                if element.VR == "SQ" and element.value:
                    header.update(element.value[0])
        frames.append(_Frame.of(name, dataset, index, header))
    return frames


def _distinct(frames: list[_Frame]) -> list[_Frame]:
    """Without second copies of one instance, as a folder may hold."""
    seen, distinct = set(), []
    for frame in frames:
        identity = (
            frame.dataset.get("SOPInstanceUID"),
            frame.index,
            *frame.position,
            frame.dataset.get("InstanceNumber"),
        )
        if identity not in seen:
            distinct.append(frame)
        seen.add(identity)
    return distinct


def _check_uniform(frames: Sequence[_Frame]) -> None:
    """All of one size, pixel spacing and orientation."""
    first = frames[0]
    for frame in frames:
        differing = {
            "sizes": (frame.dataset.Rows, frame.dataset.Columns) != (first.dataset.Rows, first.dataset.Columns),
            "orientations": np.abs(frame.axes - first.axes).max() > _SAME_COSINE,
            "frames of reference": frame.dataset.get("FrameOfReferenceUID") != first.dataset.get("FrameOfReferenceUID"),
            "pixel spacings": not np.allclose(frame.spacing, first.spacing, rtol=1e-3),
        }
        if any(differing.values()):
            what = ", ".join(name for name, differs in differing.items() if differs)
            raise _RefusedError(
                f"mixed {what}: {_look(first)}, but {_look(frame)}; expected one stack: put the files of each stack "
                "into a folder of its own"
            )


def _look(frame: _Frame) -> str:
    return (
        f"{frame.name} has {frame.dataset.Rows} x {frame.dataset.Columns} pixels of {frame.spacing.tolist()} mm along "
        f"{frame.axes.round(3).tolist()}"
    )


def _stack(frames: Sequence[_Frame]) -> list[list[_Frame]]:
    """The images by phase and position, (T, D): evenly spaced positions along the normal, phases in time's order."""
    depths = np.array([frame.position for frame in frames]) @ np.cross(*frames[0].axes)
    order = np.argsort(depths, kind="stable")
    starts = np.flatnonzero(np.diff(depths[order]) > _SAME_POSITION_MM) + 1
    places = [[frames[i] for i in place] for place in np.split(order, starts)]
    usual = Counter(len(place) for place in places).most_common(1)[0][0]
    for place in places:
        if len(place) != usual:
            raise _RefusedError(
                f"{len(place)} images at the position {_at(place[0])} ({_named(place)}), but {usual} at most others; "
                "expected one at each position, or the phases of a cine: remove the copies, or find the missing phases"
            )
        offset = max(np.linalg.norm(frame.position - place[0].position) for frame in place)
        if offset > 10 * _SAME_POSITION_MM:
            raise _RefusedError(
                f"images in one plane lie beside each other: {_named(place)}, {offset:.2f} mm apart; expected one stack"
            )
    _check_even([place[0] for place in places])
    return [list(phase) for phase in zip(*_in_time(places), strict=True)]


def _in_time(places: list[list[_Frame]]) -> list[list[_Frame]]:
    """Each position's images in the order of the first attribute that tells all of them apart."""
    if len(places[0]) == 1:
        return places
    for keyword in _NOT_TIME:
        for place in places:
            values = {str(frame.header.get(keyword)) for frame in place}
            if len(values) > 1:
                raise _RefusedError(
                    f"{len(place)} images at each position differ in {keyword} ({', '.join(sorted(values))}); expected "
                    "one, or the phases of a cine: put the files of each kind into a folder of its own"
                )
    for keyword in _TIME:
        times = [[frame.header.get(keyword) for frame in place] for place in places]
        if all(None not in time and len(set(time)) == len(time) for time in times):
            return [sorted(place, key=lambda frame: frame.header.get(keyword)) for place in places]
    raise _RefusedError(
        f"{len(places[0])} images at each position, such as {_named(places[0])}, and nothing that orders them in time "
        f"({', '.join(_TIME)}); expected one image at each position, or a cine"
    )


def _check_even(places: Sequence[_Frame]) -> None:
    """That positions lie on one line in even steps, up to their rounding."""
    positions = np.array([place.position for place in places])
    count = len(positions)
    even = np.linspace(positions[0], positions[-1], count)
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if count < 3 or np.linalg.norm(positions - even, axis=1).max() <= _OFF_GRID * steps.min():
        return
    usual, widest = np.median(steps), int(steps.argmax())
    if steps[widest] > 1.5 * usual:
        raise _RefusedError(
            f"slices are missing: {_at(places[widest])} ({places[widest].name}) and {_at(places[widest + 1])} "
            f"({places[widest + 1].name}) are {steps[widest]:.2f} mm apart, the others {usual:.2f} mm; export the "
            "series again in full, or put the part to segment into a folder of its own"
        )
    raise _RefusedError(
        f"positions are no even line: steps of {steps.min():.2f} to {steps.max():.2f} mm, up to "
        f"{np.linalg.norm(positions - even, axis=1).max():.2f} mm beside even ones; resample the series to even slices"
    )


def _at(frame: _Frame) -> str:
    return f"({', '.join(f'{value:.2f}' for value in frame.position)}) mm"


def _named(frames: Sequence[_Frame]) -> str:
    names = [frame.name for frame in frames]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _affine(places: Sequence[_Frame]) -> np.ndarray:
    """(4, 4) from voxel (x, y, z) to millimetres, left posterior superior."""
    row, column = places[0].axes
    row_spacing, column_spacing = places[0].spacing
    first, last = places[0].position, places[-1].position
    if len(places) > 1:
        step = (last - first) / (len(places) - 1)
    else:
        step = np.cross(row, column) * float(places[0].header.get("SliceThickness") or 1)
    affine = np.eye(4)
    affine[:3] = np.stack([row * column_spacing, column * row_spacing, step, first], axis=1)
    return affine


def _spacing_mm(affine: np.ndarray) -> tuple[float, float, float]:
    x, y = np.linalg.norm(affine[:3, :2], axis=0)
    return tuple(np.round([abs(np.linalg.det(affine[:3, :3])) / (x * y), y, x], 6).tolist())


def _values(series: Series, stack: list[list[_Frame]]) -> np.ndarray:
    """(T, D, H, W): pixels decoded, slope and intercept applied. Encoded pixels are dropped from the data sets."""
    rows, columns = stack[0][0].dataset.Rows, stack[0][0].dataset.Columns
    frames = {(t, d): frame for t, phase in enumerate(stack) for d, frame in enumerate(phase)}
    by_dataset: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, frame in frames.items():
        by_dataset[id(frame.dataset)].append(place)
    scales = {place: _slope_and_intercept(frame.header) for place, frame in frames.items()}
    array = np.empty((len(stack), len(stack[0]), rows, columns), _value_type(frames.values(), scales.values()))
    for places in by_dataset.values():
        dataset, name = frames[places[0]].dataset, frames[places[0]].name
        syntax = dataset.file_meta.TransferSyntaxUID.name
        problem = f"its pixels ({syntax}) cannot be decoded; export the series again, uncompressed: "
        with _reading(_place(series.path, name), problem):
            pixels = _decode(dataset).reshape(-1, rows, columns)
        del dataset.PixelData
        for place in places:
            slope, intercept = scales[place]
            frame_pixels = pixels[frames[place].index]
            if array.dtype == np.float32:
                array[place] = frame_pixels.astype(np.float32) * np.float32(slope) + np.float32(intercept)
            else:
                array[place] = frame_pixels + np.int64(intercept)
    return array


def _slope_and_intercept(header: "Dataset") -> tuple[float, float]:
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _value_type(frames: Any, scales: Any) -> type:
    """The narrowest integer type for all values that the bits can hold, float32 where a scale is no whole number."""
    scales = set(scales)
    if any(slope != 1 or not intercept.is_integer() for slope, intercept in scales):
        return np.float32
    low = high = 0
    for bits, signed in {(f.dataset.BitsStored, f.dataset.PixelRepresentation) for f in frames}:
        low = min(low, -(1 << bits - 1) if signed else 0)
        high = max(high, (1 << bits - 1) - 1 if signed else (1 << bits) - 1)
    low, high = low + min(i for _, i in scales), high + max(i for _, i in scales)
    for kind in (np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return kind
    return np.float32


def _decode(dataset: "Dataset") -> np.ndarray:
    """Stored pixel values, (H, W) or (N, H, W); by GDCM what pydicom has no decoder for, as JPEG Lossless."""
    from pydicom.pixels import pixel_array

    try:
        return pixel_array(dataset)
    except (RuntimeError, NotImplementedError):  # no decoder, or one that gave up
        return _decode_with_gdcm(dataset)


def _decode_with_gdcm(dataset: "Dataset") -> np.ndarray:
    import SimpleITK as sitk
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    # only the pixels, as a picture: GDCM would apply the scale that we apply ourselves
    picture = Dataset()
    for keyword in (
        *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns", "BitsAllocated"),
        *("BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
    ):
        if keyword in dataset:
            picture[keyword] = dataset[keyword]
    picture.SOPClassUID, picture.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    picture.file_meta = FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.dcm"
        picture.save_as(file, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file))
        return sitk.GetArrayFromImage(reader.Execute())


def _is_image(header: "Dataset") -> bool:
    """Whether it is of a class that stores images, or of an unknown (private) one and has pixels.

    One that is cut short before it tells counts, if it tells its series: reading that says what is wrong.
    """
    from pydicom.uid import UID

    stored = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
    name = UID(stored).name
    if "Rows" not in header and (not stored or "Image Storage" in name):
        if "SeriesInstanceUID" not in header:
            raise _RefusedError(f"{name or 'DICOM of no class'}, cut short; copy it again, or remove it")
        return True
    return "Rows" in header and ("Image Storage" in name or name == stored)


def _scans(groups: list[list[tuple[str, "Dataset"]]]) -> list[list[tuple[str, "Dataset"]]]:
    """Without localizers, and without series that tell no position. What is cut short before it tells stays."""
    groups = [[entry for entry in group if "LOCALIZER" not in (entry[1].get("ImageType") or ())] for group in groups]
    telling = ("ImagePositionPatient", "SharedFunctionalGroupsSequence")
    return [
        group
        for group in groups
        if any("Rows" not in header or any(keyword in header for keyword in telling) for _, header in group)
    ]


def _joined(groups: list[list[tuple[str, "Dataset"]]]) -> list[list[tuple[str, "Dataset"]]]:
    """Cine series of one slice each that are parallel, alike and evenly spaced, as one group; others as they are."""
    stacks: dict[Any, list[list[tuple[str, Dataset]]]] = defaultdict(list)
    for group in groups:
        stacks[_slice_of_cine(group) or id(group)].append(group)
    joined = []
    for slices in stacks.values():
        try:
            if len(slices) > 1:
                _stack([_Frame.of(name, header, 0, header) for name, header in (group[0] for group in slices)])
            joined.append([entry for group in slices for entry in group])
        except _RefusedError:
            joined += slices
    return joined


def _slice_of_cine(group: list[tuple[str, "Dataset"]]) -> tuple | None:
    """What cine series that show one slice each must share to be one stack; None for any other series."""
    header = group[0][1]
    if len(group) < 2 or "NumberOfFrames" in header or "FrameOfReferenceUID" not in header:
        return None
    try:
        frames = [_Frame.of(name, header, 0, header) for name, header in group]
    except ValueError:
        return None
    first = frames[0]
    if any(np.linalg.norm(frame.position - first.position) > _SAME_POSITION_MM for frame in frames):
        return None
    look = np.concatenate([first.axes.ravel(), first.spacing]).round(3)
    return (header.FrameOfReferenceUID, len(group), header.Rows, header.Columns, *look.tolist())


def _series(path: Path, group: list[tuple[str, "Dataset"]]) -> Series:
    first = group[0][1]
    number = first.get("SeriesNumber")
    return Series(
        uid=str(first.get("SeriesInstanceUID", "")),
        number=None if number is None else int(number),
        description=str(first.get("SeriesDescription") or ""),
        modality=str(first.get("Modality") or "?"),
        images=sum(int(header.get("NumberOfFrames") or 1) for _, header in group),
        joined=len({header.get("SeriesInstanceUID") for _, header in group}),
        path=path,
        files=tuple(name for name, _ in group),
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[list[str], Callable[[str, bool], Any]]]:
    """The names of the files in a folder, a zip or of a single file, and what reads one of them.

    `read(name, full)` is its data set, whole or without pixels and with the listed attributes only; None for a file
    that is not DICOM. Nothing of a zip is unpacked to disk.
    """
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
        yield names, lambda name, full: _dataset((path / name).open("rb"), full)
    elif not path.is_file():
        raise UnreadableError(path, "no such file or folder")
    elif not zipfile.is_zipfile(path):
        yield [path.name], lambda name, full: _dataset(path.open("rb"), full)
    else:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            size = sum(member.file_size for member in members)
            if size > MAX_UNZIPPED_BYTES:
                raise UnreadableError(
                    path,
                    f"unpacks to {size / 2**30:.1f} GiB, expected at most {MAX_UNZIPPED_BYTES / 2**30:.1f}: unpack it "
                    "to a folder and give that",
                )
            yield sorted(member.filename for member in members), lambda name, full: _dataset(archive.open(name), full)


def _starts_dicom(stream: Any) -> bool:
    """The mark after the preamble; without one, an element of group 8: its type, or a length that fits two bytes.

    Source: DICOM PS3.10, section 7.1; PS3.5, section 7.1.
    """
    head = stream.read(132)
    bare = head[:2] == b"\x08\x00" and head[3:4] == b"\0" and (head[4:6].isupper() or head[6:8] == b"\0\0")
    return head[128:] == b"DICM" or bare


def _dataset(stream: Any, full: bool) -> "Dataset | None":
    from pydicom import dcmread
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with stream:
        if not _starts_dicom(stream):
            return None
        stream.seek(0)
        source = BytesIO(stream.read()) if isinstance(stream, zipfile.ZipExtFile) else stream
        tags = None if full else list(_LISTED)
        dataset = dcmread(source, force=True, stop_before_pixels=not full, specific_tags=tags)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


@contextmanager
def _reading(place: Path, problem: str = "") -> Iterator[None]:
    """Turn what is raised at a damaged or refused file into an `UnreadableError` that names it, and the problem.

    pydicom's warnings of odd values in users' files are silenced: what matters of them is checked here.
    """
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pydicom")
            yield
    except UnreadableError:
        raise
    except (
        *(OSError, EOFError, AttributeError, KeyError, TypeError, ValueError, OverflowError, RuntimeError),
        *(NotImplementedError, struct.error, zlib.error, zipfile.BadZipFile, BytesLengthException, InvalidDicomError),
    ) as error:
        said = str(error) if isinstance(error, _RefusedError) else f"{type(error).__name__}: {error}"
        raise UnreadableError(place, problem + " ".join(said.split())) from error


def _place(path: Path, name: str) -> Path:
    return path if path.name == name and path.is_file() else path / name
