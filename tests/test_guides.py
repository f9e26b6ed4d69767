"""The commands of the tutorial and of the guides are run as they stand, with fewer iterations."""

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
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(guide: str, folder: Path) -> str:
    """Run every command of a guide in a folder, with a smaller network and two iterations; what it printed."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs" / guide).read_text(), re.S | re.M)
    script = "set -e\n" + "".join(blocks).replace("iterations: 200", "iterations: 2\nmodel: {size: nano}")
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SHORTER = {  # words of the tutorial -> what a test has the patience for
    "mamba-unet phantom heart": "mamba-unet phantom heart --cases 8",
    "train demo": "train demo --iterations 2 --model.size nano",
    "--iterations 100": "--iterations 2 --model.size nano",
}


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs(tmp_path):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / "tutorial.md").read_text(), re.S | re.M)
    assert {language for language, _ in blocks} == {"bash"}
    script = "set -e\n" + "".join(block for _, block in blocks)
    for long, short in SHORTER.items():
        assert script.count(long) == 1, long
        script = script.replace(long, short)
    # the server runs until it is stopped: wait for its address, then stop it
    serving = "mamba-unet serve --checkpoint runs/heart\n"
    assert script.count(serving) == 1
    script = script.replace(
        serving,
        f"{serving.strip()} --port 0 > served.txt 2>&1 & server=$!\n"
        "for wait in $(seq 300); do grep -q http served.txt && break; sleep 0.2; done\n"
        "kill $server; wait $server || true\n",
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert "phantom_007_preview.png" in done.stdout and "foreground mean" in done.stdout
    served = (tmp_path / "served.txt").read_text()
    assert "http://127.0.0.1:" in served or "viewer is not here" in served  # built without network
    for made in ("runs/heart/report.html", "measured/statistics.csv", "comparison/comparison.html", "results_acdc"):
        assert (tmp_path / made).exists(), made


@pytest.mark.slow
def test_every_command_of_the_own_dataset_guide_runs(tmp_path):
    printed = run("own_dataset.md", tmp_path)
    eyes = PreparedDataset(tmp_path / "data" / "eyes")
    assert {name: len(cases) for name, cases in eyes.splits.items()} == {"train": 28, "val": 4, "test": 8}
    assert eyes.class_names == ["background", "rim", "cup"]
    assert f"eyes 40 ['background', 'rim', 'cup'] {eyes.fingerprint}" in printed
    mask = np.asarray(Image.open(tmp_path / "predicted" / "eye03.png"))
    assert mask.shape == (120, 160) and set(np.unique(mask)) <= {0, 128, 255}
    assert (tmp_path / "comparisons" / "eyes" / "comparison.html").is_file()


@pytest.mark.slow
def test_every_command_of_the_colour_guide_runs(tmp_path):
    printed = run("colour_pictures.md", tmp_path)
    polyps = PreparedDataset(tmp_path / "data" / "polyps")
    assert polyps.channels == 3 and polyps.class_names == ["background", "polyp"] and len(polyps.patients) == 8
    assert "16 cases of 8 patients" in printed
    assert read_metadata(tmp_path / "runs" / "polyps" / "best.safetensors").config["in_channels"] == 3
    assert len(list((tmp_path / "predicted").glob("P0?_?.png"))) == 16
    preview = np.asarray(Image.open(tmp_path / "looked_at" / "P00_0_preview.png").convert("RGB")).astype(int)
    assert (np.abs(preview[..., 0] - preview[..., 2]) > 30).mean() > 0.3  # reddish, as the picture


@pytest.mark.slow
def test_every_command_of_the_modalities_guide_runs(tmp_path):
    run("several_modalities.md", tmp_path)
    brains = PreparedDataset(tmp_path / "data" / "brains")
    assert brains.channels == 4 and brains.channel_names == ["FLAIR", "T1", "T1ce", "T2"]
    assert len(brains.identifiers) == 10 and brains.case("brain00").image.shape == (4, 6, 64, 56)
    predicted = sorted(path.name for path in (tmp_path / "predicted").glob("*.nii.gz"))
    assert predicted == [f"brain{number:02}.nii.gz" for number in range(10)]
    assert nib.load(tmp_path / "predicted" / "brain00.nii.gz").shape == (56, 64, 6)
