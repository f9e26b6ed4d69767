"""Intensity rules as nnU-Net chooses them: CT by its foreground's percentiles over all training images, else z-scores.

nnU-Net clips CT to the 0.5th and 99.5th percentile of the foreground and subtracts a mean; a window between the same
percentiles differs from it by one factor and one summand for the whole data set. Source: Isensee et al. 2021 (Nature
Methods 18), supplementary note 2.
"""

import zlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from mamba_unet.data.classes import distinct
from mamba_unet.data.survey import Plan, read_image, read_label
from mamba_unet.views.intensity import COLOUR, ZSCORE, window
from mamba_unet.views.labels import IGNORE
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.isolated import Reader

NNUNET_NOTE = "intensities as nnU-Net chooses them: CT between percentiles of its foreground, else z-scores"
NNUNET_FOLDS = "windows of CT are measured on the split train for all folds, and each of its patients is tested in one"
PERCENTILES = (0.5, 99.5)
SAMPLES = 10_000  # foreground voxels of a case
AIR_HU = -500  # images whose values go below are in Hounsfield units


def nnunet_intensity(
    plan: Plan, patients: Collection[str], reader: Reader, progress: bool = False, without: Collection[str | None] = ()
) -> tuple[Mapping[str, Any], ...]:
    """A rule for each channel of a data set.

    Args:
        plan: the data set; a channel whose rule is a window is CT, and so is one whose values say so.
        patients: those of the training, whose images are looked at.
        reader: the process that reads them.
        progress: show a bar.
        without: cases that are left out.
    """
    if all(rule == COLOUR for rule in plan.intensity) or plan.listing.scaled:
        return tuple(plan.intensity)
    found: list[list[np.ndarray]] = [[] for _ in plan.intensity]
    entries = [entry for entry in plan.listing.entries if entry.patient in patients and entry.label is not None]
    entries = [entry for entry in entries if entry.identifier not in without]
    for entry in tqdm(entries, "intensity", unit="case", disable=None if progress else True):
        try:
            image, label = read_image(entry, plan.listing, reader), read_label(entry, reader)
        except UnreadableError:
            continue  # reported with the case
        if image.shape != label.shape or image.channels != len(found):
            continue
        values, _ = plan.classes.stored(label.array)
        if not plan.classes.values.keys() >= set(distinct(values)):
            continue  # so is a value that is no class
        index = plan.classes.index(values[0, 0])
        marked = np.flatnonzero((index > 0) & (index != IGNORE))
        if not marked.size:
            continue
        rng = np.random.default_rng(zlib.crc32(entry.identifier.encode()))
        marked = rng.choice(marked, min(SAMPLES, marked.size), replace=False)
        for channel, values in zip(image.array[0], found, strict=True):
            values.append(channel.reshape(-1)[marked].astype(np.float32))
    return tuple(map(_rule, plan.intensity, found))


def _rule(now: Mapping[str, Any], found: list[np.ndarray]) -> Mapping[str, Any]:
    values = np.concatenate(found) if found else np.empty(0, np.float32)
    is_ct = now["method"] == "window" or (values.size and values.min() < AIR_HU)
    if not is_ct:
        return dict(ZSCORE)
    low, high = np.percentile(values[np.isfinite(values)], PERCENTILES) if values.size else (0, 0)
    return window(round(float(low), 2), round(float(high), 2)) if low < high else now
