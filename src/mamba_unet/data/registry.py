"""What is known of a data set besides its files: classes, intensities, the split everyone uses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mamba_unet.views.intensity import MINMAX, window


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that is known by name.

    Attributes:
        name: its name here.
        class_names: [0] is the background; the others in the order of the published results.
        intensity: see `normalise_intensity`.
        split_file: the split shipped in `splits/`.
        uncovered: the split that patients outside the shipped one are put in, and nobody trains on.
        every_case_labelled: a label without foreground is an error.
    """

    name: str
    class_names: Sequence[str]
    intensity: Mapping[str, Any] = field(default_factory=lambda: MINMAX)
    split_file: str | None = None
    uncovered: str = "unassigned"
    every_case_labelled: bool = True


DATASETS = {
    info.name: info
    for info in (
        DatasetInfo(
            "acdc",
            ("background", "right ventricle", "myocardium", "left ventricle"),
            split_file="acdc.json",
            # the challenge's own test patients, 101 to 150
            uncovered="official_test",
        ),
        # class order and window: TransUNet (arXiv 2102.04306) and its public code
        DatasetInfo(
            "synapse",
            (
                "background",
                "aorta",
                "gallbladder",
                "left kidney",
                "right kidney",
                "liver",
                "pancreas",
                "spleen",
                "stomach",
            ),
            intensity=window(-125, 275),
            split_file="synapse.json",
        ),
    )
}
