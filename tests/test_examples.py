"""The examples are run as they stand, with fewer iterations."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mamba_unet.data import PreparedDataset

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_command_of_the_own_dataset_example_runs(tmp_path):
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "examples" / "own_dataset.md").read_text(), re.S | re.M)
    script = "set -e\n" + "".join(blocks).replace("iterations: 200", "iterations: 2\nmodel: {size: nano}")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    eyes = PreparedDataset(tmp_path / "data" / "eyes")
    assert {name: len(cases) for name, cases in eyes.splits.items()} == {"train": 28, "val": 4, "test": 8}
    assert eyes.class_names == ["background", "rim", "cup"]
    assert f"eyes 40 ['background', 'rim', 'cup'] {eyes.fingerprint}" in done.stdout
    assert (tmp_path / "predicted" / "eye03.nii.gz").is_file()
    assert (tmp_path / "comparisons" / "eyes" / "comparison.html").is_file()
