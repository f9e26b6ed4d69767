"""The interface carries more than supervision: a mean teacher on two streams, trained, stopped and resumed."""

import copy

import pytest
import torch

from mamba_unet.training import train as train_module
from mamba_unet.training.batches import TrainingData
from mamba_unet.training.loop import Training
from mamba_unet.training.objectives.base import Objective
from mamba_unet.training.objectives.losses import segmentation_loss
from mamba_unet.training.signals import TrainingStopped
from mamba_unet.training.train import train
from mamba_unet.views.slices import Slices


class MeanTeacher(Objective):
    """The student learns labels, and on other slices to agree with a moving average of itself."""

    def __init__(self, network, batch_size):
        super().__init__()
        self.network, self.teacher = network, copy.deepcopy(network).requires_grad_(False)
        self.streams = {"labelled": batch_size // 2, "unlabelled": batch_size // 2}

    def forward(self, batch, step):
        losses = segmentation_loss(self.network(batch["labelled"]["image"]), batch["labelled"]["label"])
        image = batch["unlabelled"]["image"]
        with torch.no_grad():
            wanted = self.teacher(image).softmax(1)
        consistency = (self.network(image).softmax(1) - wanted).square().mean()
        return {"loss": losses["loss"] + 0.1 * consistency, "supervised": losses["loss"], "consistency": consistency}

    @torch.no_grad()
    def after_step(self, step):
        for teacher, student in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
            teacher.lerp_(student, 0.1)


@pytest.fixture
def mean_teacher(monkeypatch):
    """`train` takes the mean teacher, and the labelled slices again as the unlabelled stream."""
    real = TrainingData.__init__

    def with_unlabelled(self, *args):
        real(self, *args)
        self.samples["unlabelled"] = copy.copy(self.samples["labelled"])

    monkeypatch.setattr(TrainingData, "__init__", with_unlabelled)
    monkeypatch.setattr(train_module, "Supervised", MeanTeacher)


def test_a_mean_teacher_is_a_subclass_and_resumes_bit_for_bit(mean_teacher, recipe, tmp_path, monkeypatch):
    whole = train(recipe)
    states = [torch.load(whole / "last.ckpt", weights_only=True)]
    header = (whole / "logs" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert {"train/loss", "train/supervised", "train/consistency", "val/dice"} <= set(header.split(","))

    real = Training._in_any_process
    recipe.out = str(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_in_any_process", lambda self, happened: self.step == 3 or real(self, happened))
        with pytest.raises(TrainingStopped):
            train(recipe)
    states.append(torch.load(train(recipe, resume=True) / "last.ckpt", weights_only=True))
    weights = [state["objective"] for state in states]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    teacher, student = (weights[0][f"{part}.norm.weight"] for part in ("teacher", "network"))
    assert not torch.equal(teacher, student)
    network = 2 * len(list(states[0]["optimizer"]["state"]))  # the teacher has no optimiser
    assert network == len([name for name in weights[0] if "relative_position_index" not in name])


def test_streams_draw_differently_and_an_unknown_one_is_named(phantom):
    data = TrainingData(phantom, Slices((16, 16)), workers=0)
    data.samples["unlabelled"] = data.samples["labelled"]
    batch = next(data.batches({"labelled": 4, "unlabelled": 4}, 0, 5, 0, 1, False))
    assert batch["labelled"]["name"] != batch["unlabelled"]["name"]
    with pytest.raises(ValueError, match="no stream scribbles in this data, only labelled, unlabelled"):
        next(data.batches({"scribbles": 1}, 0, 5, 0, 1, False))
