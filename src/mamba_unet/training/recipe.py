"""Recipes: one YAML file per experiment, every key a field below, or `base`: another file whose keys it overrides.

Light to import, for the command line's sake.
"""

import difflib
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mamba_unet.files import write_text
from mamba_unet.views.slices import Slices

RENAMED = {"image_size": "view.size"}  # other names of keys, as recipes of earlier versions spell them


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


@dataclass
class OptimizerRecipe:
    """The optimiser and its schedule, polynomial decay per iteration: lr * (1 - iteration / iterations)^power.

    Attributes:
        name: `sgd` (the paper's) or `adamw`.
        lr: learning rate at the start.
        momentum: of SGD.
        weight_decay: on every parameter.
        power: of the polynomial decay.
        warmup: iterations over which the learning rate first rises linearly.
        clip_norm: largest gradient norm, or null for no clipping.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    warmup: int = 0
    clip_norm: float | None = None


@dataclass
class TrainerRecipe:
    """Passed to Lightning's Trainer as it names them.

    Attributes:
        accelerator: `auto`, `cpu`, `gpu`, `mps`.
        devices: number of devices or `auto`.
        num_nodes: number of machines.
        strategy: `auto`, `ddp`, ...
        precision: `32-true`, `bf16-mixed`, `16-mixed`.
        deterministic: ask torch for deterministic algorithms.
    """

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    deterministic: bool = False


@dataclass
class Recipe:
    """One training run. The defaults are the paper's.

    Attributes:
        data: folder that `mamba-unet prepare` wrote.
        out: run folder to write.
        seed: of weights, augmentation, order and stochastic depth.
        fold: train on this fold of the data (`mamba-unet prepare --folds`), from 0; null for the split itself.
        model: the network.
        pretrained: a public checkpoint to start from, or null for random weights.
        view: what the network sees of a case; `image_size` is another name of `view.size`.
        augment: the paper's rotations and flips.
        batch_size: slices per iteration, over all devices together.
        iterations: optimiser steps.
        validate_every: iterations between validations on whole volumes, after each of which the run can be resumed; the
            last iteration is validated always.
        optimizer: the optimiser.
        trainer: Lightning's settings.
        workers: processes that load data, or null to fit the machine.
    """

    data: str | None = None
    out: str | None = None
    seed: int = 0
    fold: int | None = None
    model: ModelRecipe = field(default_factory=ModelRecipe)
    pretrained: str | None = None
    view: Slices = field(default_factory=Slices)
    augment: bool = True
    batch_size: int = 24
    iterations: int = 10_000
    validate_every: int = 200
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)
    workers: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "iterations", "validate_every"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise RecipeError(f"seed must not be negative, got {self.seed}")


def _keys(config: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe; one that ends in `.*` takes any key below it."""
    for f in fields(config):
        key = prefix + f.name
        if is_dataclass(f.type):
            yield from _keys(f.type, key + ".")
        else:
            yield key
            if f.default_factory is dict:
                yield key + ".*"


def check_keys(given: Mapping[str, Any], source: str, known: Sequence[str] = (), prefix: str = "") -> None:
    """Refuse keys that are not known, by default those of a recipe, naming the nearest one that is.

    Raises:
        RecipeError: an unknown key; the message names it, its source and the nearest valid key.
    """
    known = known or list(_keys(Recipe))
    for name, value in given.items():
        key = f"{prefix}{name}"
        is_group = any(k.startswith(key + ".") for k in known)
        is_free = any(k.endswith(".*") and key.startswith(k[:-1]) for k in known)
        if key not in known and not is_group and not is_free:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            close = close or [k for k in known if k.rsplit(".", 1)[-1] == str(name)]
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            raise RecipeError(f"{source}: unknown recipe key {key!r}; {hint}")
        if is_group and value is not None and not isinstance(value, Mapping):
            raise RecipeError(
                f"{source}: {key!r} is a group of keys, got {value!r}; its keys: "
                + ", ".join(k for k in known if k.startswith(key + "."))
            )
        if isinstance(value, Mapping) and f"{key}.*" not in known:
            check_keys(value, source, known, f"{key}.")


def read_keys(path: Path, heirs: Sequence[Path] = ()) -> dict[str, Any]:
    """The keys a recipe file gives, laid over those of the recipe it names as `base` (a path relative to itself).

    Args:
        path: the file.
        heirs: the files that led here, each the base of the one before.

    Raises:
        RecipeError: a file is no YAML mapping, has an unknown key, or is its own base in the end.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        led = (
            f", named as base by {heirs[-1]}"
            if heirs
            else "; the repository's folder recipes/ holds the published ones"
        )
        raise FileNotFoundError(f"no recipe at {path}{led}")
    if path.resolve() in [heir.resolve() for heir in heirs]:
        raise RecipeError(f"{heirs[0]}: its bases go round in a circle: {' -> '.join(map(str, [*heirs, path]))}")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(given, dict):
        raise RecipeError(f"{path}: expected a mapping of recipe keys, got {type(given).__name__}")
    check_keys(given, str(path), ["base", *RENAMED, *_keys(Recipe)])
    for key in set(given) & set(RENAMED):
        group, _, name = RENAMED[key].partition(".")
        given[group] = {name: given.pop(key), **(given.get(group) or {})}
    base = given.pop("base", None)
    return given if base is None else _overlay(read_keys(path.parent / str(base), [*heirs, path]), given)


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, groups of keys merged key by key."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and its bases, and override them by command-line words such as `--optimizer.lr 0.001`.

    Raises:
        RecipeError: a file is no YAML mapping, a key is unknown or a value is of the wrong kind.
        FileNotFoundError: no such file.
    """
    from jsonargparse import ArgumentParser

    path = Path(path)
    given = read_keys(path)
    overrides = [_renamed(word) for word in overrides]
    flags = [word[2:].split("=")[0] for word in overrides if word.startswith("--")]
    check_keys(dict.fromkeys(flags), "command line")

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe)
    try:
        config = parser.parse_args(list(overrides), namespace=parser.parse_object(given))
        return Recipe(**vars(parser.instantiate(config)))
    except (ArgumentError, TypeError, ValueError) as error:
        raise RecipeError(f"{path}: {error}") from error


def _renamed(word: str) -> str:
    key, sign, value = word.removeprefix("--").partition("=")
    return f"--{RENAMED[key]}{sign}{value}" if word.startswith("--") and key in RENAMED else word


def save_recipe(path: str | Path, recipe: Recipe) -> None:
    """Write the resolved recipe as YAML that `load_recipe` takes."""
    content = asdict(recipe)
    content["view"] = {key: value for key, value in recipe.view.to_json().items() if key != "kind"}
    write_text(path, yaml.safe_dump(content, sort_keys=False))
