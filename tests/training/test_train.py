import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mamba_unet.data import prepare, write_phantom
from mamba_unet.models.loading import load_checkpoint
from mamba_unet.training import train as run_module
from mamba_unet.training.loop import NonFiniteLossError, SegmentationModule
from mamba_unet.training.recipe import RecipeError, save_recipe
from mamba_unet.training.train import train


def logged(folder: Path, column: str) -> dict[int, float]:
    """step -> value over a run's CSV files, later ones overriding."""
    values = {}
    for path in sorted(folder.glob("logs/version_*/metrics.csv")):
        with open(path, newline="") as file:
            values |= {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}
    return values


def command(recipe, path: Path, *options: str) -> list[str]:
    save_recipe(path, recipe)
    return [sys.executable, "-m", "mamba_unet", "train", str(path), *options]


def test_a_run_folder_holds_what_is_needed_to_trust_and_repeat_the_run(recipe, phantom):
    folder = train(recipe)

    assert yaml.safe_load((folder / "recipe.yaml").read_text())["optimizer"]["lr"] == 1e-3
    assert json.loads((folder / "split.json").read_text()) == phantom.splits
    assert json.loads((folder / "versions.json").read_text())["torch"] == torch.__version__
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(logged(folder, "val/dice")) == [3, 7]
    model, metadata = load_checkpoint(folder)
    assert not model.training
    assert metadata.class_names == phantom.class_names and metadata.fingerprint == phantom.fingerprint
    best = max(logged(folder, "val/dice").values())
    assert metadata.validation["mean_foreground_dice"] == pytest.approx(best)
    assert not [path for path in folder.rglob(".*")], "a temporary file was left"


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_run_killed_anywhere_and_resumed_ends_as_the_uninterrupted_one_bit_for_bit(recipe, tmp_path):
    recipe.iterations = 16
    whole = train(recipe)

    recipe.out = str(tmp_path / "killed")
    words = command(recipe, tmp_path / "recipe.yaml")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = Path(recipe.out) / "progress.json"
    deadline = time.monotonic() + 120
    while not (progress.exists() and json.loads(progress.read_text())["iteration"] >= 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped_at = json.loads(progress.read_text())["iteration"]
    assert 4 <= stopped_at < 16

    subprocess.run([*words, "--resume"], check=True, capture_output=True)
    killed = Path(recipe.out)
    best, again = load_file(whole / "best.safetensors"), load_file(killed / "best.safetensors")
    assert best.keys() == again.keys() and all(torch.equal(best[name], again[name]) for name in best)
    states = [torch.load(f / "last.ckpt", weights_only=True) for f in (whole, killed)]
    assert states[0]["global_step"] == states[1]["global_step"] == 16
    assert all(torch.equal(v, states[1]["state_dict"][k]) for k, v in states[0]["state_dict"].items())
    assert logged(whole, "val/dice") == logged(killed, "val/dice")


def test_two_processes_give_the_loss_of_one_with_the_joint_batch(recipe, tmp_path):
    recipe.model.arguments["drop_path_rate"] = 0.0
    recipe.iterations = recipe.validate_every = 4
    losses = []
    for devices in (1, 2):
        recipe.out = str(tmp_path / f"processes{devices}")
        recipe.trainer.devices, recipe.trainer.strategy = devices, "ddp" if devices == 2 else "auto"
        words = command(recipe, tmp_path / f"{devices}.yaml")
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        losses.append([logged(Path(recipe.out), f"train/{name}") for name in ("loss", "dice_loss")])
    assert len(losses[0][0]) > 0
    for one, two in zip(*losses, strict=True):
        assert one == pytest.approx(two, abs=1e-5)


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe):
    (Path(recipe.out)).mkdir()
    save_recipe(Path(recipe.out) / "recipe.yaml", recipe)
    with pytest.raises(RecipeError, match="--resume"):
        train(recipe)


def test_resuming_with_another_recipe_is_refused_and_names_what_differs(recipe):
    folder = train(dataclasses.replace(recipe, iterations=1, validate_every=1))
    with pytest.raises(RecipeError, match=r"batch_size: 4 then, 2 now"):
        train(dataclasses.replace(recipe, iterations=1, validate_every=1, batch_size=2, out=str(folder)), resume=True)


