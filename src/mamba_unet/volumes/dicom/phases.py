"""Several images at each position: the phases of a cine in the order of time, or copies, or no single volume.

Only what the files say of time makes a cine. Images that differ in how they were made (echo, energy, inversion time)
are refused, and so are images of which nothing tells why they share a position.
"""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mamba_unet.volumes.dicom.frame import Frame, number
from mamba_unet.volumes.formats import RefusedError

if TYPE_CHECKING:
    from pydicom import Dataset

_DAY_S = 86_400.0
_NUMBERS = (  # that order the images at one position, the most explicit first
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "NominalPercentageOfCardiacPhase",
    "FrameReferenceTime",
)
_CLOCKS = ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime")
_TIME = (*_NUMBERS, *_CLOCKS)
_COUNTS = ("CardiacNumberOfImages", "NumberOfTemporalPositions")  # that say that there are phases
_KIND = (
    *("ImageType", "FrameType", "ComplexImageComponent", "AcquisitionContrast", "SequenceName"),
    *("EchoTime", "EffectiveEchoTime", "EchoNumbers", "InversionTime", "InversionTimes", "FlipAngle"),
    *("DiffusionBValue", "DiffusionDirectionality", "DiffusionGradientOrientation", "VelocityEncodingDirection"),
    *("KVP", "FilterType", "ConvolutionKernel", "ReconstructionAlgorithm", "SliceThickness", "ContrastBolusAgent"),
    *("SeriesDescription", "ProtocolName", "Units", "CorrectedImage"),
)
LISTED = (*_TIME, *_COUNTS, *_KIND, "AcquisitionDate", "RepetitionTime")  # what `in_time` reads


def without_duplicates(
    positions: list[list[Frame]], notes: list[str], same_pixels: Callable[[Frame, Frame], bool]
) -> list[list[Frame]]:
    """Each position's images, those of equal pixels, kind and time once: an archive sent a series or a slice twice."""
    distinct: list[list[Frame]] = []
    doubled = []
    for images in positions:
        kept: dict[Any, list[Frame]] = {}
        for image in images if len(images) > 1 else ():
            alike = kept.setdefault(identity(image.header), [])
            first = next((other for other in alike if same_pixels(image, other)), None)
            if first is None:
                alike.append(image)
            else:
                doubled.append((first.name, image.name))
        chosen = {id(image) for alike in kept.values() for image in alike}
        distinct.append([image for image in images if id(image) in chosen] or images)
    counts, counts_before = ({len(images) for images in some} for some in (distinct, positions))
    if len(counts) > len(counts_before):  # phases that happen to look alike at some position
        return positions
    if doubled:
        first, second = doubled[0]
        notes.append(
            f"{len(doubled)} of the images are copies, with equal pixels at one position ({first}, {second}); each is "
            "taken once"
        )
    return distinct


def identity(header: "Dataset") -> tuple:
    """What images of equal pixels must share to be copies: time, kind and scale."""
    keywords = (*_TIME, *_KIND, "RescaleSlope", "RescaleIntercept")
    return tuple(_plain(header.get(keyword)) for keyword in keywords)


