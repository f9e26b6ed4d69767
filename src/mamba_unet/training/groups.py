"""The groups of a recipe's keys: networks, optimiser, devices, few labels."""

from dataclasses import dataclass, field
from typing import Any, Literal


class RecipeError(ValueError):
    """A recipe has an unknown key or a value of the wrong kind."""


@dataclass
class ModelRecipe:
    """The network.

    Attributes:
        name: network's name in the registry.
        size: a name of the registry's sizes, or null for the network's own default.
        arguments: further constructor arguments, which win over `size`.
    """

    name: str = "mamba_unet"
    size: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


# of a field that says where and how a run is computed, not what the experiment is: it may change on `--resume`
PLACE = {"place": True}


@dataclass
class OptimizerRecipe:
    """The optimiser and its schedule, polynomial decay per iteration: lr * (1 - iteration / iterations)^power.

    With a limit of minutes, the share of them that is spent counts where it is more than that of the iterations.

    Attributes:
        name: `sgd` (the paper's) or `adamw`.
        lr: learning rate at the start.
        lr_pretrained_factor: the learning rate of layers that were filled from `pretrained` is `lr` times this.
        momentum: momentum of SGD.
        weight_decay: weight decay.
        decay_all: decay every parameter, as the paper does; false spares biases, norms, and A and D of the scan.
        ema: keep a running average of the weights, which forgets `1 - ema` of itself at each iteration, and validate
            and save it instead of the weights; 0 for none.
        power: power of the polynomial decay.
        warmup: iterations over which the learning rate first rises linearly.
        clip_norm: largest gradient norm, or null for no clipping.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    lr_pretrained_factor: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_all: bool = True
    ema: float = 0.0
    power: float = 0.9
    warmup: int = 0
    clip_norm: float | None = None


@dataclass
class TrainerRecipe:
    """The devices, as Lightning names them.

    Attributes:
        accelerator: `auto`, `cpu`, `gpu`, `mps`.
        devices: number of devices, `auto`, or GPUs by number such as `0,1`.
        num_nodes: number of machines.
        strategy: `auto`, `ddp`, ...
        precision: `32-true`, `bf16-mixed`, `16-mixed` or `64-true`; weights of 16 bits are too coarse for the running
            averages.
        deterministic: ask torch for deterministic algorithms.
    """

    accelerator: str = field(default="auto", metadata=PLACE)
    devices: int | str = field(default="auto", metadata=PLACE)
    num_nodes: int = field(default=1, metadata=PLACE)
    strategy: str = field(default="auto", metadata=PLACE)
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "64-true"] = "32-true"
    deterministic: bool = False


@dataclass
class FewLabelsRecipe:
    """What few labels and scribbles need; docs/few_labels.md says where a default is not the published one.

    Attributes:
        partners: networks that learn beside `model`, each with the keys of `model`. `cps` and `semi_mamba_unet` take
            one, `mixed` one or two. Without any, `semi_mamba_unet` takes the U-Net, the others `model` with other
            random weights.
        decoders: 2 makes the partner of `mixed` a second decoder behind the encoder of `model`.
        validated: which network is validated and saved as the best: 0 is `model`, 1 the first partner or the teacher,
            2 the second partner. The others are validated, saved and reported beside it.
        weight: weight of what is learned without labels; null is 0.1, for `mixed` 1 and with two decoders 0.5.
        ramp: share of the training in which the weight rises, by exp(-5 (1 - t / T)^2); null is 1, for `mixed` 0.
        background: share of the training in which a pseudo label of `mixed` must be likelier than the background by a
            margin, which falls from 1 to 0 meanwhile; 0 is no margin, as published.
        teacher_decay: what a mean teacher keeps of itself at each step, min(1 - 1 / t, teacher_decay).
        noise: standard deviation of the noise on the teacher's images, cut off at twice that.
        pseudo_loss: how `cps` and `semi_mamba_unet` learn pseudo labels: `ce_dice`, by cross-entropy and Dice; `ce`, as
            cross pseudo supervision was published; `dice`, as the public code of Semi-Mamba-UNet does.
        contrast: term of `semi_mamba_unet`: `pixel`, as the paper says it; `pooled`, as its code does.
        contrast_weight: its weight for each network.
        entropy: weight of the entropy of all pixels, for `partial_ce` and `mixed`.
        mumford_shah: weight of the Mumford-Shah term, for `partial_ce` and `mixed`.
    """

    partners: list[ModelRecipe] = field(default_factory=list)
    decoders: int = 1
    validated: int = 0
    weight: float | None = None
    ramp: float | None = None
    background: float = 0.3
    teacher_decay: float = 0.99
    noise: float = 0.1
    pseudo_loss: Literal["ce_dice", "ce", "dice"] = "ce_dice"
    contrast: Literal["pixel", "pooled"] = "pixel"
    contrast_weight: float = 0.5
    entropy: float = 0.0
    mumford_shah: float = 0.0


Objectives = Literal["supervised", "mean_teacher", "cps", "semi_mamba_unet", "partial_ce", "mixed"]
UNLABELLED = ("mean_teacher", "cps", "semi_mamba_unet")  # half of whose batches has no labels
SCRIBBLED = ("partial_ce", "mixed")  # what is made for labels with open pixels
# objective -> how many networks it may have, without the teacher
NETWORKS = {
    "supervised": (1, 1),
    "mean_teacher": (1, 1),
    "cps": (2, 2),
    "semi_mamba_unet": (2, 2),
    "partial_ce": (1, 1),
    "mixed": (2, 3),
}


# objective -> the keys of few_labels that it takes; what does not fit the number of networks is told apart
_PAIRED = ("partners", "decoders", "validated")
USED = {
    "supervised": _PAIRED,
    "mean_teacher": (*_PAIRED, "weight", "ramp", "teacher_decay", "noise"),
    "cps": (*_PAIRED, "weight", "ramp", "pseudo_loss"),
    "semi_mamba_unet": (*_PAIRED, "weight", "ramp", "pseudo_loss", "contrast", "contrast_weight"),
    "partial_ce": (*_PAIRED, "entropy", "mumford_shah"),
    "mixed": (*_PAIRED, "weight", "ramp", "background", "entropy", "mumford_shah"),
}


def member_recipes(objective: str, model: ModelRecipe, few: FewLabelsRecipe) -> list[ModelRecipe]:
    """All the networks that an objective trains, `model` first. Raises RecipeError if there is no such objective."""
    if objective not in NETWORKS:
        raise RecipeError(f"objective {str(objective)[:80]!r}; expected one of {', '.join(NETWORKS)}")
    partners = list(few.partners)
    if not partners and NETWORKS[objective][0] > 1:
        partners = [ModelRecipe("unet") if objective == "semi_mamba_unet" else model]
    return [model, *partners]


def check_few_labels(objective: str, model: ModelRecipe, few: FewLabelsRecipe, batch_size: int | str) -> None:
    """Raise RecipeError for keys that do not fit together."""
    members = member_recipes(objective, model, few)
    least, most = NETWORKS[objective]
    if not least <= len(members) <= most:
        raise RecipeError(
            f"objective {objective} trains {least if least == most else f'{least} or {most}'} "
            f"network{'s' * (most > 1)}, but model and few_labels.partners are {len(members)}"
        )
    if few.decoders not in (1, 2) or (few.decoders == 2 and (objective != "mixed" or few.partners)):
        raise RecipeError(
            f"few_labels.decoders is {few.decoders}; expected 1, or 2 for objective mixed without few_labels.partners"
        )
    for key, default in vars(FewLabelsRecipe()).items():
        if getattr(few, key) != default and key not in USED[objective]:
            users = [name for name, used in USED.items() if key in used]
            raise RecipeError(
                f"few_labels.{key} is for objective {' or '.join(users)}, not for {objective}; leave it out"
            )
    last = 1 if objective == "mean_teacher" else len(members) - 1
    if not 0 <= few.validated <= last:
        raise RecipeError(f"few_labels.validated is {few.validated}; expected 0 to {last} with objective {objective}")
    if objective in UNLABELLED and batch_size == 1:
        raise RecipeError(
            f"batch_size is 1, but objective {objective} shares it between images with and without labels"
        )
    for name, value, most_allowed in (
        ("weight", few.weight or 0, float("inf")),
        ("ramp", few.ramp or 0, 1),
        ("background", few.background, 1),
        ("teacher_decay", few.teacher_decay, 1),
        ("noise", few.noise, float("inf")),
        ("contrast_weight", few.contrast_weight, float("inf")),
        ("entropy", few.entropy, float("inf")),
        ("mumford_shah", few.mumford_shah, float("inf")),
    ):
        if not 0 <= value <= most_allowed:
            upper = "" if most_allowed == float("inf") else f" and at most {most_allowed}"
            raise RecipeError(f"few_labels.{name} is {value}; expected at least 0{upper}")
