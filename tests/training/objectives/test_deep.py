"""Losses at several resolutions."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mamba_unet import build_model, list_models
from mamba_unet.models import model_spec
from mamba_unet.models.decoder_stages import DecoderStage, decoder_maps, decoder_stages
from mamba_unet.runs import RunFolder
from mamba_unet.training.objectives.deep import DeeplySupervised, coarser
from mamba_unet.training.objectives.losses import segmentation_loss
from mamba_unet.training.recipe import RecipeError, load_recipe
from mamba_unet.training.state import load_state
from mamba_unet.training.train import train
from mamba_unet.views.labels import IGNORE


class Pyramid(nn.Module):
    """Logits of the image, and its means over 2 and 4 pixels as maps."""

    def __init__(self):
        super().__init__()
        self.pool2, self.pool4, self.logits = nn.AvgPool2d(2), nn.AvgPool2d(4), nn.Conv2d(1, 2, 1)

    def decoder_stages(self):
        return [DecoderStage(self.pool2, 1, (2, 2)), DecoderStage(self.pool4, 1, (4, 4))]

    def forward(self, x):
        self.pool2(x), self.pool4(x)
        return self.logits(x)


def batch_of(image, label):
    return {"labelled": {"image": image, "label": label, "name": []}}


def test_the_loss_is_the_weighted_mean_and_the_coarsest_map_has_none():
    torch.manual_seed(0)
    network = Pyramid()
    objective = DeeplySupervised(network, 1, num_classes=2)
    assert len(objective.heads) == 1
    image, label = torch.randn(1, 1, 4, 4), torch.randint(0, 2, (1, 4, 4))
    losses = objective(batch_of(image, label), 0, 0.0)

    head = objective.heads[0]
    fine = segmentation_loss(network.logits(image), label)
    half = torch.nn.functional.avg_pool2d(image, 2) * head.weight[:, 0, None, None] + head.bias[:, None, None]
    coarse = segmentation_loss(half, label[:, 1::2, 1::2])["loss"]  # of 2 pixels the one behind the middle
    torch.testing.assert_close(losses["loss"], (fine["loss"] + coarse / 2) / 1.5)
    torch.testing.assert_close(losses["coarse_loss"], coarse)
    torch.testing.assert_close(losses["dice_loss"], fine["dice_loss"])


def test_the_label_of_a_coarser_map_is_ignored_where_there_is_only_padding():
    label = torch.arange(15).view(1, 3, 5)
    expected = torch.tensor([[[6, 8, IGNORE], [IGNORE, IGNORE, IGNORE]]])
    assert torch.equal(coarser(label, (2, 3), (2, 2)), expected)
    assert torch.equal(coarser(torch.arange(8)[None, None], (1, 2), (1, 4)), torch.tensor([[[2, 6]]]))


@pytest.mark.parametrize("name", list_models())
def test_every_network_tells_of_its_decoder_and_learns_through_it(name):
    torch.manual_seed(0)
    network = build_model(name, size="nano")
    names = list(network.state_dict())
    stages = decoder_stages(network)
    assert [stage.scale for stage in stages] == sorted(stage.scale for stage in stages)
    size = (4, 50, 64)[3 - model_spec(name).spatial_dims :]
    with decoder_maps(stages) as maps:
        network(torch.randn(2, 1, *size))
    for map_, stage in zip(maps, stages, strict=True):
        assert map_.shape[-1] == stage.channels
        assert map_.shape[-2] * stage.scale[-1] == 64
        assert 50 < map_.shape[-3] * stage.scale[-2] <= 64, "of the padded image"

    objective = DeeplySupervised(network, 2, num_classes=4)
    objective(batch_of(torch.randn(2, 1, *size), torch.randint(0, 4, (2, *size))), 0, 0.0)["loss"].backward()
    assert all(head.weight.grad.any() for head in objective.heads)
    assert list(network.state_dict()) == names and not any(module._forward_hooks for module in network.modules())


def test_a_network_that_tells_of_no_decoder_is_refused(recipe, monkeypatch):
    monkeypatch.delattr("mamba_unet.models.staged_unet.StagedUNet.decoder_stages")
    with pytest.raises(RecipeError, match="deep_supervision: MambaUNet has no decoder of several resolutions"):
        train(load_recipe(recipe, {"deep_supervision": True}))


def test_another_objective_is_refused(recipe):
    with pytest.raises(RecipeError, match="deep_supervision is for objective supervised, not mean_teacher"):
        load_recipe(recipe, {"deep_supervision": True, "objective": "mean_teacher", "labelled": 2})


def test_a_run_resumes_bit_for_bit_and_saves_the_network_without_the_heads(recipe, stopped_and_resumed):
    deep = load_recipe(recipe, {"deep_supervision": True, "optimizer": {"ema": 0.9}})
    whole = train(deep)
    names = set(build_model(size="nano", dims=(8, 16, 32)).state_dict())
    assert set(load_file(whole / "best.safetensors")) == names
    stopped = stopped_and_resumed(deep, 3)
    first, second = (load_state(RunFolder(folder))["objective"] for folder in (whole, stopped))
    assert any("heads" in name for name in first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    header = next(whole.glob("logs/version_0/metrics.csv")).read_text().splitlines()[0]
    assert "train/coarse_loss" in header
