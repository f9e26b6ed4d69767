"""The examples are run as they stand, with fewer iterations."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mamba_unet.data import PreparedDataset
from mamba_unet.models.checkpoint import read_metadata

ROOT = Path(__file__).resolve().parents[1]


def run(example: str, folder: Path) -> str:
    """Run every command of an example in a folder, with a smaller network and two iterations; what it printed."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "examples" / example).read_text(), re.S | re.M)
    script = "set -e\n" + "".join(blocks).replace("iterations: 200", "iterations: 2\nmodel: {size: nano}")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_command_of_the_own_dataset_example_runs(tmp_path):
    printed = run("own_dataset.md", tmp_path)
    eyes = PreparedDataset(tmp_path / "data" / "eyes")
    assert {name: len(cases) for name, cases in eyes.splits.items()} == {"train": 28, "val": 4, "test": 8}
    assert eyes.class_names == ["background", "rim", "cup"]
    assert f"eyes 40 ['background', 'rim', 'cup'] {eyes.fingerprint}" in printed
    mask = np.asarray(Image.open(tmp_path / "predicted" / "eye03.png"))
    assert mask.shape == (120, 160) and set(np.unique(mask)) <= {0, 128, 255}
    assert (tmp_path / "comparisons" / "eyes" / "comparison.html").is_file()


@pytest.mark.slow
def test_every_command_of_the_colour_example_runs(tmp_path):
    printed = run("colour_pictures.md", tmp_path)
    polyps = PreparedDataset(tmp_path / "data" / "polyps")
    assert polyps.channels == 3 and polyps.class_names == ["background", "polyp"] and len(polyps.patients) == 8
    assert "16 cases of 8 patients" in printed
    assert read_metadata(tmp_path / "runs" / "polyps" / "best.safetensors").config["in_channels"] == 3
    assert len(list((tmp_path / "predicted").glob("P0?_?.png"))) == 16
    preview = np.asarray(Image.open(tmp_path / "looked_at" / "P00_0_preview.png").convert("RGB")).astype(int)
    assert (np.abs(preview[..., 0] - preview[..., 2]) > 30).mean() > 0.3  # reddish, as the picture


@pytest.mark.slow
def test_every_command_of_the_modalities_example_runs(tmp_path):
    run("several_modalities.md", tmp_path)
    brains = PreparedDataset(tmp_path / "data" / "brains")
    assert brains.channels == 4 and brains.channel_names == ["FLAIR", "T1", "T1ce", "T2"]
    assert len(brains.identifiers) == 10 and brains.case("brain00").image.shape == (4, 6, 64, 56)
    predicted = sorted(path.name for path in (tmp_path / "predicted").glob("*.nii.gz"))
    assert predicted == [f"brain{number:02}.nii.gz" for number in range(10)]
    assert nib.load(tmp_path / "predicted" / "brain00.nii.gz").shape == (56, 64, 6)
