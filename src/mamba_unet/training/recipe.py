"""Recipes: one YAML file per experiment, every key a field below, or `base`: another recipe whose keys it overrides.

The published ones ship with the package and go by their names. Light to import, for the command line's sake.
"""

import difflib
import math
import re
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mamba_unet.files import write_text
from mamba_unet.training.groups import (
    PLACE,
    FewLabelsRecipe,
    ModelRecipe,
    Objectives,
    OptimizerRecipe,
    RecipeError,
    TrainerRecipe,
    check_few_labels,
    member_recipes,
)
from mamba_unet.views.slices import Slices
from mamba_unet.views.view import KINDS, View
from mamba_unet.words import kind_of

RENAMED = {"image_size": "view.size"}  # other names of keys, as recipes of earlier versions spell them
SHIPPED = Path(__file__).parents[1] / "recipes"
PLAN = "plan"  # the value of a key that is left to the data's plan, see data/planning.py
DEVICES = re.compile(r"auto|-1|\d+(,\d+)*")


@dataclass
class Recipe:
    """One training run. The defaults are the paper's.

    Attributes:
        data: folder that `mamba-unet prepare` wrote.
        out: run folder to write.
        seed: seed of weights, augmentation, order and stochastic depth.
        fold: train on this fold of the data (`mamba-unet prepare --folds`), from 0; null for the split itself.
        model: the network.
        objective: `supervised`; with images without labels `mean_teacher`, `cps` (cross pseudo supervision) or
            `semi_mamba_unet`; on scribbles `partial_ce` or `mixed` (docs/few_labels.md).
        labelled: how many of the training patients are used with their labels, drawn by `seed`, or a list of patients;
            the others serve as images without labels. Null is all.
        annotation: what training learns from: `label`, or `scribble` where the data has scribbles. Validation and tests
            are on labels always.
        few_labels: what learning from few labels and from scribbles needs.
        pretrained: what `model` starts from: a run folder, a checkpoint of this package or a public one, or a hub id;
            null for random weights.
        view: what the network sees of a case, of `view.kind` `slices` or `patches`; `image_size` is another name of
            `view.size`.
        augment: `paper`: its rotations and flips; `nnunet`: nnU-Net's rotation, zoom, mirrors, noise, blur, brightness,
            contrast, coarser resolution and gamma; `none`. True and false are `paper` and `none`. Patches have no
            `paper`.
        deep_supervision: also a loss at each coarser resolution of the network's decoder, with half the weight of the
            one above, as in nnU-Net.
        batch_size: samples per iteration, over all devices together; `plan`, for patches: what the data's plan says.
        iterations: optimiser steps.
        minutes: stop after so many minutes of training and validation if that comes before `iterations`, and validate;
            null for no limit. How far a machine comes then depends on its speed, so the run cannot be repeated exactly.
        validate_every: iterations between validations on whole volumes, after each of which the run can be resumed; the
            last iteration is validated always.
        optimizer: the optimiser.
        trainer: Lightning's settings.
        workers: processes that load data, or null to fit the machine.
        loggers: where losses are written: `csv`, `tensorboard`, `wandb`, `mlflow`. The CSV is always written, because
            the curves are drawn from it.
    """

    data: str | None = field(default=None, metadata=PLACE)
    out: str | None = field(default=None, metadata=PLACE)
    seed: int = 0
    fold: int | None = None
    model: ModelRecipe = field(default_factory=ModelRecipe)
    objective: Objectives = "supervised"
    labelled: int | list[str] | None = None
    annotation: Literal["label", "scribble"] = "label"
    few_labels: FewLabelsRecipe = field(default_factory=FewLabelsRecipe)
    pretrained: str | None = None
    view: View = field(default_factory=Slices)
    augment: Literal["none", "paper", "nnunet"] | bool = "paper"
    deep_supervision: bool = False
    batch_size: int | Literal["plan"] = 24
    iterations: int = 10_000
    minutes: float | None = None
    validate_every: int = 200
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    trainer: TrainerRecipe = field(default_factory=TrainerRecipe)
    workers: int | None = field(default=None, metadata=PLACE)
    loggers: list[Literal["csv", "tensorboard", "wandb", "mlflow"]] = field(
        default_factory=lambda: ["csv", "tensorboard"], metadata=PLACE
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "iterations", "validate_every"):
            if getattr(self, name) != PLAN and getattr(self, name) < 1:
                raise RecipeError(f"{name} must be at least 1, got {getattr(self, name)}")
        if isinstance(self.augment, bool):
            self.augment = "paper" if self.augment else "none"
        if self.augment not in self.view.augmentations:
            raise RecipeError(
                f"augment is {self.augment!r}, and for {self.view.to_json()['kind']} there are "
                f"{', '.join(self.view.augmentations)}"
            )
        if self.batch_size == PLAN and self.view.spatial_dims == 2:
            raise RecipeError("batch_size is 'plan', which is for patches (view.kind); give a number for slices")
        if self.deep_supervision and self.objective != "supervised":
            raise RecipeError(f"deep_supervision is for objective supervised, not {self.objective}; leave one out")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise RecipeError(f"minutes must be more than 0, or null for no limit, got {self.minutes}")
        if not 0 <= self.optimizer.ema < 1:
            raise RecipeError(f"optimizer.ema must be from 0 to less than 1, got {self.optimizer.ema}")
        if self.seed < 0:
            raise RecipeError(f"seed must not be negative, got {self.seed}")
        for name in ("lr", "lr_pretrained_factor", "momentum", "weight_decay", "power", "warmup"):
            value, most = getattr(self.optimizer, name), 1 if name == "momentum" else math.inf
            if value is None or not 0 <= value < most:
                less = "" if most == math.inf else f" and less than {most}"
                raise RecipeError(
                    f"optimizer.{name} must not be negative{less}, got {value}: expected a number from 0 on{less}"
                )
        if self.workers is not None and self.workers < 0:
            raise RecipeError(f"workers must not be negative, or null to fit the machine, got {self.workers}")
        if self.optimizer.clip_norm is not None and not 0 < self.optimizer.clip_norm < math.inf:
            raise RecipeError(
                f"optimizer.clip_norm must be more than 0, or null for no clipping, got {self.optimizer.clip_norm}"
            )
        if not DEVICES.fullmatch(str(self.trainer.devices)) or str(self.trainer.devices) == "0":
            raise RecipeError(
                "trainer.devices must be a number of devices from 1 on, auto, or GPUs by number such as 0,1; "
                f"got {self.trainer.devices!r}"
            )
        if self.trainer.num_nodes < 1:
            raise RecipeError(f"trainer.num_nodes must be at least 1, got {self.trainer.num_nodes}")
        if self.labelled == [] or (isinstance(self.labelled, int) and self.labelled < 1):
            raise RecipeError(
                f"labelled must be a number of patients from 1 on, or a list of them, got {self.labelled}"
            )
        check_few_labels(self.objective, self.model, self.few_labels, self.batch_size)

    @property
    def members(self) -> list[ModelRecipe]:
        """All the networks that are trained, `model` first."""
        return member_recipes(self.objective, self.model, self.few_labels)


