import pytest
import torch
from torch import nn

from mamba_unet.training.objectives.averaged import Averaged
from mamba_unet.training.objectives.supervised import Supervised


@pytest.fixture
def averaged():
    torch.manual_seed(0)
    return Averaged(Supervised(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)), 2), decay=0.9)


def test_the_average_follows_the_weights_by_the_published_rule(averaged):
    trained, average = averaged.objective.network[0].bias, averaged.network[0].bias
    expected = average.clone()
    for step in range(1, 200):
        with torch.no_grad():
            trained.add_(1)
        averaged.after_step(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * trained
        torch.testing.assert_close(average, expected)


def test_statistics_are_averaged_counters_copied_and_only_the_trained_network_has_gradients(averaged):
    batch = {"image": torch.randn(2, 1, 4, 4), "label": torch.ones(2, 4, 4, dtype=torch.long), "name": ["a", "b"]}
    averaged({"labelled": batch}, 0, 0.0)["loss"].backward()
    assert averaged.trained == "objective.network"
    assert all(p.grad is not None for p in averaged.get_submodule(averaged.trained).parameters())
    assert all(p.grad is None and not p.requires_grad for p in averaged.network.parameters())
    averaged.after_step(1)
    norm, average = averaged.objective.network[1], averaged.network[1]
    torch.testing.assert_close(average.running_mean, norm.running_mean * 9 / 11)
    assert average.num_batches_tracked == norm.num_batches_tracked == 1
