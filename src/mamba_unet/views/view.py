"""What a view is, and the kinds there are: the one place that knows them all.

Whoever brings a volume to a network asks its view: how many samples a case has, how a sample is drawn, on which grid,
how the volume is cut into tiles and put together again.

T frames, C channels, D H W axes of a volume as training turned them, slices first; K classes; V answers to a tile, of
networks and of symmetries; B tiles at a time.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from mamba_unet.views.patches import Patches
from mamba_unet.views.regrid import Regrid
from mamba_unet.views.slices import Slices

if TYPE_CHECKING:
    from torch import Tensor


class Tiles(Protocol):
    """A volume on its way through a network: what the network sees of it, and the answers so far.

    Attributes:
        waiting: tiles whose answers have not been put.
        labels: (T, D, H, W) uint8 class indices, on the volume's own grid.
        scores: (T, K, D, H, W) float32 probabilities, or None where they are not kept.
    """

    waiting: int
    labels: np.ndarray
    scores: np.ndarray | None

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> np.ndarray:
        """(C, *size), as training saw it."""

    def put(self, numbers: range, answers: "Tensor") -> None:
        """Take the answers (V, B, K, *size), logits, to tiles in their order."""


class View(Protocol):
    """What a network sees of a case. A frozen dataclass, whose fields are keys of a recipe below `view`.

    Attributes:
        size: of a sample in pixels, (h, w) or (d, h, w).
        spacing_mm: voxel size that images are brought to first, or None.
        spatial_dims: of the networks that it is for.
        augmentations: values of a recipe's `augment` that it knows.
    """

    size: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    spatial_dims: ClassVar[int]
    augmentations: ClassVar[Sequence[str]]

    def to_json(self) -> dict[str, Any]: ...

    def at_a_time(self, on_cpu: bool) -> int:
        """Tiles in a batch of prediction."""

    def grid(self, shape: Sequence[int], spacing_mm: Sequence[float] | None) -> Regrid:
        """From the grid of a volume (D, H, W) with voxels of `spacing_mm` to the one that is cut into samples."""

    def count(self, shape: Sequence[int]) -> int:
        """Training samples in a case of shape (..., D, H, W)."""

    def marks(self, label: np.ndarray) -> Any:
        """What must be known of a label (D, H, W) to draw from it fast; found once for a case."""

    def draw(
        self, image: np.ndarray, label: np.ndarray, index: int, rng: np.random.Generator, augment: str, marks: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of (C, D, H, W) and (D, H, W) one training sample: (C, *size), (*size)."""

    def tiles(self, array: np.ndarray, classes: int, keep_scores: bool, shape: Sequence[int] | None) -> Tiles:
        """Of a volume (T, C, D, H, W) on the view's grid, its tiles; results get `shape`."""


KINDS: Mapping[str, type] = {"slices": Slices, "patches": Patches}


def view_from_json(said: Mapping[str, Any]) -> View:
    """The view that `to_json` described. Raises ValueError for another kind, or keys of a later version."""
    fields = {key: value for key, value in said.items() if key != "kind"}
    if said.get("kind") not in KINDS:
        raise ValueError(
            f"a view of kind {said.get('kind')!r}; this version knows {', '.join(KINDS)}: install a later one"
        )
    try:
        return KINDS[said["kind"]](**fields)
    except TypeError as error:
        raise ValueError(f"a view with unknown keys ({error}); install a later version") from error


def on_grid(image: np.ndarray, spacing_mm: Sequence[float] | None, view: View) -> np.ndarray:
    """A volume on the grid that a view cuts.

    Args:
        image: (T, C, D, H, W) float32, turned as in training, intensities prepared.
        spacing_mm: voxel size of D, H, W; None where unknown: then the image stays as it is.
        view: of the network.
    """
    regrid = view.grid(image.shape[-3:], spacing_mm)
    return np.stack([regrid.image(frame) for frame in image]) if regrid.changes else image
