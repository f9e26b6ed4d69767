"""Small networks with weights that were never trained, as checkpoints that can be exported."""

import nibabel as nib
import numpy as np
import pytest
import torch

from mamba_unet import build_model
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.models.registry import model_spec, resolve_config
from mamba_unet.views.intensity import MINMAX, intensity_rules
from mamba_unet.views.patches import Patches
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory):
    """Writes a run folder of a network by its name."""

    def make(name: str, **arguments: int):
        torch.manual_seed(0)
        config = resolve_config("nano", arguments, name)
        model = build_model(name, 1, 3, **config)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # so that norms and biases are not what leaves no trace
                parameter.data += 0.1 * torch.randn_like(parameter)
        view = Slices((40, 48)) if model_spec(name).spatial_dims == 2 else Patches((16, 32, 32), (2.0, 1.5, 1.5))
        preprocessing = Preprocessing(intensity_rules(MINMAX), "SPL", view)
        metadata = CheckpointMetadata(
            name, {"in_channels": 1, "num_classes": 3, **config}, ["background", "rim", "cup"],
            preprocessing.to_json(), dataset="eyes", channel_names=["MR"],
        )  # fmt: skip
        folder = tmp_path_factory.mktemp(name)
        save_checkpoint(folder / "best.safetensors", model.eval(), metadata)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint):
    return make_checkpoint("mamba_unet")


@pytest.fixture(scope="session")
def onnx_file(checkpoint, tmp_path_factory):
    """The checkpoint as an ONNX file."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from mamba_unet import export_model

    return export_model(checkpoint, tmp_path_factory.mktemp("onnx") / "eyes.onnx").path


@pytest.fixture(scope="session")
def scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "eye.nii.gz"
    array = np.random.default_rng(0).normal(100, 20, (50, 37, 5)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1])), path)
    return path
