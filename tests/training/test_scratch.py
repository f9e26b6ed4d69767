"""What the recipes from scratch add to a run: averaged weights, and a limit of minutes."""

import copy
import csv

import pytest
import torch
from safetensors.torch import load_file

from mamba_unet.runs import RunFolder
from mamba_unet.training.loop import Training
from mamba_unet.training.objectives.supervised import Supervised
from mamba_unet.training.recipe import RecipeError, load_recipe
from mamba_unet.training.state import load_state
from mamba_unet.training.train import train


@pytest.fixture
def scratch(recipe):
    return load_recipe(
        recipe,
        {
            "view": {"fit": "crop", "foreground": 0.5},
            "augment": "nnunet",
            "optimizer": {"ema": 0.9, "decay_all": False, "weight_decay": 0.05, "warmup": 2, "clip_norm": 1.0},
        },
    )


def weights(folder, prefix):
    state = load_state(RunFolder(folder))["objective"]
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def test_the_averaged_weights_are_saved_and_are_not_those_that_are_trained(scratch):
    scratch.validate_every = scratch.iterations  # so that the best is the last
    folder = train(scratch)
    best = load_file(folder / "best.safetensors")
    average, trained = weights(folder, "network."), weights(folder, "objective.network.")
    assert best.keys() == average.keys() == trained.keys()
    assert all(torch.equal(best[name], average[name]) for name in best)
    assert not all(torch.equal(best[name], trained[name]) for name in best)


def test_a_run_from_scratch_that_is_stopped_and_resumed_is_the_uninterrupted_one(scratch, stopped_and_resumed):
    whole = train(scratch)
    stopped = stopped_and_resumed(scratch, 3)
    for folder in (whole, stopped):
        assert load_state(RunFolder(folder))["step"] == 8
    first, second = (load_state(RunFolder(folder))["objective"] for folder in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    first, second = (load_file(folder / "best.safetensors") for folder in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_loaded_layers_of_an_averaged_network_learn_at_their_own_rate(scratch, tmp_path):
    first = train(scratch)
    again = copy.deepcopy(scratch)
    again.out, again.pretrained, again.iterations = str(tmp_path / "again"), str(first), 1
    again.optimizer.lr_pretrained_factor, again.optimizer.warmup = 0.5, 0
    folder = train(again)
    groups = load_state(RunFolder(folder))["optimizer"]["param_groups"]
    assert {group["initial_lr"] for group in groups} == {again.optimizer.lr / 2}  # all were loaded
    assert [group["weight_decay"] for group in groups] == [0.05, 0]


def test_a_limit_of_minutes_ends_a_run_by_its_clock_with_a_validation_and_a_rate_that_has_fallen(scratch, monkeypatch):
    scratch.minutes, scratch.iterations, scratch.validate_every = 60, 1000, 1000
    clock = iter(range(10**9))
    monkeypatch.setattr("mamba_unet.training.loop.time.monotonic", lambda: 60.0 * next(clock))  # a minute at a look
    folder = train(scratch)
    state = load_state(RunFolder(folder))
    assert state["step"] == state["validated"] and 5 < state["step"] < 60
    assert state["optimizer"]["param_groups"][0]["lr"] < 0.1 * scratch.optimizer.lr
    assert (folder / "best.safetensors").is_file() and RunFolder(folder).is_complete
    assert train(scratch, resume=True) == folder and load_state(RunFolder(folder))["step"] == state["step"]
    with pytest.raises(RecipeError, match="minutes"):
        train(load_recipe(scratch, {"minutes": 90}), resume=True)


def test_rate_and_objective_follow_the_clock_that_is_ahead_of_those_of_all_processes(scratch, monkeypatch):
    """Each by its own clock would have another rate, and soon other weights."""
    scratch.minutes, done = 60, []
    monkeypatch.setattr(Training, "_most", lambda self, value: 0.9 if 0 < value < 0.9 else value)
    real = Supervised.forward
    monkeypatch.setattr(Supervised, "forward", lambda *args: done.append(args[-1]) or real(*args))
    (log,) = RunFolder(train(scratch)).metrics
    assert done == [0.9] * 8
    with log.open(newline="") as file:
        (rate,) = [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]
    assert rate == pytest.approx(scratch.optimizer.lr * 0.1**scratch.optimizer.power)
