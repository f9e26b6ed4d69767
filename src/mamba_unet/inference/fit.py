"""Whether an image is like those that a network was trained on, and the answer like their labels.

At training, `describe_training` condenses the training cases to some numbers, which travel in the checkpoint's header
(`CheckpointMetadata.seen`): of each quantity the smallest, the 5, 50 and 95 % quantile and the largest over the cases.
At prediction an image is compared with the smallest and the largest, with room beyond. What lies outside is said; it is
never refused, for the network may be right all the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.views.intensity import QUANTILES, intensity_quantiles
from mamba_unet.views.labels import IGNORE

OVER_CASES = (0, 0.05, 0.5, 0.95, 1)
LENGTH_ROOM = 1.5  # by which factor pixels and slices may be smaller or larger than in training
VOLUME_ROOM = 2.0  # the same for structures, whose sizes differ more from patient to patient
INTENSITY_ROOM = 0.1  # of the scaled range 0..1, or of a window
MOST_OPEN = 0.05  # of a label without ground truth, for its structures to be measured
ZSCORE_ROOM = 0.3 / 6  # 0.3 standard deviations, of which 0..1 holds six


def describe_training(prepared: PreparedDataset, identifiers: Sequence[str]) -> dict[str, Any]:
    """What the training cases are like, ready for JSON.

    Returns:
        cases: how many. pixel_mm, slice_mm: the spacing within slices, and between them. side, side_mm: the sides of
        slices, in pixels and mm. slices: how many. stored, scaled: the intensities, of each channel and each of
        `QUANTILES`, as stored and in 0..1. foreground: share of the voxels with a class. voxels, volume_ml: of each
        class. Each as the quantiles `OVER_CASES`; what no case tells is left out.
    """
    found: dict[str, list[Any]] = {}

    def add(key: str, *values: Any) -> None:
        found.setdefault(key, []).extend(values)

    for identifier in identifiers:
        depth, *sides = shape = prepared.shape(identifier)
        spacing = prepared.spacing_mm(identifier)
        add("slices", depth)
        add("side", *sides)
        if spacing is not None:
            add("slice_mm", spacing[0])
            add("pixel_mm", *spacing[1:])
            add("side_mm", *(side * mm for side, mm in zip(sides, spacing[1:], strict=True)))
        add("scaled", intensity_quantiles(prepared.case(identifier).image))
        if stored := prepared.stored_quantiles(identifier):
            add("stored", stored)
        if not prepared.is_labelled(identifier):
            continue
        labelled = prepared.label_voxels(identifier)
        if labelled.get(IGNORE, 0) > MOST_OPEN * np.prod(shape):
            continue  # such as a scribble: its structures are larger than what is marked
        voxels = [labelled.get(index, 0) for index in range(1, prepared.num_classes)]
        add("voxels", voxels)
        add("foreground", sum(voxels) / np.prod(shape))
        if spacing is not None:
            add("volume_ml", [count * np.prod(spacing) / 1000 for count in voxels])
    return {"cases": len(identifiers)} | {key: _over_cases(values) for key, values in found.items()}


def _over_cases(values: Sequence[Any]) -> list[Any]:
    """The quantiles over the first axis, last in the result; four digits do."""
    quantiles = np.moveaxis(np.quantile(np.array(values, dtype=float), OVER_CASES, axis=0), 0, -1)
    rounded = [float(f"{value:.4g}") for value in quantiles.ravel()]
    return np.array(rounded).reshape(quantiles.shape).tolist()


def image_misfits(
    seen: Mapping[str, Any],
    scaled: np.ndarray,
    stored: np.ndarray | None = None,
    rules: Sequence[Mapping[str, Any]] = (),
    spacing_mm: Sequence[float] | None = None,
    keeps_pixels: bool = True,
) -> list[str]:
    """In what an image is unlike those of the training, in words; empty where nothing was found or is known.

    Args:
        seen: what `describe_training` said.
        scaled: the image as the network sees it, (C, D, H, W) in 0..1, D the slices.
        stored: the same in its own units, if they are known.
        rules: how each channel was scaled.
        spacing_mm: of D, H, W.
        keeps_pixels: the network sees the image's own pixels; else slices are resized, whatever their pixels.
    """
    sides, found = scaled.shape[-2:], []
    if spacing_mm is not None and "pixel_mm" in seen:
        if keeps_pixels:
            found += _outside(seen, "pixel_mm", spacing_mm[1:], LENGTH_ROOM, "pixels are {} mm")
        lengths = [side * mm for side, mm in zip(sides, spacing_mm[1:], strict=True)]
        found += _outside(seen, "side_mm", lengths, LENGTH_ROOM, "slices are {} mm")
    elif keeps_pixels:
        found += _outside(seen, "side", sides, LENGTH_ROOM, "slices are {} pixels")
    for channel, values in enumerate(intensity_quantiles(scaled)):
        name = f"of channel {channel} " if len(scaled) > 1 else ""
        room = ZSCORE_ROOM if rules and rules[channel]["method"] == "zscore" else INTENSITY_ROOM
        found += _other_intensities(seen, "scaled", channel, values, room, f"{name}as the network sees them")
    if stored is not None:
        for channel, (values, rule) in enumerate(zip(intensity_quantiles(stored), rules, strict=True)):
            name = f"of channel {channel} " if len(stored) > 1 else ""
            if rule["method"] == "window":  # its units mean something
                room = INTENSITY_ROOM * (rule["high"] - rule["low"])
                found += _other_intensities(seen, "stored", channel, values, room, f"{name}as stored")
            elif _is_signed(seen, channel, values):
                found.append(
                    f"{QUANTILES[0]} % of the stored intensities {name}are below {_text(values[0])}, and training "
                    "images had no negative ones"
                )
    return list(dict.fromkeys(found))


def anatomy_misfits(
    seen: Mapping[str, Any],
    labels: np.ndarray,
    class_names: Sequence[str],
    spacing_mm: Sequence[float] | None = None,
    slices: int = 1,
) -> list[str]:
    """In what a segmentation is unlike the labels of the training, in words.

    An image of fewer slices than all of the training may hold a part of a structure, or none.

    Args:
        seen: what `describe_training` said.
        labels: (T, D, H, W) class indices; the median over the frames counts.
        class_names: the first is background.
        spacing_mm: of D, H, W.
        slices: how many.
    """
    # slice by slice: bincount makes numbers of eight bytes of what it is given
    counts = [sum(np.bincount(one.ravel(), minlength=len(class_names)) for one in frame) for frame in labels]
    voxels, whole = np.median(counts, axis=0), slices >= _limits(seen, "slices", (0, 0))[0]
    found = []
    share = voxels[1:].sum() / max(1, labels[0].size)
    if whole:
        low, high = (100 * limit for limit in _limits(seen, "foreground", (0, 1)))
        if 100 * share > VOLUME_ROOM * high:
            found.append(f"{100 * share:.3g} % of the image are structures, in training {low:.2g} to {high:.2g} %")
    key, unit, by = "voxels", "voxels", 1.0
    if spacing_mm is not None and "volume_ml" in seen:
        key, unit, by = "volume_ml", "ml", np.prod(spacing_mm) / 1000
    for index, name in enumerate(class_names[1:], start=1):
        low, high = _limits(seen, key, (0, np.inf), index - 1)
        size = voxels[index] * by
        if size > VOLUME_ROOM * high or (whole and size < low / VOLUME_ROOM):
            found.append(f"{name} has {_text(size)} {unit}, in training {_text(low)} to {_text(high)}")
    return found


def _limits(seen: Mapping[str, Any], key: str, otherwise: tuple[float, float], *indices: int) -> tuple[float, float]:
    """The smallest and the largest over the training cases; `otherwise` where the header does not tell."""
    try:
        values = seen[key]
        for index in indices:
            values = values[index]
        return float(values[0]), float(values[-1])
    except (KeyError, IndexError, TypeError, ValueError):
        return otherwise


def _outside(seen: Mapping[str, Any], key: str, values: Sequence[float], room: float, text: str) -> list[str]:
    """What is said of lengths that are more than `room` times outside those of the training."""
    low, high = _limits(seen, key, (0, np.inf))
    if all(low / room <= value <= high * room for value in values):
        return []
    shown = " x ".join(dict.fromkeys(map(_text, values)))
    return [
        f"{text.format(shown)}, the network was trained on {_text(low)} to {_text(high)}{' mm' if 'mm' in key else ''}"
    ]


def _other_intensities(
    seen: Mapping[str, Any], key: str, channel: int, values: Sequence[float], room: float, text: str
) -> list[str]:
    """What is said of the quantile that lies farthest outside those of the training."""
    limits = [_limits(seen, key, (-np.inf, np.inf), channel, index) for index in range(len(values))]
    beyond = [max(low - value, value - high) for (low, high), value in zip(limits, values, strict=True)]
    worst = int(np.argmax(beyond))
    if beyond[worst] <= room:
        return []
    low, high = limits[worst]
    return [
        f"{QUANTILES[worst]} % of the intensities {text} are below {_text(values[worst])}, in training the same "
        f"share was below {_text(low)} to {_text(high)}"
    ]


def _is_signed(seen: Mapping[str, Any], channel: int, values: Sequence[float]) -> bool:
    """Whether some of the image is clearly below 0, and nothing of the training was."""
    low, _ = _limits(seen, "stored", (-np.inf, np.inf), channel, 0)
    return low >= 0 and values[0] < -0.05 * (values[-1] - values[0])


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
