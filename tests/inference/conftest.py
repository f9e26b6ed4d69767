"""A network whose answer is known, and scans of which every voxel's place can be told."""

import nibabel as nib
import numpy as np
import pytest
import torch

from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.views.intensity import MINMAX, intensity_rules
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices


class Threshold(torch.nn.Module):
    """A 'network' whose answer is known: class 1 where the image is above one half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(x.shape))
        return torch.cat([0.5 - x, x - 0.5], dim=1) * self.weight


@pytest.fixture
def threshold() -> Threshold:
    return Threshold()


@pytest.fixture
def save_threshold(tmp_path, monkeypatch):
    """Writes a run folder that loads as the threshold network, with metadata as given."""
    monkeypatch.setattr("mamba_unet.models.loading.build_model", lambda *args, **kwargs: Threshold())

    def save(name="run", weight=1.0, **changes):
        metadata = {
            "model": "threshold",
            "config": {},
            "class_names": ["background", "bright"],
        }
        preprocessing = Preprocessing(
            intensity_rules(changes.pop("intensity", MINMAX)),
            changes.pop("orientation", "SPL"),
            changes.pop("view", Slices(changes.pop("image_size", (24, 24)))),
        )
        metadata["preprocessing"] = preprocessing.to_json()
        model = Threshold()
        torch.nn.init.constant_(model.weight, weight)
        save_checkpoint(tmp_path / name / "best.safetensors", model, CheckpointMetadata(**metadata | changes))
        return tmp_path / name

    return save


@pytest.fixture
def checkpoint(save_threshold):
    return save_threshold()


@pytest.fixture
def corner() -> np.ndarray:
    """(X, Y, Z) with one bright box in a corner that no flip or transposition maps to itself."""
    array = np.zeros((20, 16, 5), np.float32)
    array[1:6, 9:14, 1] = 7
    array[2, 3, 4] = 0.5  # below half of the maximum
    return array


@pytest.fixture
def save_scan(tmp_path, corner):
    """Writes the corner's scan as NIfTI, or another array (X, Y, Z)."""

    def save(name, array=corner, affine=None, folder="images"):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1]) if affine is None else affine), path)
        return path

    return save
