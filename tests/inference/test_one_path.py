"""Validation, `evaluate` and `predict` are one path: the same labels for the same image."""

import nibabel as nib
import numpy as np
import pytest
import torch

from mamba_unet.data import prepare, write_phantom
from mamba_unet.inference import Predictor, predict_files
from mamba_unet.inference.scores import predict_array
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.models.registry import build_model, resolve_config
from mamba_unet.views.patches import Patches
from mamba_unet.views.slices import Slices


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "raw", cases=4, seed=0)
    return prepare(folder / "raw", folder / "data", progress=False)


@pytest.mark.parametrize(
    "view",
    [
        Slices((32, 48)),
        Slices((32, 32), image="smooth"),
        Slices((48, 48), fit="crop", outside="ignore"),
        Slices((32, 32), fit="crop", spacing_mm=(3.0, 2.5)),
        Patches((4, 48, 32), (9.0, 3.0, 2.5)),
    ],
    ids=["nearest", "smooth", "crop", "crop resampled", "patches"],
)
def test_validation_evaluation_and_prediction_give_the_same_labels(prepared, tmp_path, view):
    name = "mamba_unet" if view.spatial_dims == 2 else "mamba_unet_3d"
    config = {"in_channels": 1, "num_classes": prepared.num_classes, **resolve_config("nano", {}, name)}
    torch.manual_seed(1)
    model = build_model(name, **config).eval()
    metadata = CheckpointMetadata(
        name, config, prepared.class_names, prepared.preprocessing(view).to_json(), prepared.name
    )
    save_checkpoint(tmp_path / "run" / "best.safetensors", model, metadata)
    predictor = Predictor(tmp_path / "run", device="cpu")
    sources = [prepared.case(case).source for case in prepared.identifiers]
    predict_files(predictor, [], tmp_path / "by_data", prepared, prepared.identifiers, progress=False)
    predict_files(predictor, sources, tmp_path / "by_file", progress=False)
    for identifier in prepared.identifiers:
        case = prepared.case(identifier)
        validated = predict_array(model, case.image, view, prepared.num_classes, spacing_mm=case.spacing_mm)
        assert len(np.unique(validated)) > 1
        assert np.array_equal(predictor.predict_case(case), validated)
        for folder in ("by_data", "by_file"):
            written = np.asarray(nib.load(tmp_path / folder / f"{identifier}.nii.gz").dataobj)
            assert np.array_equal(written.T, validated), (folder, identifier)
