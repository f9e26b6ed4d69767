"""The optimiser and its schedule, from their recipe."""

from collections.abc import Callable, Collection

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from mamba_unet.training.recipe import OptimizerRecipe

# what weight decay would only harm: it pulls them to a value that means something
SPARED = (".A_logs", ".Ds", ".bias", "_bias")


def build_optimizer(
    module: nn.Module,
    recipe: OptimizerRecipe,
    iterations: int,
    pretrained: Collection[str] = (),
    share_done: Callable[[], float] = lambda: 0.0,
    fused: bool = False,
) -> tuple[Optimizer, LambdaLR]:
    """An optimiser of the module's parameters that need gradients, and its learning rate per iteration.

    Args:
        module: what is trained.
        recipe: the optimiser's.
        iterations: optimiser steps of the whole run.
        pretrained: names of the module's parameters that were loaded; they learn at
            `recipe.lr * recipe.lr_pretrained_factor`. The other parameters are the optimiser's first group.
        share_done: how much of the run is over by another measure than iterations, from 0 to 1.
        fused: take AdamW's step in one kernel.
    """
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if recipe.lr_pretrained_factor == 1:
        pretrained = ()
    groups = []
    for loaded in (False, True):
        for spared in (False, True):
            parameters = [
                parameter
                for name, parameter in trained.items()
                if (name in pretrained, not recipe.decay_all and _is_spared(name, parameter)) == (loaded, spared)
            ]
            rate = recipe.lr * (recipe.lr_pretrained_factor if loaded else 1)
            decay = 0.0 if spared else recipe.weight_decay
            groups.append({"params": parameters, "lr": rate, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    if recipe.name == "sgd":
        optimizer = SGD(groups, momentum=recipe.momentum)
    else:
        optimizer = AdamW(groups, fused=fused or None)

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / (recipe.warmup + 1))
        return warmup * max(0.0, 1 - max(step / iterations, share_done())) ** recipe.power

    return optimizer, LambdaLR(optimizer, factor)


def _is_spared(name: str, parameter: nn.Parameter) -> bool:
    """Biases, norms (all vectors), and A and D of the scan."""
    return parameter.ndim < 2 or f".{name}".endswith(SPARED)
