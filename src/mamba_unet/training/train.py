"""From a recipe to a run folder: everything is checked and built here before `loop` trains."""

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.fabric.utilities import rank_zero_only
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from mamba_unet import __version__
from mamba_unet.data.local_copy import local_copy
from mamba_unet.data.planning import plan_volumes, read_plan
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.splits import split_name
from mamba_unet.environment import bfloat16_speed, describe_environment
from mamba_unet.files import LOCK, write_json, write_text
from mamba_unet.inference.fit import describe_training
from mamba_unet.models.checkpoint import CheckpointMetadata, read_metadata
from mamba_unet.models.loading import LoadReport, load_pretrained
from mamba_unet.models.registry import build_model, model_spec, resolve_config
from mamba_unet.runs import RunFolder
from mamba_unet.training.batches import TrainingData
from mamba_unet.training.groups import SCRIBBLED
from mamba_unet.training.labelled import choose_labelled, learned_from
from mamba_unet.training.loop import Training
from mamba_unet.training.objectives.build import build_objective, member_names, streams
from mamba_unet.training.progress import Progress, default_progress
from mamba_unet.training.recipe import PLAN, ModelRecipe, Recipe, RecipeError, experiment, load_recipe, save_recipe
from mamba_unet.training.state import load_state
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.view import KINDS, View
from mamba_unet.words import counted, duration

log = logging.getLogger(__name__)

OUTSIDE = (
    "view.outside is background: what rotation and cropping bring in from outside an image would be learned as "
    "background that somebody marked; set view.outside=ignore"
)


def train(
    recipe: Recipe | str | Path,
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    **overrides: Any,
) -> Path:
    """Train as the recipe says and return the run folder; `runs.RunFolder` says what lies there.

        train("acdc_unet", data="data/acdc", out="runs/x", iterations=100, optimizer={"lr": 0.001})

    Args:
        recipe: name of a recipe that ships with the package, path of a file, or a recipe.
        data: folder that `prepare` wrote; wins over the recipe's, like all that follow.
        out: run folder to write.
        resume: go on from the state that the folder holds; from the start where there is none yet.
        cache_dir: folder on a disk of this machine, where the data are copied to once and read from.
        progress: is told how far it is; None shows a bar on a terminal and lines elsewhere.
        overrides: other keys of the recipe.

    Raises:
        RecipeError: data or out are missing, the folder holds a run already, or that of another recipe, split or
            data, or the devices are not there.
        ValueError: the data lacks a split, or its validation patients show no foreground.
        NonFiniteLossError: the loss or the weights became NaN or infinite; checkpoints stay as they were.
        TrainingStopped: SIGTERM or SIGUSR1 came; the state is saved.
        KeyboardInterrupt: Ctrl-C came; the state is saved. At the second Ctrl-C it is not.
        LostProcess: another process of this training is gone.
    """
    places = {name: str(folder) for name, folder in (("data", data), ("out", out)) if folder is not None}
    recipe = load_recipe(recipe, {**overrides, **places}) if overrides or places else load_recipe(recipe)
    if recipe.data is None or recipe.out is None:
        raise RecipeError("a run needs its prepared data and its folder: --data FOLDER --out FOLDER")
    run = RunFolder(recipe.out)
    # the other processes of a distributed run find the folder begun by the first one of the first machine
    leader = rank_zero_only.rank == 0 and os.environ.get("NODE_RANK", "0") == "0"
    if leader and run.exists and not resume:
        raise RecipeError(f"{run} holds a run already; --resume continues it, or choose another --out")

    prepared = PreparedDataset(recipe.data if cache_dir is None else local_copy(recipe.data, cache_dir))
    recipe = with_plan(recipe, prepared)
    source = TrainingData(
        prepared,
        recipe.view,
        recipe.augment,
        recipe.seed,
        recipe.workers,
        recipe.fold,
        recipe.labelled,
        recipe.annotation,
        streams(recipe),
    )
    source.require(streams(recipe))
    absent, unseen = source.absent_classes(), set(prepared.class_names[1:]) - set(source.validated_classes)
    if leader:
        check_resumable(run, recipe, prepared)
    state = load_state(run) if resume else None
    if leader and resume and state is None and run.exists:
        log.info("%s holds no state to resume from; the training starts at the beginning", run)
    built = _build_members(recipe, prepared)
    network = built[0][0]
    loaded = None if state or recipe.pretrained is None else load_pretrained(network, recipe.pretrained)
    # a run that goes on needs its pretrained checkpoint no more
    names = state["pretrained"] if state else loaded.loaded if loaded else ()
    lineage = state["lineage"] if state else sorted({*source.hashes(), *(loaded.lineage if loaded else ())})
    common = CheckpointMetadata(
        model="",
        config={},
        class_names=prepared.class_names,
        preprocessing=prepared.preprocessing(recipe.view).to_json(),
        dataset=prepared.name,
        fingerprint=prepared.fingerprint,
        version=__version__,
        label_values=prepared.label_values,
        lineage=lineage,
        patients=source.patients(),
        seen=describe_training(prepared, source.training_cases) if leader else {},
        channel_names=prepared.channel_names,
        learned_from=_learned_from(source),
    )
    if leader and loaded is not None and loaded.preprocessing is not None:
        _warn_of_other_preprocessing(loaded, recipe, prepared)
    metadata = _metadata(recipe, common, [config for _, config in built])
    fabric = _fabric(recipe, run)
    shown = progress or (default_progress() if leader else Progress())
    objective = build_objective(recipe, [one for one, _ in built], prepared.num_classes)
    training = Training(fabric, objective, source, recipe, run, metadata, shown, names, state)
    with _begun(training, absent, sorted(unseen), loaded) if leader else contextlib.nullcontext():
        training.run()
    if leader:
        if recipe.iterations > recipe.optimizer.warmup:  # else it was said in the beginning
            _warn_of_warmup(recipe, training.step)
        log.info(
            "%s: %s in %s, best mean foreground Dice on the validation patients %.4f",
            run, counted(training.step, "iteration"), duration(training.seconds), training.best_dice,
        )  # fmt: skip
    return run.path


