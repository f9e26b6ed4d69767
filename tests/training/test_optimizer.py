import pytest
import torch
from torch import nn

from mamba_unet.training.optimizer import build_optimizer
from mamba_unet.training.recipe import OptimizerRecipe


@pytest.fixture
def module():
    module = nn.Module()
    module.old, module.new, module.frozen = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    return module


def rates(optimizer):
    return [(len(group["params"]), group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_loaded_layers_learn_at_their_own_rate_and_frozen_ones_not_at_all(module, name):
    recipe = OptimizerRecipe(name=name, lr=0.1, lr_pretrained_factor=0.5, power=1)
    optimizer, schedule = build_optimizer(module, recipe, 10, {"old.weight", "old.bias", "absent"})
    assert rates(optimizer) == [(2, 0.1), (2, 0.05)]
    optimizer.step()
    schedule.step()
    assert rates(optimizer) == [(2, pytest.approx(0.09)), (2, pytest.approx(0.045))]


def test_equal_rates_are_one_group_and_a_wholly_loaded_network_too(module):
    assert rates(build_optimizer(module, OptimizerRecipe(), 10, {"old.weight"})[0]) == [(4, 0.01)]
    names = [name for name, _ in module.named_parameters()]
    assert rates(build_optimizer(module, OptimizerRecipe(lr_pretrained_factor=0.1), 10, names)[0]) == [(4, 0.001)]


def test_the_schedule_rises_linearly_and_falls_by_its_power():
    parameter = nn.ParameterList([torch.zeros(1)])
    optimizer, schedule = build_optimizer(parameter, OptimizerRecipe(lr=1, warmup=3, power=2), 10)
    found = []
    for _ in range(10):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [min(1, (step + 1) / 4) * (1 - step / 10) ** 2 for step in range(10)]
    assert found == pytest.approx(expected) and found[3] > found[0] > 0


def test_weight_decay_reaches_both_optimisers():
    for name in ("sgd", "adamw"):
        optimizer, _ = build_optimizer(nn.Linear(1, 1), OptimizerRecipe(name=name, weight_decay=0.3), 10)
        assert optimizer.param_groups[0]["weight_decay"] == 0.3
