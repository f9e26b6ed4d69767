"""Every objective for few labels, by a recipe: stopped and resumed, in two processes, and what its run keeps."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mamba_unet.models.checkpoint import read_metadata
from mamba_unet.training.batches import TrainingData
from mamba_unet.training.objectives.build import build_objective
from mamba_unet.training.recipe import ModelRecipe, RecipeError, load_recipe, save_recipe
from mamba_unet.training.train import train
from mamba_unet.views.slices import Slices

# fed with labels in place of scribbles, which makes no difference to a run
RECIPES = {
    "mean_teacher": {"objective": "mean_teacher", "labelled": 2, "optimizer": {"ema": 0.9}},
    "cps": {"objective": "cps", "labelled": 2, "few_labels": {"validated": 1}},
    "semi_mamba_unet": {"objective": "semi_mamba_unet", "labelled": 2},
    "partial_ce": {"objective": "partial_ce", "few_labels": {"entropy": 0.1, "mumford_shah": 0.5}},
    "mixed": {"objective": "mixed", "few_labels": {"decoders": 2}},
}
NAMES = {  # the validated one first
    "mean_teacher": ["student", "teacher"],
    "cps": ["mamba_unet_2", "mamba_unet_1"],
    "semi_mamba_unet": ["mamba_unet", "unet"],
    "partial_ce": ["mamba_unet"],
    "mixed": ["decoder_1", "decoder_2"],
}
PARTS = {
    "mean_teacher": {"supervised", "consistency"},
    "cps": {"supervised", "pseudo"},
    "semi_mamba_unet": {"supervised", "pseudo", "contrast"},
    "partial_ce": {"cross_entropy", "entropy", "mumford_shah"},
    "mixed": {"cross_entropy", "pseudo"},
}


@pytest.fixture
def few(recipe):
    """A run of four iterations by each objective."""

    def make(name: str):
        made = load_recipe(recipe, {**RECIPES[name], "iterations": 4, "validate_every": 2})
        if name == "semi_mamba_unet":
            made.few_labels.partners = [ModelRecipe("unet", "nano")]
        return made

    return make


def logged(folder: Path) -> dict[str, list[float]]:
    (path,) = folder.glob("logs/version_0/metrics.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: [float(row[column]) for row in rows if row[column]] for column in rows[0]}


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_run_that_is_stopped_and_resumed_is_the_uninterrupted_one_and_keeps_all_its_networks(
    name, few, phantom, stopped_and_resumed
):
    recipe = few(name)
    whole = train(recipe)
    stopped = stopped_and_resumed(recipe, 3)
    states = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (whole, stopped)]
    first, second = (state["objective"] for state in states)
    assert states[1]["step"] == 4 and all(torch.equal(value, second[key]) for key, value in first.items())
    assert states[0]["others"] == states[1]["others"] and set(states[0]["others"]) == set(NAMES[name][1:])

    values = logged(whole)
    assert {f"train/{part}" for part in PARTS[name]} <= set(values)
    assert {"val/dice", *(f"val_{other}/dice" for other in NAMES[name][1:])} <= set(values)
    for other in NAMES[name][1:]:
        metadata = read_metadata(whole / f"best_{other}.safetensors")
        assert metadata.validation["mean_foreground_dice"] == pytest.approx(states[0]["others"][other])
        assert metadata.model == ("unet" if other == "unet" else "mamba_unet")
    progress = json.loads((whole / "progress.json").read_text())
    assert set(progress.get("best_validation_dice_of_others", {})) == set(NAMES[name][1:])

    said = json.loads((whole / "annotation.json").read_text())
    counts = (2, 3) if "labelled" in RECIPES[name] else (5, 0)
    assert tuple(len(said[f"{kind}_patients"]) for kind in ("labelled", "unlabelled")) == counts
    used = {*said["labelled_cases"], *said["unlabelled_cases"], *phantom.split("val")}
    assert set(states[0]["lineage"]) == {phantom.image_hash(case) for case in used}, "images without labels count"
    if name == "partial_ce":  # nothing was taken for labels
        assert not (whole / "pseudo_labels").exists()
        return
    moments = sorted(path.name for path in (whole / "pseudo_labels").iterdir())
    assert moments == ["moment_1.npz", "moment_2.npz"], "the first validation is in the middle already"
    with np.load(whole / "pseudo_labels" / "moment_2.npz") as kept:
        assert kept["iteration"] == 4 and len(kept["cases"]) == len(kept["slices"]) == 3
        assert sum(key.startswith("0/") for key in kept) == (1 if name in ("mean_teacher", "mixed") else 2)


@pytest.mark.parametrize("name", ["mean_teacher", "mixed"])  # whose noise and mixtures are drawn by chance
def test_two_processes_give_the_losses_of_one(name, few, tmp_path):
    recipe = few(name)
    recipe.model.arguments["drop_path_rate"] = 0.0
    recipe.iterations = recipe.validate_every = 3
    one = logged(train(recipe))
    recipe.out, recipe.trainer.devices, recipe.trainer.strategy = str(tmp_path / "two"), 2, "ddp"
    save_recipe(tmp_path / "recipe.yaml", recipe)
    words = [sys.executable, "-m", "mamba_unet", "train", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = logged(Path(recipe.out))
    for part in ("loss", *PARTS[name]):
        assert one[f"train/{part}"] and one[f"train/{part}"] == pytest.approx(two[f"train/{part}"], abs=1e-5)


def test_of_patients_without_labels_no_label_is_shown(phantom):
    data = TrainingData(phantom, Slices((16, 16), fit="crop", foreground=1.0), "nnunet", labelled=2)
    batches = data.batches({"labelled": 2, "unlabelled": 2}, 0, 4, 0, 1, pin_memory=False)
    for batch in batches:
        assert (batch["unlabelled"]["label"] == 255).all() and (batch["labelled"]["label"] != 255).any()
        assert {name.split("/")[0] for name in batch["unlabelled"]["name"]} <= set(data.unlabelled_cases)
        assert {name.split("/")[0] for name in batch["labelled"]["name"]} <= set(data.training_cases)
    assert not set(data.training_cases) & set(data.unlabelled_cases)


def test_what_does_not_fit_together_is_said(recipe):
    for keys, message in (
        ({"objective": "cps", "few_labels": {"validated": 2}}, "validated is 2; expected 0 to 1"),
        ({"objective": "mean_teacher", "batch_size": 1}, "shares it between images with and without labels"),
        ({"few_labels": {"partners": [{"name": "unet"}]}}, "supervised trains 1 network, but .* are 2"),
        ({"objective": "cps", "few_labels": {"decoders": 2}}, "decoders is 2; expected 1, or 2 for objective mixed"),
        ({"objective": "cps", "few_labels": {"ramp": 2}}, "ramp is 2.0; expected at least 0 and at most 1"),
        ({"labelled": 0}, "labelled must be a number of patients from 1 on"),
        ({"few_labels": {"mumford_shah": 1}}, "mumford_shah is for objective partial_ce or mixed, not for supervised"),
        ({"objective": "cps", "few_labels": {"noise": 0.2}}, "noise is for objective mean_teacher, not for cps"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe(recipe, keys)
    for keys, message in (
        ({"labelled": 7}, "has 5 patients with labels .*; it counts patients, not images"),
        ({"labelled": ["nobody"]}, "labelled names nobody, expected patients"),
        ({"objective": "mean_teacher"}, "no unlabelled images to train on; label fewer"),
        ({"annotation": "scribble", "view": {"outside": "ignore"}}, "has no scribbles"),
        ({"trainer": {"devices": 3}, "batch_size": 4, **RECIPES["cps"]}, "4, 2 and 2 with and .* cannot be shared"),
    ):
        with pytest.raises(ValueError, match=message):
            train(load_recipe(recipe, keys))
    network = torch.nn.Conv2d(1, 2, 1)
    mixed = load_recipe(recipe, {"objective": "mixed", "few_labels": {"decoders": 2}})
    with pytest.raises(RecipeError, match="decoders is 2, but Conv2d has no encoder"):
        build_objective(mixed, [network, network], 2)
