"""Numbers of each segmented structure: how large, how bright, where, and whether the image cuts it off.

T frames, D H W array axes as stored (see `volumes.volume`), K classes. Frames and slices count from 0.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.files import to_csv, write_json, write_text
from mamba_unet.tables import Table, number

MM3_PER_ML = 1000


@dataclass(frozen=True)
class StructureStatistics:
    """One structure in one frame.

    Attributes:
        frame: from 0.
        class_index: in the label map, from 1.
        structure: name of the class.
        voxels: labelled so.
        volume_ml: voxels times the volume of one; None without spacing.
        mean_intensity: in the image's own units; None without image or voxels, or where the image is not finite.
        area_pixels: per slice of the volume.
        area_mm2: the same in mm2; None without spacing.
        slices: first and last that hold the structure; None where there is none of it.
        touches_border: of the image within a slice: the structure may go on outside.
        mean_uncertainty: of its voxels, see `measures.uncertainty`; None without voxels, or where it is not known.
    """

    frame: int
    class_index: int
    structure: str
    voxels: int
    volume_ml: float | None
    mean_intensity: float | None
    area_pixels: tuple[int, ...]
    area_mm2: tuple[float, ...] | None
    slices: tuple[int, int] | None
    touches_border: bool
    mean_uncertainty: float | None = None

    def absent(self, class_index: int, structure: str) -> "StructureStatistics":
        """Another structure of the same frame, which is nowhere in it."""
        return replace(
            self,
            class_index=class_index,
            structure=structure,
            voxels=0,
            volume_ml=None if self.volume_ml is None else 0.0,
            mean_intensity=None,
            area_pixels=(0,) * len(self.area_pixels),
            area_mm2=self.area_mm2 and (0.0,) * len(self.area_mm2),
            slices=None,
            touches_border=False,
            mean_uncertainty=None,
        )


def structure_statistics(
    label: np.ndarray,
    class_names: Sequence[str],
    spacing_mm: Sequence[float] | None = None,
    image: np.ndarray | None = None,
    slice_axis: int = 0,
    uncertainty: np.ndarray | None = None,
) -> list[StructureStatistics]:
    """Measure every foreground class in every frame.

    Args:
        label: (T, D, H, W), class indices.
        class_names: [0] is the background, which is not measured.
        spacing_mm: of D, H, W; without it volumes are not known and areas are in pixels.
        image: (T, D, H, W), in units that a mean makes sense in: HU, or what the scanner wrote.
        slice_axis: array axis (0 D, 1 H, 2 W) across which slices lie.
        uncertainty: (T, D, H, W) of each voxel.

    Returns:
        All classes of frame 0, then those of frame 1, ...; a class that is nowhere has 0 voxels.

    Raises:
        ValueError: shapes differ, a spacing that is no length, or a class index without a name.
    """
    label = np.asarray(label)
    if label.ndim != 4 or label.dtype.kind not in "bui":
        raise ValueError(f"label of shape {label.shape}, type {label.dtype}: expected whole numbers (T, D, H, W)")
    for what, array in (("image", image), ("uncertainty", uncertainty)):
        if array is not None and array.shape != label.shape:
            raise ValueError(f"{what} of shape {array.shape}, its label has {label.shape}: expected the same")
    if spacing_mm is not None and not (len(spacing_mm) == 3 and all(0 < size < np.inf for size in spacing_mm)):
        raise ValueError(f"spacing {tuple(spacing_mm)}: expected three lengths in mm, of D, H and W")
    if label.size and not 0 <= label.min() <= label.max() < len(class_names):
        wrong = label.min() if label.min() < 0 else label.max()
        raise ValueError(
            f"label value {wrong} is not in 0..{len(class_names) - 1} ({', '.join(class_names)}); give a name for each"
        )
    pixel_mm2 = None if spacing_mm is None else float(np.prod(np.delete(np.array(spacing_mm, float), slice_axis)))
    voxel_ml = None if spacing_mm is None else float(np.prod(spacing_mm, dtype=float)) / MM3_PER_ML
    measured = []
    for frame, volume in enumerate(np.moveaxis(label, slice_axis + 1, 1)):
        pixels = np.stack([np.bincount(plane.ravel(), minlength=len(class_names)) for plane in volume])  # (D, K)
        sums, doubts = (
            None if array is None else _sums(volume, np.moveaxis(array[frame], slice_axis, 0), len(class_names))
            for array in (image, uncertainty)
        )
        edges = (volume[:, [0, -1]], volume[:, :, [0, -1]])
        at_border = {int(index) for edge in edges for index in np.unique(edge)}
        for index, name in enumerate(class_names):
            area, where = pixels[:, index], np.flatnonzero(pixels[:, index])
            voxels = int(area.sum())
            mean = float(sums[index] / voxels) if sums is not None and voxels else np.nan
            if index:
                measured.append(
                    StructureStatistics(
                        frame=frame,
                        class_index=index,
                        structure=name,
                        voxels=voxels,
                        volume_ml=None if voxel_ml is None else voxels * voxel_ml,
                        mean_intensity=mean if np.isfinite(mean) else None,
                        area_pixels=tuple(area.tolist()),
                        area_mm2=None if pixel_mm2 is None else tuple((area * pixel_mm2).tolist()),
                        slices=(int(where[0]), int(where[-1])) if voxels else None,
                        touches_border=index in at_border,
                        mean_uncertainty=float(doubts[index] / voxels) if doubts is not None and voxels else None,
                    )
                )
    return measured


def _sums(label: np.ndarray, values: np.ndarray, classes: int) -> np.ndarray:
    """Sum of the values of each class's voxels, both (D, H, W); slice by slice, to be exact and small in memory."""
    return sum(np.bincount(a.ravel(), b.ravel(), minlength=classes) for a, b in zip(label, values, strict=True))