def recipe_fields(config: type = Recipe, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """Every key of a recipe that takes a value, dotted, with its field; those of the view, which depend on its kind,
    are left out."""
    for f in fields(config):
        if f.name == "view":
            continue
        if is_dataclass(f.type):
            yield from recipe_fields(f.type, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, f


PLACE_KEYS = frozenset(key for key, f in recipe_fields() if f.metadata == PLACE)


def experiment(recipe: Recipe) -> dict[str, Any]:
    """Dotted key -> value, of what makes the experiment: all but the keys of the place it is computed at."""
    values = {}
    for key, _ in recipe_fields():
        if key not in PLACE_KEYS:
            value: Any = recipe
            for name in key.split("."):
                value = getattr(value, name)
            values[key] = value
    return values | {f"view.{key}": value for key, value in recipe.view.to_json().items()}


def _keys() -> list[str]:
    """Every dotted key of a recipe; one that ends in `.*` takes any key below it."""
    keys = []
    for key, f in recipe_fields():
        keys += [key, f"{key}.*"] if f.default_factory is dict else [key]
    view = ["kind", *(f.name for kind in KINDS.values() for f in fields(kind))]
    return [*keys, *dict.fromkeys(f"view.{name}" for name in view)]


def check_keys(given: Mapping[str, Any], source: str, known: Sequence[str] = (), prefix: str = "") -> None:
    """Refuse keys that are not known, by default those of a recipe, naming the nearest one that is.

    Raises:
        RecipeError: an unknown key; the message names it, its source and the nearest valid key.
    """
    known = known or _keys()
    for name, value in given.items():
        key = f"{prefix}{name}"
        is_group = any(k.startswith(key + ".") for k in known)
        is_free = any(k.endswith(".*") and key.startswith(k[:-1]) for k in known)
        if key not in known and not is_group and not is_free:
            near = _nearest(key, known)
            hint = f"did you mean {near!r}?" if near else f"known keys: {', '.join(known)}"
            raise RecipeError(f"{source}: unknown recipe key {key!r}; {hint}")
        if is_group and value is not None and not isinstance(value, Mapping):
            raise RecipeError(
                f"{source}: {key!r} is a group of keys, got {value!r}; its keys: "
                + ", ".join(k for k in known if k.startswith(key + "."))
            )
        if isinstance(value, Mapping) and f"{key}.*" not in known:
            check_keys(value, source, known, f"{key}.")


def _nearest(key: str, known: Sequence[str]) -> str | None:
    """The known key most like `key`, in its last word (or that word's initials: learning_rate, lr) and in the whole."""

    def likeness(candidate: str) -> tuple[float, float]:
        word, other = key.rsplit(".", 1)[-1], candidate.rsplit(".", 1)[-1]
        initials = "".join(part[:1] for part in re.split("[_-]", word))
        last = 1.0 if other in (word, initials) else difflib.SequenceMatcher(None, word, other).ratio()
        return last, difflib.SequenceMatcher(None, key, candidate).ratio()

    near = max(known, key=lambda candidate: sum(likeness(candidate)))
    last, whole = likeness(near)
    return near if last >= 0.5 or whole >= 0.8 else None


def list_recipes() -> dict[str, str]:
    """Name of each recipe that ships with the package -> the first sentence of its header."""
    headers = {}
    for path in _shipped():
        header = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))[0]
        headers[path.stem] = re.split(r"(?<=\.) ", re.sub(r"\n?# ?", " ", header).strip())[0]
    return headers


