"""The images of a series as an even stack of positions, and where it lies in the patient.

Images are sorted by their position in the patient, never by file name or instance number. What could only be placed by
a guess is refused by name.

T phases of a cine, D positions.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from mamba_unet.volumes.dicom.frame import Frame, number
from mamba_unet.volumes.dicom.phases import identity, in_time, without_duplicates
from mamba_unet.volumes.formats import RefusedError

SAME_POSITION_MM = 1e-3
_SAME_COSINE = 1e-3  # of orientations written with few decimals
_OFF_GRID = 0.25  # of a slice step: rounded positions deviate less from even steps, a missing slice by 0.5 or more


def stack_of(
    frames: Sequence[Frame], notes: list[str], same_pixels: Callable[[Frame, Frame], bool] | None = None
) -> list[list[Frame]]:
    """The images by phase and position, (T, D): evenly spaced positions along the normal, phases in time's order.

    Args:
        frames: of one series, in any order.
        notes: takes what the user should know.
        same_pixels: whether two images at one position are copies; None where no pixels are there to compare.

    Raises:
        RefusedError: what makes the images no single even stack.
    """
    frames = _without_copies(frames, same_pixels)
    _check_uniform(frames, notes)
    depths = np.array([frame.position for frame in frames]) @ np.cross(*frames[0].axes)
    order = np.argsort(depths, kind="stable")
    starts = np.flatnonzero(np.diff(depths[order]) > SAME_POSITION_MM) + 1
    positions = [[frames[i] for i in place] for place in np.split(order, starts)]
    if same_pixels is not None:
        positions = without_duplicates(positions, notes, same_pixels)
    usual = Counter(len(images) for images in positions).most_common(1)[0][0]
    for images in positions:
        if len(images) != usual:
            raise RefusedError(
                f"{len(images)} images at the position {_at(images[0])} ({names_of(images)}), but {usual} at most "
                "others; expected one at each position, or the phases of a cine: remove the copies, or find the "
                "missing phases"
            )
        offset = max(np.linalg.norm(frame.position - images[0].position) for frame in images)
        if offset > 10 * SAME_POSITION_MM:
            raise RefusedError(
                f"images in one plane lie beside each other: {names_of(images)}, {offset:.2f} mm apart; expected one "
                "stack: put the files of each into a folder of its own"
            )
    _check_even([images[0] for images in positions])
    return [list(phase) for phase in zip(*in_time(positions, notes), strict=True)]


def _without_copies(frames: Sequence[Frame], same_pixels: Callable[[Frame, Frame], bool] | None) -> list[Frame]:
    """Without second copies of one file, as a folder may hold: of one UID, and alike in all that tells images apart."""
    distinct = []
    alike: dict[tuple, list[Frame]] = defaultdict(list)
    for frame in frames:
        uid, instance = frame.dataset.get("SOPInstanceUID"), frame.dataset.get("InstanceNumber")
        if uid:
            others = alike[(str(uid), frame.index, *frame.position, str(instance))]
            if any(
                identity(other.header) == identity(frame.header) and (same_pixels is None or same_pixels(other, frame))
                for other in others
            ):
                continue
            others.append(frame)
        distinct.append(frame)
    return distinct


def _check_uniform(frames: Sequence[Frame], notes: list[str]) -> None:
    """All of one size, pixel spacing, orientation and frame of reference."""
    first = frames[0]
    references = {str(frame.dataset.get("FrameOfReferenceUID")) for frame in frames}
    anonymised = 2 < len(references) == len({id(frame.dataset) for frame in frames})
    if anonymised:
        notes.append(
            "each image has a frame of reference (FrameOfReferenceUID) of its own, as some anonymisers write; they "
            "are taken as one stack, because their positions make one"
        )
    for frame in frames:
        differing = {
            "sizes": (frame.dataset.Rows, frame.dataset.Columns) != (first.dataset.Rows, first.dataset.Columns),
            "orientations": np.abs(frame.axes - first.axes).max() > _SAME_COSINE,
            "frames of reference": not anonymised
            and len(references) > 1
            and frame.dataset.get("FrameOfReferenceUID") != first.dataset.get("FrameOfReferenceUID"),
            "pixel spacings": not np.allclose(frame.spacing, first.spacing, rtol=1e-3),
        }
        if any(differing.values()):
            what = ", ".join(name for name, differs in differing.items() if differs)
            raise RefusedError(
                f"mixed {what}: {_look(first)}, but {_look(frame)}; expected one stack: put the files of each stack "
                "into a folder of its own"
            )


def _look(frame: Frame) -> str:
    return (
        f"{frame.name} has {frame.dataset.Rows} x {frame.dataset.Columns} pixels of {frame.spacing.tolist()} mm along "
        f"{frame.axes.round(3).tolist()} in the frame of reference {frame.dataset.get('FrameOfReferenceUID')}"
    )


def _check_even(frames: Sequence[Frame]) -> None:
    """That positions lie on one line in even steps, up to their rounding."""
    positions = np.array([frame.position for frame in frames])
    count = len(positions)
    even = np.linspace(positions[0], positions[-1], count)
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if count < 3 or np.linalg.norm(positions - even, axis=1).max() <= _OFF_GRID * steps.min():
        return
    if _even_but_rounded(frames, positions):
        return
    usual, widest = np.median(steps), int(steps.argmax())
    if steps[widest] > 1.5 * usual:
        raise RefusedError(
            f"slices are missing: {_at(frames[widest])} ({frames[widest].name}) and {_at(frames[widest + 1])} "
            f"({frames[widest + 1].name}) are {steps[widest]:.2f} mm apart, the others {usual:.2f} mm; export the "
            "series again in full, or put the part to segment into a folder of its own"
        )
    raise RefusedError(
        f"positions are no even line: steps of {steps.min():.2f} to {steps.max():.2f} mm, up to "
        f"{np.linalg.norm(positions - even, axis=1).max():.2f} mm beside even ones; resample the series to even slices"
    )


def _even_but_rounded(frames: Sequence[Frame], positions: np.ndarray) -> bool:
    """Thin slices whose positions are written so coarsely that steps of one and of two units alternate.

    Then a wide step alone does not tell rounding from a missing slice. It is rounding where all positions are within
    half a unit of an even line, and the line's step is the one that the files tell: a missing slice would make the
    line's step longer than that.
    """
    unit = next((10.0**-n for n in range(1, 7) if np.allclose(positions, positions.round(n), rtol=0, atol=1e-9)), 0)
    told = number(frames[0].header, "SpacingBetweenSlices") or number(frames[0].header, "SliceThickness")
    if not unit or not told:
        return False
    steps = np.stack([np.arange(len(positions)), np.ones(len(positions))], axis=1)
    line, *_ = np.linalg.lstsq(steps, positions, rcond=None)
    deviation = np.abs(positions - steps @ line).max()
    # 0.6: half a unit, and the error of the line itself
    return bool(deviation <= 0.6 * unit and abs(np.linalg.norm(line[0]) - abs(told)) <= unit / 2 / (len(positions) - 1))


def _at(frame: Frame) -> str:
    return f"({', '.join(f'{value:.2f}' for value in frame.position)}) mm"


def names_of(frames: Sequence[Frame]) -> str:
    """The first files' names, for messages."""
    names = [frame.name for frame in frames]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def affine_of(frames: Sequence[Frame], notes: list[str]) -> tuple[np.ndarray, bool]:
    """(4, 4) from voxel (x, y, z) to millimetres, left posterior superior, of the images of one phase.

    Returns:
        The affine, and whether its slice step is a guess.
    """
    row, column = frames[0].axes
    row_spacing, column_spacing = frames[0].spacing
    guessed = False
    if len(frames) > 1:
        # of the line through all positions: rounded ones spoil it less than the first and the last alone
        numbers = np.arange(len(frames)) - (len(frames) - 1) / 2
        step = numbers @ np.array([frame.position for frame in frames]) / (numbers @ numbers)
    else:
        thickness = number(frames[0].header, "SliceThickness")
        if not thickness or not 0 < thickness < 1e6:
            notes.append("a single slice without its thickness (SliceThickness); 1 mm is taken, so volumes are a guess")
            thickness, guessed = 1.0, True
        step = np.cross(row, column) * thickness
    affine = np.eye(4)
    affine[:3] = np.stack([row * column_spacing, column * row_spacing, step, frames[0].position], axis=1)
    return affine, guessed


def spacing_mm(affine: np.ndarray) -> tuple[float, float, float]:
    """Of D, H, W; of D the distance between the planes, also where a gantry's tilt makes the step longer."""
    x, y = np.linalg.norm(affine[:3, :2], axis=0)
    return tuple(np.round([abs(np.linalg.det(affine[:3, :3])) / (x * y), y, x], 6).tolist())