@contextlib.contextmanager
def _begun(
    training: Training, absent: Sequence[str], unseen: Sequence[str], loaded: LoadReport | None
) -> Iterator[None]:
    """Hold the run folder and write what is known before the first iteration; a training that ends by an error before
    its first iteration is done leaves no folder, so that the corrected command can have it.

    Args:
        training: not begun yet.
        absent: classes that no label, or scribble, of the training cases shows.
        unseen: classes that no label of the validation cases shows.
        loaded: what a pretrained checkpoint gave.
    """
    run, recipe, prepared = training.run_folder, training.recipe, training.data.prepared
    with run.lock():
        is_new = {path.name for path in run.path.iterdir()} <= {LOCK}
        try:
            run.remove_temporaries()
            if absent:
                log.warning(
                    "no %s of the training cases shows %s: the network cannot learn it",
                    recipe.annotation, ", ".join(absent),
                )  # fmt: skip
            if unseen:
                log.warning(
                    "no label of the validation cases shows %s: checkpoints are chosen by the other classes, and how "
                    "well it is learned is not known", ", ".join(unseen),
                )  # fmt: skip
            learned = training.data.describe()
            if recipe.objective in SCRIBBLED and learned["marked"] == 1:
                log.warning(
                    "objective %s is for scribbles, but every pixel of the training cases' %ss has a class; to learn "
                    "from scribbles set annotation: scribble", recipe.objective, recipe.annotation,
                )  # fmt: skip
            if prepared.has_ignored and recipe.view.outside == "background":
                log.warning("some pixels of the labels are open, and %s", OUTSIDE)
            _warn_of_warmup(recipe, recipe.iterations)
            in_bfloat16 = recipe.trainer.precision.startswith("bf16") and training.fabric.device.type == "cpu"
            if in_bfloat16 and training.step == 0:
                _warn_of_slow_bfloat16(recipe)
            if loaded is not None:
                log.info("%s", loaded)
                write_text(run.pretrained, f"{loaded}\n")
                _warn_of_leak(prepared, recipe, loaded)
            save_recipe(run.recipe, recipe)
            write_json(run.split, split_of(recipe, prepared))
            write_json(run.annotation, learned)
            write_json(run.versions, describe_environment())
            yield
        except BaseException:
            if is_new and training.step == 0:
                shutil.rmtree(run.path, ignore_errors=True)
            raise


