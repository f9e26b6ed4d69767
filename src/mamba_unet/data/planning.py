"""Voxel size, patch and batch for 3D networks, planned from a prepared data set by nnU-Net's rules.

Only shapes and voxel sizes of the training cases are looked at. Source of all rules: Isensee et al. 2021 (Nature
Methods 18), supplementary note 2; the amount of memory is theirs as well: two patches of 128 x 128 x 128 for 8 GiB.

Axes are D, H, W: slices, rows, columns.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.files import write_json
from mamba_unet.tables import Table
from mamba_unet.views.regrid import ANISOTROPIC

FILE = "plan.json"
FORMAT = 2
MEMORY_GIB = 8.0
VOXELS_PER_GIB = 2 * 128**3 / 8  # of a batch
LEVELS = 6  # of the networks for volumes at their default sizes
SMALLEST_BATCH = 2
LARGEST_SHARE = 0.05  # of all training voxels that one batch may show

Three = tuple[float, float, float]


@dataclass(frozen=True)
class VolumePlan:
    """How a 3D network should see a data set.

    Attributes:
        cases: training cases that were looked at.
        median_spacing_mm: of the training cases; None where no file tells.
        median_shape: (D, H, W) of the training cases.
        spacing_mm: voxel size that images are brought to; None leaves each on its own grid.
        grid_shape: median (D, H, W) at that voxel size.
        size: (d, h, w) of a patch.
        batch_size: patches per iteration.
        memory_gib: of the device, that patch and batch were chosen for.
        intensity: how the prepared images were scaled, a sentence for each channel.
        notes: what was assumed, or is unusual.
    """

    cases: int
    median_spacing_mm: Three | None
    median_shape: tuple[int, int, int]
    spacing_mm: Three | None
    grid_shape: tuple[int, int, int]
    size: tuple[int, int, int]
    batch_size: int
    memory_gib: float
    intensity: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def table(self) -> str:
        """The plan for a terminal."""
        rows = [
            ["training cases", str(self.cases), ""],
            ["their voxel size", _mm(self.median_spacing_mm), "median; slices x rows x columns"],
            ["their shape", _by(self.median_shape), "median"],
            [
                "voxel size for the network",
                "each image's own" if self.spacing_mm is None else _mm(self.spacing_mm),
                "view.spacing_mm",
            ],
            ["shape at that size", _by(self.grid_shape), "median"],
            ["patch", _by(self.size), "view.size"],
            ["patches in a batch", str(self.batch_size), "batch_size"],
            ["memory planned for", f"{self.memory_gib:g} GiB", "--memory"],
            *(["intensity" if not number else "", rule, ""] for number, rule in enumerate(self.intensity)),
        ]
        notes = "".join(f"note: {note}\n" for note in self.notes)
        return Table(["plan for 3D", "", "a recipe's key"], rows, left=(0, 1, 2)).text() + "\n" + notes


def plan_volumes(
    prepared: PreparedDataset, memory_gib: float = MEMORY_GIB, spacing_mm: Sequence[float] | None = None
) -> VolumePlan:
    """Plan voxel size, patch and batch.

    Args:
        prepared: the data; its split `train` is looked at, or all cases where it has none.
        memory_gib: of the device that trains.
        spacing_mm: of D, H, W, the voxel size for the network; None plans it.

    Raises:
        ValueError: a memory or a spacing that is none.
    """
    if not 0 < memory_gib < 1e6:
        raise ValueError(f"memory of {memory_gib} GiB; expected a positive size")
    if spacing_mm is not None:
        spacing_mm = tuple(float(mm) for mm in spacing_mm)
        if len(spacing_mm) != 3 or not all(0 < mm < float("inf") for mm in spacing_mm):
            raise ValueError(f"spacing of {spacing_mm} mm; expected three positive sizes, of slices, rows and columns")
    names = prepared.splits.get("train") or prepared.identifiers
    shapes = np.array([prepared.shape(name) for name in names])
    known = [(prepared.shape(name), mm) for name in names if (mm := prepared.spacing_mm(name)) is not None]
    notes = []
    if len(known) < len(names):
        told = "no file tells its voxel size" if not known else f"{len(names) - len(known)} files tell no voxel size"
        if spacing_mm is not None or known:
            notes.append(f"{told}: these images are taken to have the network's")
        else:
            notes.append(f"{told}: axes count as alike. State what you know of it: --spacing 8,1.5,1.5 (D, H, W in mm)")
    if (shapes[:, 0] == 1).all():
        notes.append("every image is one slice: networks for slices see as much and cost less (scratch_2d)")
    wanted = spacing_mm
    if wanted is None and known:
        wanted = _target(np.array([mm for _, mm in known]), np.array([shape for shape, _ in known]))
    grids = [_on_grid(prepared.shape(name), prepared.spacing_mm(name), wanted) for name in names]
    grid = np.median(grids, axis=0)
    size = _patch(grid, wanted or (1.0, 1.0, 1.0), memory_gib)
    everything = float(np.prod(grids, axis=1).sum())
    fits = int(memory_gib * VOXELS_PER_GIB / np.prod(size))
    batch = max(SMALLEST_BATCH, min(fits, round(LARGEST_SHARE * everything / np.prod(size))))
    if np.prod(size) * SMALLEST_BATCH > memory_gib * VOXELS_PER_GIB:
        notes.append("even the smallest patch may need more memory than planned for")
    if wanted is not None and max(wanted) > ANISOTROPIC * min(wanted):
        notes.append("slices are far apart: they are resampled, and patches are turned, within slices only")
    return VolumePlan(
        cases=len(names),
        median_spacing_mm=_three(np.median([mm for _, mm in known], axis=0)) if known else None,
        median_shape=tuple(int(side) for side in np.median(shapes, axis=0)),
        spacing_mm=wanted,
        grid_shape=tuple(int(side) for side in grid),
        size=size,
        batch_size=batch,
        memory_gib=memory_gib,
        intensity=tuple(
            f"{name + ': ' if name else ''}{_rule(rule)}"
            for name, rule in zip(prepared.channel_names or [""] * prepared.channels, prepared.intensity, strict=True)
        ),
        notes=tuple(notes),
    )


def plan(data: str | Path, memory_gib: float = MEMORY_GIB, spacing_mm: Sequence[float] | None = None) -> VolumePlan:
    """Plan a prepared data set for 3D networks, and write plan.json into its folder.

    Args:
        data: folder that `prepare` wrote.
        memory_gib, spacing_mm: as for `plan_volumes`.
    """
    prepared = PreparedDataset(data)
    made = plan_volumes(prepared, memory_gib, spacing_mm)
    write_plan(prepared, made)
    return made


def write_plan(prepared: PreparedDataset, plan: VolumePlan) -> Path:
    """Write the plan beside the data; recipes that leave something to the plan find it there."""
    path = prepared.folder / FILE
    write_json(path, {"format": FORMAT, "data": _planned_for(prepared), **asdict(plan)})
    return path


def read_plan(prepared: PreparedDataset) -> VolumePlan | None:
    """The plan beside the data; None where there is none, or only that of other data or other training cases.

    Raises:
        ValueError: another version's.
    """
    path = prepared.folder / FILE
    if not path.is_file():
        return None
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if said.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is of another version; run `mamba-unet plan {prepared.folder}` again")
    if said.pop("data") not in (_planned_for(prepared), prepared.identity):  # the latter of earlier versions
        return None
    return VolumePlan(**{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()})


def _planned_for(prepared: PreparedDataset) -> dict[str, Any]:
    """What tells the training cases that a plan looked at."""
    return {**prepared.identity, "training": sorted(prepared.splits.get("train", ()))}


def _target(spacings: np.ndarray, shapes: np.ndarray) -> Three:
    """The median; where slices are far apart and few, along them the 10th percentile, so that most images keep theirs.

    Args:
        spacings: (cases, 3).
        shapes: (cases, 3).
    """
    target = np.median(spacings, axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(3) if axis != worst]
    voxels = np.median(shapes * spacings / target, axis=0)
    if target[worst] > ANISOTROPIC * target[others].max() and voxels[worst] * ANISOTROPIC < voxels[others].min():
        target[worst] = max(np.percentile(spacings[:, worst], 10), target[others].max())
    return _three(target)


def _patch(grid: np.ndarray, spacing_mm: Sequence[float], memory_gib: float) -> tuple[int, int, int]:
    """The largest patch of the images' proportions of which `SMALLEST_BATCH` fit into the memory.

    It begins as the median image, or a cube in it, and the axis that shows the largest share of it gets shorter until
    it fits. Every axis is a multiple of what the strides of our networks for volumes make of it.
    """
    from mamba_unet.models.levels import scales, volume_levels  # torch and the networks take seconds to import

    reach = (256**3 * np.prod(spacing_mm)) ** (1 / 3)  # mm; of very long images, not more than is as deep as wide
    size = np.minimum(grid, reach / np.array(spacing_mm))
    budget = memory_gib * VOXELS_PER_GIB / SMALLEST_BATCH
    while True:
        factors = np.array(scales(volume_levels(LEVELS, spacing_mm, size))[-1])
        rounded = np.maximum(factors, np.ceil(size / factors) * factors)
        if np.prod(rounded) <= budget or (rounded <= factors).all():
            return tuple(int(side) for side in rounded)
        share = np.where(rounded > factors, rounded / grid, 0)
        axis = int(share.argmax())
        size[axis] = rounded[axis] - factors[axis]


def _on_grid(shape: Sequence[int], have_mm: Sequence[float] | None, want_mm: Sequence[float] | None) -> list[int]:
    if have_mm is None or want_mm is None:
        return list(shape)
    return [max(1, round(n * have / want)) for n, have, want in zip(shape, have_mm, want_mm, strict=True)]


def _rule(rule: dict[str, Any]) -> str:
    match rule["method"]:
        case "window":
            return f"{rule['low']:g} to {rule['high']:g} become 0 and 1, the rest is clipped"
        case "percentiles":
            return f"each image's percentiles {rule['low']:g} and {rule['high']:g} become 0 and 1, the rest is clipped"
        case "zscore":
            return "each image's mean and standard deviation become 0.5 and 1/6"
    return "each image's minimum and maximum become 0 and 1"


def _three(values: Sequence[float]) -> Three:
    a, b, c = (round(float(value), 4) for value in values)
    return a, b, c


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _mm(values: Sequence[float] | None) -> str:
    return "unknown" if values is None else f"{_by(values)} mm"
