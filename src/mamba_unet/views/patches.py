"""The view of a 3D network: a case is seen patch by patch.

T frames, C channels, D H W a volume's axes on the view's grid, slices first, as training turned them; d h w a patch's;
K classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from mamba_unet.views.labels import IGNORE
from mamba_unet.views.nnunet_augment import NOTHING, change_intensities, sample_nnunet, warp_patch
from mamba_unet.views.patch_tiles import PatchTiles
from mamba_unet.views.regrid import Regrid
from mamba_unet.views.windows import place_window

KIND = "patches"
PLAN = "plan"
MARKED = 256  # label values that `marks` counts


@dataclass(frozen=True)
class Patches:
    """How patches are cut out of a volume, and the network's answers put together.

    Prediction slides the patch over the volume with half overlap and averages probabilities with Gaussian weights.

    Attributes:
        size: (d, h, w) of a patch in voxels; `plan`: what the data's plan says.
        spacing_mm: voxel size, in mm, of slices, rows and columns that images are brought to first; `plan`: what the
            data's plan says; null leaves images on their own grid. An image of unknown spacing is left on it, too.
        outside: the label of what a patch shows from outside the volume: `background`, or `ignore`, which the loss
            leaves out.
        foreground: share of the patches that are drawn around a voxel of a class that the case has, each class as
            often as another.
    """

    size: tuple[int, int, int] | Literal["plan"] = PLAN
    spacing_mm: tuple[float, float, float] | Literal["plan"] | None = PLAN
    outside: Literal["background", "ignore"] = "ignore"
    foreground: float = 0.33

    spatial_dims: ClassVar[int] = 3
    augmentations: ClassVar[Sequence[str]] = ("none", "nnunet")

    def __post_init__(self) -> None:
        for name, kind, what in (("size", int, "numbers, depth, height, width"), ("spacing_mm", float, "sizes in mm")):
            value = getattr(self, name)
            if value == PLAN or (value is None and name == "spacing_mm"):
                continue
            listed = () if value is None or isinstance(value, str) else value
            if len(listed) != 3 or not all(0 < one < float("inf") for one in listed):
                raise ValueError(f"view.{name} must be three positive {what}, or {PLAN!r}, got {value}")
            object.__setattr__(self, name, tuple(kind(one) for one in value))
        if self.outside not in ("background", "ignore"):
            raise ValueError(f"view.outside must be background or ignore, got {self.outside!r}")
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"view.foreground is a share from 0 to 1, got {self.foreground}")

    def to_json(self) -> dict[str, Any]:
        said = {"kind": KIND, **asdict(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in said.items()}

    @property
    def needs_plan(self) -> bool:
        """Whether something is left to the data's plan."""
        return PLAN in (self.size, self.spacing_mm)

    def planned(self, size: Sequence[int], spacing_mm: Sequence[float] | None) -> "Patches":
        """The same with what a plan says where this one leaves it to the plan."""
        return replace(
            self,
            size=size if self.size == PLAN else self.size,
            spacing_mm=spacing_mm if self.spacing_mm == PLAN else self.spacing_mm,
        )

    def at_a_time(self, on_cpu: bool) -> int:
        """Tiles in a batch: on a CPU one, which its caches are too small for already."""
        return 1 if on_cpu else 2

    def grid(self, shape: Sequence[int], spacing_mm: Sequence[float] | None) -> Regrid:
        """From the grid of a volume (D, H, W) with voxels of `spacing_mm` to the one that is cut into patches."""
        if self.spacing_mm is None or spacing_mm is None:
            return Regrid(tuple(shape), tuple(shape))
        return Regrid.to_spacing(shape, spacing_mm, self.spacing_mm)

    def count(self, shape: Sequence[int]) -> int:
        """One: every case is drawn from as often as every other, as in nnU-Net."""
        return 1

    def marks(self, label: np.ndarray) -> np.ndarray:
        """(D, 256) voxels of each label value in each slice of (D, H, W): where to draw, without a search each time."""
        return np.stack([np.bincount(np.asarray(plane).reshape(-1), minlength=MARKED) for plane in label])

    def draw(
        self,
        image: np.ndarray,
        label: np.ndarray,
        index: int,
        rng: np.random.Generator,
        augment: str = "none",
        marks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One training sample.

        Args:
            image: (C, D, H, W) float32 on the view's grid; only what the patch shows is read.
            label: (D, H, W) class indices.
            index: which sample of the case, below `count`.
            rng: decides the place and the augmentation.
            augment: `nnunet` or `none`.
            marks: what `marks` told of the label; None finds it.

        Returns:
            image (C, d, h, w) and label (d, h, w), contiguous, in their own types.
        """
        centre = None
        if rng.random() < self.foreground:
            centre = self._foreground(label, self.marks(label) if marks is None else marks, rng)
        corner = place_window(label.shape, self.size, centre, rng)
        how = sample_nnunet(rng, len(image), self.size) if augment == "nnunet" else NOTHING
        outside = IGNORE if self.outside == "ignore" else 0
        image, label = warp_patch(image, label, corner, self.size, how, outside)
        return (image, label) if how is NOTHING else (change_intensities(image, how), label)

    def _foreground(self, label: np.ndarray, marks: np.ndarray, rng: np.random.Generator) -> tuple[int, ...] | None:
        """A voxel of a class of the case, each class as likely as another; None where there is none."""
        present = [value for value in np.flatnonzero(marks.any(axis=0)) if value not in (0, IGNORE)]
        if not present:
            return None
        value = present[rng.integers(len(present))]
        ends = marks[:, value].cumsum()
        number = int(rng.integers(ends[-1]))  # which of the voxels of this class
        plane = int(np.searchsorted(ends, number, side="right"))
        found = np.flatnonzero(np.asarray(label[plane]) == value)
        row, column = divmod(int(found[number - ends[plane]]), label.shape[2])  # counted from the end of the plane
        return plane, row, column

    def tiles(
        self, array: np.ndarray, classes: int, keep_scores: bool = False, shape: Sequence[int] | None = None
    ) -> PatchTiles:
        """A volume on its way through a network.

        Args:
            array: (T, C, D, H, W) float32, as training saw it, on the view's grid.
            classes: K.
            keep_scores: also keep the probabilities of every class.
            shape: (D, H, W) of the results, where the volume's own grid is another one.
        """
        return PatchTiles(array, self.size, classes, keep_scores, shape)