def _learned_from(source: TrainingData) -> str:
    said = source.describe()
    patients = [len(said[f"{kind}_patients"]) for kind in ("labelled", "unlabelled")]
    return learned_from(*patients, said["annotation"], said["marked"])


def with_plan(recipe: Recipe, prepared: PreparedDataset) -> Recipe:
    """The recipe with numbers where it leaves something to the data's plan: plan.json, or else the plan by default."""
    if recipe.batch_size != PLAN and not getattr(recipe.view, "needs_plan", False):
        return recipe
    plan = read_plan(prepared) or plan_volumes(prepared)
    view = recipe.view.planned(plan.size, plan.spacing_mm)
    return replace(recipe, view=view, batch_size=plan.batch_size if recipe.batch_size == PLAN else recipe.batch_size)


def split_of(recipe: Recipe, prepared: PreparedDataset) -> dict[str, list[str]]:
    """The splits a run has to do with, split -> identifiers: its fold's, or all there are.

    Raises:
        ValueError: the data has no such fold.
    """
    if recipe.fold is None:
        return prepared.splits
    return {name: prepared.split(split_name(name, recipe.fold)) for name in ("train", "val", "test")}


def _warn_of_leak(prepared: PreparedDataset, recipe: Recipe, loaded: LoadReport) -> None:
    tested = split_of(recipe, prepared).get("test", [])
    if leaked := prepared.seen_by(loaded.lineage, tested):
        log.warning(
            "%d of %d test cases (%s%s) were among those that %s was trained or chosen on: `evaluate` will refuse to "
            "measure this network on them",
            len(leaked), len(tested), ", ".join(leaked[:5]), ", ..." if len(leaked) > 5 else "", recipe.pretrained,
        )  # fmt: skip


def check_resumable(run: RunFolder, recipe: Recipe, prepared: PreparedDataset) -> None:
    """Raise RecipeError if the run in a folder is another experiment: another recipe, another split or other data; or
    if a new one would learn background that nobody marked."""
    recipe = with_plan(recipe, prepared)
    if not run.exists and recipe.view.outside == "background":
        if recipe.annotation == "scribble":
            raise RecipeError(f"annotation is scribble, and {OUTSIDE}")
        if prepared.has_ignored and recipe.objective in SCRIBBLED:
            raise RecipeError(f"objective is {recipe.objective}, pixels of the labels are open, and {OUTSIDE}")
    if run.exists:
        before, now = experiment(load_recipe(run.recipe)), experiment(recipe)
        if changed := [key for key in {**before, **now} if now.get(key) != before.get(key)]:
            lines = "; ".join(f"{key}: {before.get(key)} then, {now.get(key)} now" for key in changed)
            longer = (
                f"; to train its network further: --out OTHER --pretrained {run}" if "iterations" in changed else ""
            )
            raise RecipeError(
                f"{run} was started with another recipe ({lines}); give the same, or another --out{longer}"
            )
    if before := run.read_split():
        now = split_of(recipe, prepared)
        if changed := [name for name in ("train", "val") if before.get(name) != now.get(name)]:
            raise RecipeError(
                f"{run} was trained on another split of the data ({' and '.join(changed)} differ from "
                f"{prepared.folder}); choose another --out, or prepare the data with the split of that run"
            )
    learned = run.read_annotation()  # without voxel sizes or fingerprint where an earlier version trained
    fingerprint = learned.get("fingerprint")
    if fingerprint is None and run.best.is_file() and (metadata := read_metadata(run.best)):
        fingerprint = metadata.fingerprint
    if fingerprint not in (None, prepared.fingerprint):
        raise RecipeError(
            f"{run} was trained on other data (fingerprint {fingerprint[:12]}..., that of "
            f"{prepared.folder} is {prepared.fingerprint[:12]}...); choose another --out"
        )
    if recipe.view.spacing_mm and "voxel_sizes" in learned:
        if learned["voxel_sizes"] != prepared.identity["voxel_sizes"]:
            raise RecipeError(
                f"the images of {run} were resampled by other voxel sizes than {prepared.folder} has now; choose "
                "another --out"
            )
    if learned:
        cases, _ = choose_labelled(prepared, recipe.fold, recipe.labelled, recipe.annotation, recipe.seed)
        if learned["sha256"] != prepared.marked(cases, recipe.annotation)[1]:
            raise RecipeError(
                f"{run} learned from other {recipe.annotation}s than {prepared.folder} holds; choose another --out"
            )


