"""Intensity windows to look at a volume through: its own, the usual ones of CT, quantiles for all else."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mamba_unet.volumes.volume import Volume

CT = (  # name, level and width in Hounsfield units
    ("abdomen", 40, 400),
    ("soft tissue", 50, 350),
    ("lung", -600, 1500),
    ("bone", 400, 1800),
    ("brain", 40, 80),
)
AIR_HU = -500  # values below it tell CT from other images
SAMPLES = 1_000_000  # voxels that quantiles are taken of


def windows(volume: "Volume", grey: np.ndarray, intensity: dict[str, Any]) -> list[dict[str, Any]]:
    """Windows by name, `low` to `high`; the first is the one to begin with.

    In this order: the window that the DICOM header asks for; the one that the network sees; those for CT; then the
    1st to the 99th percentile and the full range, which come first where there is none of the others.

    Args:
        volume: whose header is asked.
        grey: the values that are shown.
        intensity: the network's rule, of its metadata.
    """
    values = grey.reshape(-1)[:: max(grey.size // SAMPLES, 1)].astype(np.float32)
    values = values[np.isfinite(values)]
    if not values.size:
        values = np.zeros(1)
    modality, found = _dicom(volume)
    least, low, high, most = np.percentile(values, [0, 1, 99, 100]).tolist()
    if intensity["method"] == "window":
        own = (intensity["low"], intensity["high"])
        if own[0] < most and own[1] > least:
            found.append(("network", *own))
    if modality == "CT" or (modality is None and low < AIR_HU):
        found += [(name, level - width / 2, level + width / 2) for name, level, width in CT]
    if high > low:
        found.append(("1–99 %", low, high))
    found.append(("full range", least, most if most > least else least + 1))
    return [{"name": name, "low": _short(low), "high": _short(high)} for name, low, high in found]


def _dicom(volume: "Volume") -> tuple[str | None, list[tuple[str, float, float]]]:
    """The modality and the windows that a DICOM header names."""
    if not volume.dicom:
        return None, []
    header = volume.dicom[0]

    def several(name: str) -> list[Any]:
        value = header.get(name)
        return [] if value in (None, "") else [value] if np.isscalar(value) else list(value)

    levels, widths = several("WindowCenter"), several("WindowWidth")
    names = several("WindowCenterWidthExplanation")
    found = []
    for index, (level, width) in enumerate(zip(levels, widths, strict=False)):
        name = str(names[index]).strip().lower() if index < len(names) else ""
        if float(width) > 0:
            title = f"DICOM: {name}" if name else "DICOM" if len(levels) == 1 else f"DICOM {index + 1}"
            found.append((title, float(level) - float(width) / 2, float(level) + float(width) / 2))
    return str(header.get("Modality", "")), found


def _short(value: float) -> float:
    return float(f"{value:.4g}")
