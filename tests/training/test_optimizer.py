import pytest
import torch
from torch import nn

from mamba_unet.models.vss import VSSBlock
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


def test_weight_decay_reaches_both_optimisers_and_momentum_the_one_that_has_it():
    for name in ("sgd", "adamw"):
        recipe = OptimizerRecipe(name=name, weight_decay=0.3, momentum=0.7)
        optimizer, _ = build_optimizer(nn.Linear(1, 1), recipe, 10)
        assert optimizer.param_groups[0]["weight_decay"] == 0.3
        assert optimizer.param_groups[0].get("momentum") == (0.7 if name == "sgd" else None)


def test_biases_norms_and_the_scans_a_and_d_are_spared_decay_where_the_recipe_says():
    module = VSSBlock(8, d_state=2)
    optimizer, _ = build_optimizer(module, OptimizerRecipe(name="adamw", weight_decay=0.3, decay_all=False), 10)
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    assert sorted(names[id(p)].removeprefix("self_attention.") for p in decayed["params"]) == [
        "conv2d.weight", "dt_projs_weight", "in_proj.weight", "out_proj.weight", "x_proj_weight",
    ]  # fmt: skip
    assert sum(len(group["params"]) for group in (decayed, spared)) == len(names)


def test_the_rate_falls_with_the_share_that_is_done_where_that_is_more_than_the_iterations():
    done = [0.5, 0.0, 0.0, 1.0]
    parameter = nn.ParameterList([torch.zeros(1)])
    optimizer, schedule = build_optimizer(parameter, OptimizerRecipe(lr=1, power=1), 10, share_done=lambda: done.pop(0))
    found = []
    for _ in range(4):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if done:
            schedule.step()
    assert found == pytest.approx([0.5, 0.9, 0.8, 0])