def _plain(value: Any) -> Any:
    """A value that compares by what it means: 120 and 120.0 are one number, however they are written."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def in_time(positions: list[list[Frame]], notes: list[str]) -> list[list[Frame]]:
    """Each position's images in the order of the most explicit attribute of time that tells them apart.

    `notes` takes that the time of day alone made them phases: a second acquisition has another one too.

    Raises:
        RefusedError: the images differ in how they were made, or nothing says that they are phases.
    """
    count = len(positions[0])
    if count == 1:
        return positions
    _refuse_kinds(positions)
    for keyword in _TIME:
        ordered = _by(positions, _times(positions, keyword))
        if ordered is None:
            continue
        if keyword in _CLOCKS:
            notes.append(
                f"{count} images at each position are taken for phases in time, because {keyword} differs and nothing "
                "else does; if they are several acquisitions, put each into a folder of its own"
            )
        return ordered
    first = positions[0][0].header
    if any(number(first, keyword) == count for keyword in _COUNTS):
        numbers = [[number(frame.dataset, "InstanceNumber") for frame in images] for images in positions]
        if all(None not in row and len(set(row)) == count for row in numbers):
            return [_sorted(images, row) for images, row in zip(positions, numbers, strict=True)]
    names = ", ".join(frame.name for frame in positions[0][:3])
    raise RefusedError(
        f"{count} images at each position, such as {names}, of different pixels, and nothing that says that they are "
        "phases in time (TriggerTime, TemporalPositionIdentifier, AcquisitionTime and others like them; InstanceNumber "
        "alone says it only with CardiacNumberOfImages); expected one image at each position, or a cine: put the files "
        "of each volume into a folder of its own"
    )


def _refuse_kinds(positions: list[list[Frame]]) -> None:
    frames = [frame for images in positions for frame in images]
    # some anonymisers give each image a study of its own, which then tells nothing
    studies = ("StudyInstanceUID",) * (len({str(f.header.get("StudyInstanceUID")) for f in frames}) < len(frames))
    for keyword in (*studies, *_KIND):
        for images in positions:
            values = {_plain(frame.header.get(keyword)): str(frame.header.get(keyword)) for frame in images}
            if len(values) > 1:
                raise RefusedError(
                    f"{len(images)} images at each position differ in {keyword} ({', '.join(sorted(values.values()))})"
                    "; expected one, or the phases of a cine: put the files of each kind into a folder of its own"
                )

    for images in positions:
        times = [number(frame.header, "RepetitionTime") for frame in images]
        if None not in times and max(times) > 1.5 * min(times):  # it follows the heart beat in some cines
            raise RefusedError(
                f"{len(images)} images at each position have a RepetitionTime of {min(times):g} to {max(times):g} ms, "
                "as for a map of T1; expected one, or the phases of a cine: put the files of each into a folder of its "
                "own"
            )


def _times(positions: list[list[Frame]], keyword: str) -> list[list[float | None]]:
    if keyword in _NUMBERS:
        return [[number(frame.header, keyword) for frame in images] for images in positions]
    return [_clock(images, keyword) for images in positions]


def _clock(images: Sequence[Frame], keyword: str) -> list[float | None]:
    """Seconds; over midnight by the date, or, where one date is written for all, by the gap of half a day."""
    times = [_seconds(frame.header, keyword) for frame in images]
    if None not in times and max(times) - min(times) < _DAY_S and max(times) - min(times) > _DAY_S / 2:
        days = {int(time // _DAY_S) for time in times}
        if len(days) == 1:
            return [time + _DAY_S if time % _DAY_S < _DAY_S / 2 else time for time in times]
    return times


def _seconds(header: "Dataset", keyword: str) -> float | None:
    text = str(header.get(keyword) or "")
    if keyword == "AcquisitionTime" and text:
        date = re.sub(r"\D", "", str(header.get("AcquisitionDate") or ""))
        text = (date if len(date) == 8 else "20000101") + text
    text = re.sub(r"[+-]\d{4}$", "", text)  # the time zone
    digits, _, fraction = re.sub(r"[^\d.]", "", text).partition(".")
    try:
        moment = datetime.strptime(digits.ljust(14, "0")[:14], "%Y%m%d%H%M%S")
    except ValueError:  # no text, or no such date
        return None
    return (moment - datetime(1, 1, 1)).total_seconds() + float(f"0.{fraction[:6] or 0}")


def _by(positions: list[list[Frame]], times: list[list[float | None]]) -> list[list[Frame]] | None:
    """Each position's images by their times; None where these do not tell them apart.

    Where they do at most positions, equal times at others (a scanner that rejects heart beats repeats one) are put in
    the order of InstanceNumber, as it runs with time where times differ.
    """
    if any(time is None for row in times for time in row):
        return None
    untied = [len(set(row)) == len(row) for row in times]
    direction = 1
    if not all(untied):
        if 2 * sum(untied) < len(positions):
            return None
        numbers = [[number(frame.dataset, "InstanceNumber") for frame in images] for images in positions]
        if any(None in row or len(set(row)) < len(row) for row in numbers):
            return None
        rows = [_sorted(row, time) for row, time, clear in zip(numbers, times, untied, strict=True) if clear]
        rising = {later > earlier for row in rows for earlier, later in pairwise(row)}
        if len(rising) > 1:
            return None
        direction = 1 if rising.pop() else -1
        times = [
            [(time, direction * n) for time, n in zip(row, ns, strict=True)]
            for row, ns in zip(times, numbers, strict=True)
        ]
    return [_sorted(images, row) for images, row in zip(positions, times, strict=True)]


def _sorted(items: Sequence[Any], keys: Sequence[Any]) -> list[Any]:
    return [items[i] for i in sorted(range(len(items)), key=lambda i: keys[i])]