@dataclass(frozen=True)
class CaseStatistics:
    """What was measured in one case: all that the tables and the cardiac measures need, without its arrays.

    Attributes:
        case: its name, "patient001_frame01".
        structures: of all its frames.
        source: the file it was read from, beside which an `Info.cfg` may lie.
    """

    case: str
    structures: Sequence[StructureStatistics]
    source: Path | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row per frame and structure, without the areas."""
        return [
            {
                "case": self.case,
                "frame": one.frame,
                "structure": one.structure,
                "voxels": one.voxels,
                "volume_ml": one.volume_ml,
                "mean_intensity": one.mean_intensity,
                "first_slice": one.slices and one.slices[0],
                "last_slice": one.slices and one.slices[1],
                "touches_border": one.touches_border,
                "mean_uncertainty": one.mean_uncertainty,
            }
            for one in self.structures
        ]


def write_statistics(path: str | Path, cases: Sequence[CaseStatistics]) -> None:
    """Write the merged table of `cases`, atomically.

    Args:
        path: `.csv`, one line per case, frame and structure; or `.json`, which holds the area of every slice too.
        cases: at least one.
    """
    path = Path(path)
    if path.suffix == ".json":
        write_json(path, {case.case: [asdict(one) for one in case.structures] for case in cases})
    else:
        rows = [row for case in cases for row in case.rows]
        if all(row["mean_uncertainty"] is None for row in rows):  # nobody asked for it
            rows = [{key: value for key, value in row.items() if key != "mean_uncertainty"} for row in rows]
        write_text(path, to_csv(rows))


def statistics_table(cases: Sequence[CaseStatistics]) -> str:
    """The merged table to read: aligned columns, "-" where there is no value; frames and slices count from 1 here."""
    titles = ["case", "frame", "structure", "voxels", "ml", "mean", "slices", "touches border"]
    rows = [
        [
            case.case,
            str(one.frame + 1),
            one.structure,
            f"{one.voxels}",
            number(one.volume_ml, 1 if not one.volume_ml or one.volume_ml >= 1 else 3),
            "-" if one.mean_intensity is None else f"{one.mean_intensity:.4g}",
            "-" if one.slices is None else f"{one.slices[0] + 1}-{one.slices[1] + 1}",
            "yes" if one.touches_border else "no",
        ]
        for case in cases
        for one in case.structures
    ]
    return Table(titles, rows, left=(0, 2)).markdown()
