"""Measure what a job costs on its node before and beside its work: the start of a command, the copy for --cache-dir.

    python benchmarks/node.py

The start is that of `mamba-unet predict` on one small picture, with a network that takes no time. The copy is of drawn
arrays from one folder to another of the same disk, hashed as they are. About a minute on two cores. Writes
benchmarks/results/node_<hardware>_<date>.md and .json.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from mamba_unet.data import prepare
from mamba_unet.data.local_copy import local_copy
from mamba_unet.files import write_json
from mamba_unet.models import build_model
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.views.intensity import MINMAX
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices
from measuring import table, write_result

STARTS, CASES, SHAPE = 5, 6, (40, 512, 512)


def start_s(folder: Path) -> float:
    """Median seconds of `mamba-unet predict` on next to nothing."""
    config = {"in_channels": 1, "num_classes": 2, "size": "nano"}
    preprocessing = Preprocessing((MINMAX,), None, Slices((32, 32))).to_json()
    metadata = CheckpointMetadata("mamba_unet", config, ["background", "heart"], preprocessing)
    save_checkpoint(folder / "run" / "best.safetensors", build_model("mamba_unet", **config), metadata)
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(folder / "a.png")
    words = [sys.executable, "-m", "mamba_unet", "predict", folder / "run", folder / "a.png", "--device", "cpu"]
    times = []
    for number in range(STARTS):
        before = time.perf_counter()
        subprocess.run([*words, "--out", folder / f"out{number}"], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def copy_mib_per_s(folder: Path) -> tuple[float, float]:
    """MiB of a data set, and how many of them a second are copied and checked."""
    rng = np.random.default_rng(0)
    for number in range(CASES):
        label = rng.integers(0, 2, SHAPE).astype(np.uint8)
        for name, array in ((f"imagesTr/c{number}_0000", label * 200), (f"labelsTr/c{number}", label)):
            (folder / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array.T, np.eye(4)), folder / "raw" / f"{name}.nii")
    described = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "one": 1}, "file_ending": ".nii"}
    write_json(folder / "raw" / "dataset.json", described)
    prepared = prepare(folder / "raw", folder / "prepared", progress=False)
    mib = sum((prepared.folder / name).stat().st_size for name in prepared.arrays()) / 2**20
    before = time.perf_counter()
    local_copy(prepared.folder, folder / "cache")
    return mib, mib / (time.perf_counter() - before)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        start = start_s(Path(temporary))
        mib, rate = copy_mib_per_s(Path(temporary))
    rows = [["start of predict, s", f"{start:.1f}"], [f"copy of {mib:,.0f} MiB, MiB a second", f"{rate:,.0f}"]]
    lines = [table(["", ""], rows), "", "Command: `python benchmarks/node.py`"]
    values = {"start_s": start, "copied_mib": mib, "copy_mib_per_s": rate}
    write_result("node", "A job on its node", lines, values)


if __name__ == "__main__":
    main()
