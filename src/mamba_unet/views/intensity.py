"""From stored intensities to 0..1: the one function that preparing data and predicting share."""

from collections.abc import Mapping
from typing import Any

import numpy as np

MINMAX: dict[str, Any] = {"method": "minmax"}


def window(low: float, high: float) -> dict[str, Any]:
    """The rule that maps [low, high], in the image's own units (HU for CT), to 0..1 and clips what lies outside."""
    return {"method": "window", "low": float(low), "high": float(high)}


def intensity_rule(intensity: Mapping[str, Any]) -> dict[str, Any]:
    """A checked copy of a rule in its one spelling. Raises ValueError if `normalise_intensity` does not know it."""
    match dict(intensity):
        case {"method": "minmax", **rest} if not rest:
            return dict(MINMAX)
        case {"method": "window", "low": float() | int() as low, "high": float() | int() as high, **rest}:
            if low < high and not rest:
                return window(low, high)
    raise ValueError(
        f"unknown intensity rule {dict(intensity)}; expected {MINMAX} or "
        "{'method': 'window', 'low': a, 'high': b} with a < b"
    )


def normalise_intensity(image: np.ndarray, intensity: Mapping[str, Any]) -> np.ndarray:
    """Scale a whole image (a volume, not its slices one by one) to 0..1.

    Args:
        image: any shape, finite numbers.
        intensity: `{"method": "minmax"}`: the image's own minimum and maximum become 0 and 1 (a constant image becomes
            0); `{"method": "window", "low": a, "high": b}`: a and b become 0 and 1, the rest is clipped.

    Returns:
        float32, same shape.

    Raises:
        ValueError: unknown rule, or NaN or infinity in the image.
    """
    intensity = intensity_rule(intensity)
    image = np.asarray(image, dtype=np.float32)
    low, high = np.float32(image.min()), np.float32(image.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("the image holds NaN or infinite values; replace them before scaling it")
    if intensity["method"] == "window":
        low, high = np.float32(intensity["low"]), np.float32(intensity["high"])
        image = np.clip(image, low, high)
    return (image - low) / (high - low) if high > low else np.zeros_like(image)
