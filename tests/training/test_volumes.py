"""Networks for volumes through the same commands: plan, train, resume, evaluate, predict."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mamba_unet.data import PreparedDataset
from mamba_unet.data.planning import plan
from mamba_unet.inference import Predictor, predict_files
from mamba_unet.inference.evaluate import evaluate_checkpoint
from mamba_unet.models.checkpoint import read_metadata
from mamba_unet.runs import RunFolder
from mamba_unet.training.recipe import RecipeError, load_recipe
from mamba_unet.training.state import load_state
from mamba_unet.training.train import check_resumable, train


@pytest.fixture
def volumes(recipe):
    """A run of seconds on patches that are resampled."""
    return load_recipe(
        recipe,
        {
            "model": {"name": "mamba_unet_3d", "size": "nano", "arguments": {"dims": [8, 16, 32], "d_state": 2}},
            "view": {"kind": "patches", "size": [4, 32, 32], "spacing_mm": [9, 3, 3]},
            "augment": "nnunet",
            "batch_size": 2,
            "iterations": 4,
            "validate_every": 4,
        },
    )


def test_a_3d_run_that_is_stopped_and_resumed_is_the_uninterrupted_one_and_predicts(
    volumes, phantom, tmp_path, stopped_and_resumed
):
    whole = train(volumes)

    def look(batch):
        assert batch["labelled"]["image"].shape == (2, 1, 4, 32, 32)

    stopped = stopped_and_resumed(volumes, 2, look)
    first, second = (load_state(RunFolder(folder))["objective"] for folder in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    first, second = (load_file(folder / "best.safetensors") for folder in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)

    metadata = read_metadata(whole / "best.safetensors")
    assert metadata.preprocessing["view"]["kind"] == "patches" and metadata.config["spacing"] == [9, 3, 3]
    evaluation = evaluate_checkpoint(whole, phantom, "test", device="cpu")
    assert evaluation.distance_unit == "mm" and len(evaluation.cases) == len(phantom.split("test"))
    case = phantom.case(phantom.split("test")[0])
    predict_files(Predictor(whole, "cpu", tta=True), [case.source], tmp_path / "out", progress=False)
    written = nib.load(next((tmp_path / "out").glob("*.nii.gz")))
    assert written.shape == case.label.shape[::-1] and np.allclose(written.affine, case.affine)


def test_what_a_recipe_leaves_to_the_plan_is_written_into_the_run(volumes, phantom, tmp_path):
    recipe = load_recipe(volumes, {"view.size": "plan", "view.spacing_mm": "plan", "batch_size": "plan"})
    recipe.iterations = recipe.validate_every = 1
    made = plan(phantom.folder, memory_gib=0.02, spacing_mm=(9, 4, 4))
    run = RunFolder(train(recipe))
    resolved = load_recipe(run.recipe)
    assert (resolved.view.size, resolved.view.spacing_mm) == (made.size, made.spacing_mm) == (made.size, (9, 4, 4))
    assert resolved.batch_size == made.batch_size and np.prod(made.size) < 10_000
    check_resumable(run, recipe, phantom)
    plan(phantom.folder, memory_gib=0.02, spacing_mm=(9, 5, 5))
    with pytest.raises(RecipeError, match=r"view.spacing_mm: \[9.0, 4.0, 4.0\] then, \[9.0, 5.0, 5.0\] now"):
        check_resumable(run, recipe, phantom)
    (phantom.folder / "plan.json").unlink()
    assert json.loads((run.path / "versions.json").read_text())

    shutil.copytree(phantom.folder, tmp_path / "corrected")
    described = json.loads((phantom.folder / "dataset.json").read_text())
    next(iter(described["cases"].values()))["spacing_mm"] = [9.0, 1.0, 1.0]
    (tmp_path / "corrected" / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(RecipeError, match="resampled by other voxel sizes"):
        check_resumable(run, resolved, PreparedDataset(tmp_path / "corrected"))


def test_a_network_and_a_view_of_different_axes_are_refused_with_the_remedy(volumes, recipe):
    flat = load_recipe(volumes, {"model": {"name": "mamba_unet"}})
    with pytest.raises(RecipeError, match=r"mamba_unet is a network of 2 axes, .* set view.kind: slices"):
        train(flat)
    with pytest.raises(RecipeError, match=r"unet_3d is a network of 3 axes, .* set view.kind: patches"):
        train(load_recipe(recipe, {"model": {"name": "unet_3d", "size": None, "arguments": {}}}))