def recipe_text(name: str) -> str:
    """The YAML of a recipe that ships with the package. Raises FileNotFoundError for an unknown name."""
    return find_recipe(name, folder=SHIPPED).read_text(encoding="utf-8")


def _shipped() -> list[Path]:
    return sorted(SHIPPED.glob("*.yaml"))


def find_recipe(word: str | Path, folder: str | Path = "", named_by: Path | None = None) -> Path:
    """The file meant by a path, relative to a folder, or else by the name of a recipe that ships with the package.

    Args:
        word: path or name.
        folder: that a path is relative to; the working folder by default.
        named_by: the recipe that names this one as its base, for the message.

    Raises:
        FileNotFoundError: neither is there.
    """
    path = folder / Path(word)
    if path.is_file():
        return path
    names = [shipped.stem for shipped in _shipped()]
    if str(word) in names:
        return SHIPPED / f"{word}.yaml"
    led = f", named as base by {named_by}" if named_by else ""
    near = difflib.get_close_matches(Path(word).stem, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"those that ship with the package: {', '.join(names)}"
    raise FileNotFoundError(f"no recipe at {path}{led}; {hint}")


class OnceLoader(yaml.SafeLoader):
    """YAML in which no key is given twice; of two the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                twice = f"{key.value} is given twice; leave one"
                raise yaml.constructor.ConstructorError(None, None, twice, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_keys(path: Path, heirs: Sequence[Path] = ()) -> dict[str, Any]:
    """The keys a recipe file gives, laid over those of the recipe it names as `base`: a name, or a path from itself.

    Args:
        path: the file.
        heirs: the files that led here, each the base of the one before.

    Raises:
        RecipeError: a file is no YAML mapping, has an unknown key, or is its own base in the end.
        FileNotFoundError: no such base.
    """
    if path.resolve() in [heir.resolve() for heir in heirs]:
        raise RecipeError(f"{heirs[0]}: its bases go round in a circle: {' -> '.join(map(str, [*heirs, path]))}")
    try:
        given = yaml.load(path.read_text(encoding="utf-8"), OnceLoader)
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(given, dict):
        raise RecipeError(f"{path}: expected a mapping of recipe keys, got {type(given).__name__}")
    check_keys(given, str(path), ["base", *_keys(), *RENAMED])
    groups = {key.split(".")[0] for key in _keys() if "." in key}
    given = {key: value for key, value in given.items() if value is not None or key not in groups}  # `view:` alone
    given = _renamed(given, str(path))
    base = given.pop("base", None)
    if base is None:
        return given
    return _overlay(read_keys(find_recipe(str(base), path.parent, path), [*heirs, path]), given)


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, groups of keys merged key by key; a view of another kind replaces the one below."""
    merged = dict(below)
    if _kind(below) != _kind(above) and "kind" in (above.get("view") or {}):
        merged.pop("view", None)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _overlay(merged[key], value) if both else value
    return merged


def _kind(given: Mapping[str, Any]) -> str:
    return (given.get("view") or {}).get("kind", "slices")


def load_recipe(recipe: str | Path | Recipe, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a recipe and its bases, and override some of its keys.

    Args:
        recipe: name of a recipe that ships with the package, path of a file, or a recipe.
        overrides: command-line words such as `--optimizer.lr 0.001`, or a mapping such as `{"optimizer.lr": 0.001}` or
            `{"optimizer": {"lr": 0.001}}`.

    Raises:
        RecipeError: a file is no YAML mapping, a key is unknown or a value is of the wrong kind.
        FileNotFoundError: no such recipe.
    """
    from jsonargparse import ArgumentParser

    if isinstance(recipe, Recipe):
        source, given = "recipe", _plain(recipe)
    else:
        path = find_recipe(recipe)
        source, given = str(path), read_keys(path)
    words: Sequence[str] = []
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            key, nested = RENAMED.get(key, key), value
            for name in reversed(key.split(".")):
                nested = {name: nested}
            check_keys(nested, "arguments")
            given = _overlay(given, nested)
    else:
        words = [_renamed_word(word) for word in overrides]
        check_keys(dict.fromkeys(word[2:].split("=")[0] for word in words if word.startswith("--")), "command line")

    words, kind = _view_kind(words)
    given = given if kind is None else _overlay(given, {"view": {"kind": kind}})
    given = {**given, "view": dict(given.get("view") or {})}
    kind = given["view"].pop("kind", "slices")
    said = [word[7:].split("=")[0] for word in words if word.startswith("--view.")]
    _check_view(kind, [*given["view"], *said], source)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Recipe, skip={"view"})
    parser.add_class_arguments(KINDS[kind], "view")
    try:
        keys = parser.parse_object(given)
        source = f"{source} and command line" if words else source
        config = parser.parse_args(words, namespace=keys)
        return Recipe(**vars(parser.instantiate(config)))
    except (ArgumentError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise RecipeError(f"{source}: {_plainly(str(error), kind)}") from error


def _plainly(error: str, view: str) -> str:
    """What jsonargparse says of a value of the wrong kind, in the words of docs/recipes.md."""
    wrong = re.match(r'Parser key "([\w.]+)":\s', error)
    expected = dict(recipe_fields()) | {f"view.{f.name}": f for f in fields(KINDS[view])}
    if wrong is None or wrong[1] not in expected:
        return error
    got = re.search(r"(?:Got|Given) value: (.*)$", error)
    return f"{wrong[1]}: expected {kind_of(expected[wrong[1]].type)}" + (
        f", got {got[1]}" if got else f"; {error.splitlines()[-1].strip()}"
    )


def _view_kind(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The words of a command line without `--view.kind`, and its value."""
    rest, kind, words = [], None, iter(words)
    for word in words:
        if word.partition("=")[0] == "--view.kind":
            kind = word.partition("=")[2] or next(words, "")
        else:
            rest.append(word)
    return rest, kind


def _check_view(kind: str, keys: Sequence[str], source: str) -> None:
    """Refuse a kind of view that is not known, and keys of another kind."""
    if kind not in KINDS:
        raise RecipeError(f"{source}: view.kind {kind!r}; expected one of {', '.join(KINDS)}")
    names = [f.name for f in fields(KINDS[kind])]
    if wrong := [key for key in keys if key not in names]:
        raise RecipeError(
            f"{source}: view.{wrong[0]} is no key of {kind}, which has {', '.join(names)}; view.kind says which it is"
        )


def _plain(recipe: Recipe) -> dict[str, Any]:
    return asdict(recipe) | {"view": recipe.view.to_json()}


def _renamed(given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Keys by their names of today. Raises RecipeError where both are given."""
    result = {key: value for key, value in given.items() if key not in RENAMED}
    for key in set(given) & set(RENAMED):
        group, _, name = RENAMED[key].partition(".")
        if name in (result.get(group) or {}):
            raise RecipeError(f"{source}: {key} and {RENAMED[key]} are the same; leave {key} out")
        result[group] = {name: given[key], **(result.get(group) or {})}
    return result


def _renamed_word(word: str) -> str:
    key, sign, value = word.removeprefix("--").partition("=")
    return f"--{RENAMED[key]}{sign}{value}" if word.startswith("--") and key in RENAMED else word


def save_recipe(path: str | Path, recipe: Recipe) -> None:
    """Write the resolved recipe as YAML that `load_recipe` takes."""
    write_text(path, yaml.safe_dump(_plain(recipe), sort_keys=False))