def _warn_of_other_preprocessing(loaded: LoadReport, recipe: Recipe, prepared: PreparedDataset) -> None:
    """Other intensities than the pretrained network knew may be meant; nobody should be left to find out by a poor
    result."""
    before, now = Preprocessing.from_json(loaded.preprocessing), prepared.preprocessing(recipe.view)
    rules = [[str(dict(rule)) for rule in one.intensity] for one in (before, now)]
    if len(rules[0]) != len(rules[1]):  # the channels do not answer to each other
        rules = [sorted(set(kinds)) for kinds in rules]
    if rules[0] != rules[1]:
        log.warning(
            "%s was trained on images of another intensity rule than %s has; the network learns the new one, but its "
            "start may help less",
            recipe.pretrained,
            prepared.folder,
        )


def _warn_of_warmup(recipe: Recipe, iterations: int) -> None:
    if 0 < iterations <= recipe.optimizer.warmup:
        log.warning(
            "optimizer.warmup is %s and the training has %d: the learning rate never reaches optimizer.lr, and "
            "the result will be poor; train for longer, or set optimizer.warmup to a tenth of the iterations",
            counted(recipe.optimizer.warmup, "iteration"),
            iterations,
        )


def _warn_of_slow_bfloat16(recipe: Recipe) -> None:
    if (speed := bfloat16_speed()) < 0.9:
        log.warning(
            "this CPU is %.1f times as fast in bfloat16 as in float32 (a convolution, measured now): without "
            "trainer.precision=%s the training takes less time",
            speed,
            recipe.trainer.precision,
        )


def _build_members(recipe: Recipe, prepared: PreparedDataset) -> list[tuple[nn.Module, dict[str, Any]]]:
    """The recipe's networks, their weights drawn by the recipe's seed, and their constructor arguments."""
    torch.manual_seed(recipe.seed)  # the first network is what it is alone, the next ones draw on
    return [_build(model, recipe.view, prepared) for model in recipe.members]


def _build(model: ModelRecipe, view: View, prepared: PreparedDataset) -> tuple[nn.Module, dict[str, Any]]:
    """Raises RecipeError for arguments that do not fit the network or the data, or a view that is for others."""
    spec = model_spec(model.name)
    if spec.spatial_dims != view.spatial_dims:
        kind = next(kind for kind, other in KINDS.items() if other.spatial_dims == spec.spatial_dims)
        raise RecipeError(
            f"{model.name} is a network of {spec.spatial_dims} axes, and a view of kind {view.to_json()['kind']} "
            f"is for {view.spatial_dims}; set view.kind: {kind}, or choose another model.name"
        )
    config = resolve_config(model.size, model.arguments, model.name)
    for key, found in (("in_channels", prepared.channels), ("num_classes", prepared.num_classes)):
        if config.setdefault(key, found) != found:
            raise RecipeError(f"model.arguments.{key} is {config[key]}, but the data has {found}; leave the key out")
    if spec.spatial_dims == 3:  # its strides follow from what it will see
        config.setdefault("patch_size", list(view.size))
        config.setdefault("spacing", view.spacing_mm and list(view.spacing_mm))
    try:
        return build_model(model.name, **config), config
    except TypeError as error:
        raise RecipeError(f"model.arguments {model.arguments} do not fit {model.name}: {error}") from error


