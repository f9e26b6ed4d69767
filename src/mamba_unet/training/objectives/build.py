"""The objective that a recipe asks for."""

from collections import Counter
from collections.abc import Sequence

from torch import nn

from mamba_unet.training.groups import UNLABELLED, RecipeError
from mamba_unet.training.objectives.averaged import Averaged
from mamba_unet.training.objectives.base import Objective, halves
from mamba_unet.training.objectives.contrast import PixelContrast
from mamba_unet.training.objectives.cross_pseudo import CrossPseudo
from mamba_unet.training.objectives.deep import DeeplySupervised
from mamba_unet.training.objectives.mean_teacher import MeanTeacher
from mamba_unet.training.objectives.members import share_encoder
from mamba_unet.training.objectives.ramp import Ramp
from mamba_unet.training.objectives.scribble import MixedPseudoLabels, PartialCrossEntropy
from mamba_unet.training.objectives.supervised import Supervised
from mamba_unet.training.recipe import Recipe


def streams(recipe: Recipe) -> dict[str, int]:
    """Stream -> samples of it in a batch, before the objective is built."""
    return halves(recipe.batch_size) if recipe.objective in UNLABELLED else {"labelled": recipe.batch_size}


def member_names(recipe: Recipe) -> list[str]:
    """What the recipe's networks are called, those that are validated as well as the teacher."""
    if recipe.objective == "mean_teacher":
        return ["student", "teacher"]
    if recipe.objective == "supervised":
        return ["network"]
    if recipe.few_labels.decoders == 2:
        return ["decoder_1", "decoder_2"]
    kinds = [member.name for member in recipe.members]
    seen: Counter[str] = Counter()
    names = []
    for kind in kinds:
        seen[kind] += 1
        names.append(f"{kind}_{seen[kind]}" if kinds.count(kind) > 1 else kind)
    return names


def build_objective(recipe: Recipe, networks: Sequence[nn.Module], num_classes: int) -> Objective:
    """What the recipe minimises.

    Args:
        recipe: of the run.
        networks: built from `recipe.members`, in that order.
        num_classes: with the background.

    Raises:
        RecipeError: the network has no encoder apart, or no decoder of several resolutions, where one is asked for.
    """
    few, names = recipe.few_labels, member_names(recipe)
    validated, decoders = names[few.validated], few.decoders == 2
    if decoders:
        try:
            share_encoder(*networks)
        except ValueError as error:
            raise RecipeError(f"few_labels.decoders is 2, but {error}") from error
    mixed = recipe.objective == "mixed"
    weight = few.weight if few.weight is not None else (0.5 if decoders else 1.0) if mixed else 0.1
    share = few.ramp if few.ramp is not None else 0.0 if mixed else 1.0
    ramp = Ramp(weight, share)
    members = dict(zip(names, networks, strict=False))
    general = (few.entropy, few.mumford_shah)
    objective: Objective
    match recipe.objective:
        case "supervised":
            objective = _supervised(recipe, networks[0], num_classes)
        case "mean_teacher":
            how = (few.teacher_decay, few.noise, recipe.seed, validated)
            objective = MeanTeacher(networks[0], recipe.batch_size, ramp, *how)
        case "cps" | "semi_mamba_unet":
            contrast = PixelContrast(num_classes, few.contrast) if recipe.objective == "semi_mamba_unet" else None
            how = (few.pseudo_loss, contrast, few.contrast_weight)
            objective = CrossPseudo(members, validated, recipe.batch_size, ramp, *how)
        case "partial_ce":
            objective = PartialCrossEntropy(members, validated, recipe.batch_size, *general)
        case "mixed":
            how = (ramp, recipe.seed, few.background)
            objective = MixedPseudoLabels(members, validated, recipe.batch_size, *how, *general)
    return Averaged(objective, recipe.optimizer.ema) if recipe.optimizer.ema else objective


def _supervised(recipe: Recipe, network: nn.Module, num_classes: int) -> Objective:
    if not recipe.deep_supervision:
        return Supervised(network, recipe.batch_size)
    try:
        return DeeplySupervised(network, recipe.batch_size, num_classes)
    except ValueError as error:
        raise RecipeError(f"deep_supervision: {error}; leave the key out") from error
