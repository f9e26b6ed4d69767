"""From stored intensities to 0..1: the one function that preparing data and predicting share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MINMAX: dict[str, Any] = {"method": "minmax"}


def window(low: float, high: float) -> dict[str, Any]:
    """The rule that maps [low, high], in the image's own units (HU for CT), to 0..1 and clips what lies outside."""
    return {"method": "window", "low": float(low), "high": float(high)}


def percentiles(low: float = 0.5, high: float = 99.5) -> dict[str, Any]:
    """The rule that maps the image's own percentiles to 0..1 and clips what lies outside: a few bright voxels do not
    darken all others."""
    return {"method": "percentiles", "low": float(low), "high": float(high)}


ZSCORE: dict[str, Any] = {"method": "zscore"}
QUANTILES = (5, 25, 50, 75, 95)  # in %, by which the intensities of an image are described
SAMPLED_SLICES, SAMPLED_PIXELS = 16, 2**18  # of an image, for that

COLOUR = window(0, 255)  # of pictures of 8 bits: the same for all, so that colours stay what they are


def intensity_rule(intensity: Mapping[str, Any]) -> dict[str, Any]:
    """A checked copy of a rule in its one spelling. Raises ValueError if `normalise_intensity` does not know it."""
    match dict(intensity):
        case {"method": "minmax", **rest} if not rest:
            return dict(MINMAX)
        case {"method": "zscore", **rest} if not rest:
            return dict(ZSCORE)
        case {"method": "window", "low": float() | int() as low, "high": float() | int() as high, **rest}:
            if low < high and not rest:
                return window(low, high)
        case {"method": "percentiles", "low": float() | int() as low, "high": float() | int() as high, **rest}:
            if 0 <= low < high <= 100 and not rest:
                return percentiles(low, high)
    raise ValueError(
        f"unknown intensity rule {dict(intensity)}; expected {MINMAX}, {ZSCORE}, "
        "{'method': 'window', 'low': a, 'high': b} with a < b, or the same with 'percentiles' (0 to 100)"
    )


def intensity_rules(rules: Mapping[str, Any] | Sequence[Mapping[str, Any]], channels: int | None = None) -> tuple:
    """A checked rule for each channel, from one for all or a list of as many.

    Args:
        rules: one rule, or one per channel.
        channels: how many there are; None: as many as rules.

    Raises:
        ValueError: an unknown rule, or another number of rules than channels.
    """
    if isinstance(rules, Mapping):
        return (intensity_rule(rules),) * (channels or 1)
    if channels is not None and len(rules) == 1:
        rules = list(rules) * channels
    if not rules or (channels is not None and len(rules) != channels):
        raise ValueError(f"{len(rules)} intensity rules for {channels} channels; give one for all, or one for each")
    return tuple(intensity_rule(rule) for rule in rules)


# what is outside of a brain or a field of view is known to its owner alone
FINITE = (
    "give them the value of the background, as np.where(np.isfinite(array), array, 0) does in Python and "
    "`fslmaths IN -nan OUT` in FSL"
)


def normalise_intensity(image: np.ndarray, intensity: Mapping[str, Any]) -> np.ndarray:
    """Scale one channel of a whole image (a volume, not its slices one by one) to 0..1.

    Args:
        image: any shape, finite numbers.
        intensity: `{"method": "minmax"}`: the image's own minimum and maximum become 0 and 1 (a constant image becomes
            0); `{"method": "window", "low": a, "high": b}`: a and b become 0 and 1, the rest is clipped;
            `{"method": "percentiles", "low": p, "high": q}`: the same with the image's own percentiles, or with its
            minimum and maximum where the percentiles are one value;
            `{"method": "zscore"}`: the image's own mean becomes 0.5 and its standard deviation 1/6, and nothing is
            clipped: z-scores as other programs have them, brought to where all rules bring most values.

    Returns:
        float32, same shape.

    Raises:
        ValueError: unknown rule, or NaN or infinity in the image, or values beyond float32.
    """
    intensity = intensity_rule(intensity)
    with np.errstate(over="ignore"):  # what overflows is found below
        image = np.asarray(image, dtype=np.float32)
    low, high = np.float32(image.min()), np.float32(image.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(image.size - np.count_nonzero(np.isfinite(image)))
        raise ValueError(
            f"NaN or infinite values, or values beyond float32, in {bad:,} of {image.size:,} voxels; {FINITE}"
        )
    if intensity["method"] == "zscore":
        deviation = image.std(dtype=np.float64)
        return (image - np.float32(image.mean(dtype=np.float64))) / np.float32(6 * deviation or 1) + np.float32(0.5)
    if intensity["method"] != "minmax":
        ends = (intensity["low"], intensity["high"])
        if intensity["method"] == "percentiles":
            ends = np.percentile(image, ends)
            if ends[0] == ends[1]:  # nearly all voxels are alike, and the others are what there is to see
                ends = (low, high)
        low, high = np.float32(ends[0]), np.float32(ends[1])
        image = np.clip(image, low, high)
    with np.errstate(over="ignore"):
        extent = high - low
    if not np.isfinite(extent):
        raise ValueError(f"the image's values span more than float32 holds ({low:g} to {high:g}); rescale them")
    return (image - low) / extent if high > low else np.zeros_like(image)


def intensity_quantiles(image: np.ndarray) -> list[list[float]]:
    """Of each channel the `QUANTILES`, of at most 16 slices and some of their pixels, evenly spread.

    Args:
        image: (C, D, H, W); it may be memory-mapped.
    """
    slices = image[:, :: -(-image.shape[1] // SAMPLED_SLICES)]
    step = max(1, int(np.sqrt(slices[0].size / SAMPLED_PIXELS)))
    sample = np.asarray(slices[..., ::step, ::step], dtype=np.float32).reshape(len(image), -1)
    return np.percentile(sample, QUANTILES, axis=1).T.tolist()
