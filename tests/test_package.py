"""What the package weighs at import, and what it says of itself."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mamba_unet

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "SimpleITK fastapi h5py highdicom jsonargparse lightning lightning_fabric matplotlib monai nibabel pydicom scipy "
    "tensorboard triton uvicorn"
).split()


@pytest.mark.parametrize("network", ["mamba_unet", "mamba_unet_fine"])
def test_the_network_alone_imports_no_reader_no_trainer_and_no_server(network):
    code = (
        "import sys, mamba_unet; assert 'torch' not in sys.modules; mamba_unet.MambaUNet;"
        f"mamba_unet.build_model({network!r}, size='nano');"
        f"print(*sorted({set(HEAVY)} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mamba_unet.__version__
    assert citation["authors"] == [{"name": "the mamba-unet contributors"}]
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2402.05079"