def test_resuming_on_data_that_was_prepared_anew_is_refused_before_anything_is_written(recipe, phantom, tmp_path):
    folder = train(dataclasses.replace(recipe, iterations=1, validate_every=1))
    again = dataclasses.replace(recipe, iterations=1, validate_every=1, data=str(tmp_path / "data"), out=str(folder))
    before = (folder / "split.json").read_bytes()

    write_phantom(tmp_path / "raw", cases=8, seed=0)
    prepare(tmp_path / "raw", tmp_path / "data", seed=1, progress=False)
    with pytest.raises(RecipeError, match="another split"):
        train(again, resume=True)

    write_phantom(tmp_path / "other", cases=8, seed=1)
    prepare(tmp_path / "other", tmp_path / "data", splits=phantom.folder / "splits.json", progress=False)
    with pytest.raises(RecipeError, match="other data"):
        train(again, resume=True)
    assert (folder / "split.json").read_bytes() == before


def test_a_non_finite_loss_stops_with_the_cases_and_leaves_the_checkpoints(recipe, monkeypatch):
    real = run_module.SegmentationModule.training_step

    def poisoned(self: SegmentationModule, batch, batch_idx):
        if self.global_step == 5:
            batch["image"][0] = float("nan")
        return real(self, batch, batch_idx)

    monkeypatch.setattr(run_module.SegmentationModule, "training_step", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"iteration 5; slices in the batch: phantom\S+/\d+"):
        train(recipe)
    model, metadata = load_checkpoint(recipe.out)
    assert metadata.validation["iteration"] == 4
    assert all(p.isfinite().all() for p in model.parameters())


def test_weights_that_became_infinite_do_not_become_the_state_to_resume_from(recipe, monkeypatch):
    def poisoned(self: SegmentationModule, *args):
        if self.global_step == 8:  # after the last update before the second validation, whose loss was finite
            next(self.model.parameters()).data[0] = float("inf")

    monkeypatch.setattr(run_module.SegmentationModule, "on_train_batch_end", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"weights .* at iteration 7; slices in the batch: phantom\S+/\d+"):
        train(recipe)
    assert torch.load(Path(recipe.out) / "last.ckpt", weights_only=True)["global_step"] == 4


def test_the_last_iteration_is_validated_whatever_the_interval(recipe):
    recipe.iterations, recipe.validate_every = 5, 2
    folder = train(recipe)
    assert list(logged(folder, "val/dice")) == [1, 3, 4]
    train(recipe, resume=True)  # has nothing left to do
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 5
    assert json.loads((folder / "progress.json").read_text())["iteration"] == 5
    assert list(logged(folder, "val/dice")) == [1, 3, 4]


def test_validation_patients_without_any_foreground_are_said(recipe, phantom, tmp_path, monkeypatch):
    data = shutil.copytree(phantom.folder, tmp_path / "data")
    for case in phantom.split("val"):
        np.save(data / "labels" / f"{case}.npy", np.zeros(phantom.shape(case), np.uint8))
    recipe.data, recipe.iterations, recipe.validate_every = str(data), 1, 1
    empty = "mamba_unet.training.loop.predict_volume"
    monkeypatch.setattr(empty, lambda model, image, size: np.zeros(image.shape, np.uint8))
    with pytest.raises(ValueError, match="no foreground class is in any label of the validation cases"):
        train(recipe)


def test_a_constructor_argument_that_the_network_does_not_have_is_said(recipe):
    recipe.model.arguments["drop_rate"] = 0.1
    with pytest.raises(RecipeError, match=r"model\.arguments .*'drop_rate'"):
        train(recipe)
    assert not Path(recipe.out).exists()


def test_missing_data_or_out_is_said(recipe):
    recipe.out = None
    with pytest.raises(RecipeError, match="--out"):
        train(recipe)


def test_a_run_killed_behind_its_last_checkpoint_is_completed_by_resuming(recipe):
    folder = train(recipe)
    (folder / "progress.json").unlink()
    train(recipe, resume=True)
    progress = json.loads((folder / "progress.json").read_text())
    assert progress["iteration"] == progress["iterations"] == 8
    assert progress["best_validation_dice"] == pytest.approx(max(logged(folder, "val/dice").values()))
