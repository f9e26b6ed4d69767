"""A network whose answer is known, and scans for it."""

import nibabel as nib
import numpy as np
import pytest
import torch

from mamba_unet.checkpoint import CheckpointMetadata, save_checkpoint


class Threshold(torch.nn.Module):
    """Class 1 above a third of the range, class 2 above two thirds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-x, x - 2 / 3, 3 * x - 2], dim=1) * self.weight


@pytest.fixture(scope="session")
def predictor(tmp_path_factory):
    """The threshold network as a Predictor: background, myocardium (grey), left ventricle (white)."""
    from mamba_unet.inference import Predictor

    names = ["background", "myocardium", "left ventricle"]
    metadata = CheckpointMetadata("threshold", {}, names, {"method": "minmax"}, (24, 32), "SPL", "phantom")
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "best.safetensors", Threshold(), metadata)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mamba_unet.models.registry.build_model", lambda *args, **kwargs: Threshold())
        return Predictor(folder, device="cpu", batch_size=2)


def ring(radius: int = 4) -> np.ndarray:
    """(X, Y, Z) = (32, 24, 6): a white disc in a grey ring, off the middle, in all but the outermost slices."""
    x, y = np.mgrid[:32, :24]
    distance = np.hypot(x - 12, y - 9)
    slice_ = np.where(distance < radius, 100, np.where(distance < 7, 50, 0))
    return np.stack([0 * slice_, *[slice_] * 4, 0 * slice_], axis=-1).astype(np.int16)


@pytest.fixture(scope="session")
def scan_file(tmp_path_factory):
    """A scan of 1.5 x 1.5 x 8 mm."""
    path = tmp_path_factory.mktemp("scan") / "patient007_frame01.nii.gz"
    nib.save(nib.Nifti1Image(ring(), np.diag([-1.5, -1.5, 8, 1])), path)
    return path


@pytest.fixture(scope="session")
def cine_file(tmp_path_factory):
    """Four frames of a beating heart: the largest is frame 1, the smallest frame 3."""
    path = tmp_path_factory.mktemp("cine") / "patient007_4d.nii.gz"
    frames = np.stack([ring(radius) for radius in (5, 6, 4, 3)], axis=-1)
    nib.save(nib.Nifti1Image(frames, np.diag([-1.5, -1.5, 8, 1])), path)
    return path
