"""The optimiser and its schedule, from their recipe."""

from collections.abc import Collection

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mamba_unet.training.recipe import OptimizerRecipe


def build_optimizer(
    module: nn.Module, recipe: OptimizerRecipe, iterations: int, pretrained: Collection[str] = ()
) -> tuple[Optimizer, LambdaLR]:
    """An optimiser of the module's parameters that need gradients, and its learning rate per iteration.

    Args:
        module: what is trained.
        recipe: the optimiser's.
        iterations: optimiser steps of the whole run.
        pretrained: names of the module's parameters that were loaded; they learn at
            `recipe.lr * recipe.lr_pretrained_factor`. The other parameters are the optimiser's first group.
    """
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if recipe.lr_pretrained_factor == 1:
        pretrained = ()
    groups = [
        {"params": [p for name, p in trained.items() if name not in pretrained], "lr": recipe.lr},
        {
            "params": [p for name, p in trained.items() if name in pretrained],
            "lr": recipe.lr * recipe.lr_pretrained_factor,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.name == "sgd":
        optimizer = SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    else:
        optimizer = AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / (recipe.warmup + 1))
        return warmup * max(0.0, 1 - step / iterations) ** recipe.power

    return optimizer, LambdaLR(optimizer, factor)
