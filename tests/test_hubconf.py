"""The repository as torch.hub sees it."""

import importlib.util
from pathlib import Path

import pytest
import torch

from mamba_unet import list_models
from mamba_unet.models import checkpoint

ROOT = Path(__file__).resolve().parents[1]


def test_the_entry_points_are_the_networks_and_the_trained_ones():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    # what torch.hub.list lists
    listed = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    assert listed == {*list_models(), "trained"}
    assert all(getattr(hubconf, name).__doc__ for name in listed)


def test_a_network_is_built_by_its_name():
    network = torch.hub.load(str(ROOT), "mamba_unet_fine", source="local", in_channels=2, num_classes=3, size="nano")
    assert network(torch.zeros(1, 2, 32, 32)).shape == (1, 3, 32, 32) and network.stem is not None


def test_a_trained_network_comes_with_its_weights_and_metadata():
    if not any(folder.is_dir() for folder in checkpoint.SHIPPED_FOLDERS):
        pytest.skip("not a clone of the repository")
    network = torch.hub.load(str(ROOT), "trained", source="local", checkpoint="acdc")
    assert network.metadata.dataset == "acdc" and not network.training