def _metadata(
    recipe: Recipe, common: CheckpointMetadata, configs: Sequence[dict[str, Any]]
) -> dict[str, CheckpointMetadata]:
    """Name of each network that is validated -> what its checkpoint says of it."""
    models = [recipe.model] * 2 if recipe.objective == "mean_teacher" else recipe.members
    configs = [configs[0]] * 2 if recipe.objective == "mean_teacher" else configs
    return {
        name: replace(common, model=model.name, config=config)
        for name, model, config in zip(member_names(recipe), models, configs, strict=True)
    }


def _fabric(recipe: Recipe, run: RunFolder) -> Fabric:
    """Devices, precision and loggers; the other processes of a distributed run start here."""
    t = recipe.trainer
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # the run folder says what it tells
    try:
        with warnings.catch_warnings():
            # said outside of SLURM's jobs only, to everybody whose machine can submit some
            warnings.filterwarnings("ignore", "The `srun` command is available")
            fabric = Fabric(
                accelerator=t.accelerator,
                devices=t.devices,
                num_nodes=t.num_nodes,
                strategy=t.strategy,
                precision=t.precision,
                loggers=_loggers(recipe, run),
            )
    except (RuntimeError, ValueError, ImportError, MisconfigurationException) as error:
        raise RecipeError(
            f"trainer: accelerator {t.accelerator}, devices {t.devices}, strategy {t.strategy} and precision "
            f"{t.precision} cannot be had here ({(str(error).splitlines() or [type(error).__name__])[0]}); "
            "`mamba-unet info` shows the devices, --trainer.accelerator cpu always works"
        ) from error
    parts, processes = streams(recipe), fabric.world_size
    if any(samples % processes for samples in parts.values()):  # before there are several processes to say it
        each = processes * len(parts)
        shares = f", {' and '.join(map(str, parts.values()))} with and without labels," if len(parts) > 1 else ""
        raise RecipeError(
            f"batch_size {recipe.batch_size}{shares} cannot be shared equally by {processes} processes; "
            f"take {recipe.batch_size // each * each or each}"
        )
    if t.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else CUDA's matrix products refuse
    torch.use_deterministic_algorithms(t.deterministic)
    fabric.launch()
    if fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(fabric.device)
    return fabric


def _loggers(recipe: Recipe, run: RunFolder) -> list[Logger]:
    """The recipe's, the CSV first and always; nothing is written before the first value."""
    loggers: list[Logger] = [CSVLogger(run.path, name="logs")]
    for name in dict.fromkeys(recipe.loggers):
        try:
            match name:
                case "tensorboard":
                    loggers.append(TensorBoardLogger(run.path, name="tensorboard"))
                case "wandb":
                    from lightning.pytorch.loggers import WandbLogger

                    loggers.append(WandbLogger(name=run.path.name, save_dir=run.path, project="mamba-unet"))
                case "mlflow":
                    from lightning.pytorch.loggers import MLFlowLogger

                    loggers.append(
                        MLFlowLogger("mamba-unet", run_name=run.path.name, save_dir=str(run.path / "mlflow"))
                    )
        except ModuleNotFoundError as error:
            raise RecipeError(
                f"loggers: {name} needs its package, which is not installed: pip install {name}"
            ) from error
    return loggers
