"""Measure the memory that a long CT takes in `prepare` and in `predict`, beside the network.

    python benchmarks/volume_memory.py

A drawn CT of 400 slices of 512 x 512 with 8 structures, as .nii.gz, is prepared, and segmented in patches of
64 x 192 x 160 by a network of one 1 x 1 x 1 convolution with 9 classes, so that the memory is not a network's: once on
its own grid, once on a coarser one. Each part runs in a process of its own. Peaks are resident memory, less what the
process held once the network had answered one patch. About ten minutes on two cores.
Writes benchmarks/results/volume_memory_<hardware>_<date>.md and .json.
"""

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import nn

from mamba_unet.data.prepare import _record, _write
from mamba_unet.data.survey import examine, survey
from mamba_unet.files import write_json
from mamba_unet.inference import Predictor, predict_files
from mamba_unet.models import registry
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.views.intensity import window
from mamba_unet.views.patches import Patches
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.volumes.isolated import Reader
from measuring import process_peak_mib, table, write_result

SHAPE, SPACING_MM = (400, 512, 512), (1.0, 0.8, 0.8)  # D, H, W
CLASSES = 9
PATCH = (64, 192, 160)
GRIDS = {"its own grid": None, "a grid of 1.5 x 1 x 1 mm": (1.5, 1.0, 1.0)}
BOUND_MIB = 4096


class Point(nn.Module):
    """One 1 x 1 x 1 convolution."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Conv3d(in_channels, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def draw(folder: Path) -> None:
    """A CT and its label in nnU-Net's layout."""
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, [side // 8 for side in SHAPE]).astype(np.int16)
    image = image.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    label = np.zeros(SHAPE, np.uint8)
    for index in range(1, CLASSES):
        label[40 * index : 40 * index + 60, 50 * index : 50 * index + 80, 100:300] = index
    affine = np.diag([*SPACING_MM[::-1], 1.0])
    for name, array in (("imagesTr/ct_0000", image), ("labelsTr/ct", label)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array.T, affine), folder / f"{name}.nii.gz")
    labels = {"background": 0} | {f"structure {index}": index for index in range(1, CLASSES)}
    write_json(folder / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels})


def prepare_one(folder: Path) -> float:
    """MiB that preparing the case takes: read, checked, scaled and written, as `prepare` does with each case."""
    before = process_peak_mib()
    with Reader() as reader:
        plan = survey(folder / "raw", None, None, None, reader)
        (entry,) = plan.listing.entries
        case, problems = examine(plan, entry, reader)
    if case is None:
        raise SystemExit(str(problems))
    _write(plan, entry, case, _record(plan, entry, case), problems, folder / "prepared")
    return process_peak_mib() - before


def predict_one(folder: Path, spacing_mm: tuple[float, float, float] | None) -> float:
    """MiB that segmenting the file takes, from the file to the file."""
    registry.MODELS["point"] = registry.ModelSpec(Point, spatial_dims=3)
    view = Patches(PATCH, spacing_mm or SPACING_MM)
    names = ["background", *(f"structure {index}" for index in range(1, CLASSES))]
    config = {"in_channels": 1, "num_classes": CLASSES}
    preprocessing = Preprocessing((window(-125, 275),), "SPL", view).to_json()
    run = folder / "run" / "best.safetensors"
    save_checkpoint(run, Point(**config), CheckpointMetadata("point", config, names, preprocessing))
    predictor = Predictor(run, "cpu")
    with torch.inference_mode():
        predictor.members[0](torch.zeros(1, 1, *PATCH)).softmax(dim=1)
    before = process_peak_mib()
    done = predict_files(
        predictor, [folder / "raw/imagesTr/ct_0000.nii.gz"], folder / "out", progress=False, overwrite=True
    )
    if done.failures:
        raise SystemExit(str(done.failures))
    return process_peak_mib() - before


def alone(measure: Callable[..., float], *arguments: object) -> float:
    """The result of a function in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder / "raw")
        peaks = {"prepare": alone(prepare_one, folder)}
        for grid, spacing_mm in GRIDS.items():
            peaks[f"predict on {grid}"] = alone(predict_one, folder, spacing_mm)
    whole = CLASSES * np.prod(SHAPE) * 4 / 2**20
    verdict = "below" if max(peaks.values()) < BOUND_MIB else "ABOVE"
    lines = [
        f"A CT of {' x '.join(map(str, SHAPE))} voxels, {CLASSES} classes, patches of {' x '.join(map(str, PATCH))}.",
        "",
        table(["peak memory beside the network", "MiB"], [[name, f"{mib:,.0f}"] for name, mib in peaks.items()]),
        "",
        f"All are {verdict} {BOUND_MIB:,} MiB. Scores of every class for the whole volume would be {whole:,.0f} MiB.",
        "",
        "Command: `python benchmarks/volume_memory.py`",
    ]
    values = {"shape": SHAPE, "classes": CLASSES, "patch": PATCH, "peak_mib": peaks, "scores_mib": float(whole)}
    write_result("volume_memory", "Memory of a long CT", lines, values)


if __name__ == "__main__":
    main()
