"""From a recipe to a run folder: the one training loop, Lightning's, and what it leaves on disk."""

import json
import logging
import math
import os
import sys
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from mamba_unet import __version__
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.splits import split_name
from mamba_unet.environment import describe_environment
from mamba_unet.files import write_json, write_text
from mamba_unet.models.checkpoint import CheckpointMetadata, read_metadata, save_checkpoint
from mamba_unet.models.loading import load_pretrained
from mamba_unet.models.registry import build_model, resolve_config
from mamba_unet.training.batches import SegmentationDataModule
from mamba_unet.training.loop import SegmentationModule
from mamba_unet.training.recipe import Recipe, RecipeError, load_recipe, save_recipe

BEST, LAST, RECIPE, SPLIT = "best.safetensors", "last.ckpt", "recipe.yaml", "split.json"
FREE_ON_RESUME = ("data", "out", "workers", "trainer")  # what may change without changing the experiment

log = logging.getLogger(__name__)


class RunFolder(Callback):
    """After every validation, also after the last iteration: the best weights so far, the state to resume from, curves.

    `best.safetensors` is replaced when the mean foreground Dice on the validation patients rises, `last.ckpt` always;
    both are written beside and renamed, so that a kill leaves the one before.
    """

    def __init__(self, folder: Path, metadata: CheckpointMetadata) -> None:
        self.folder, self.metadata = folder, metadata
        self.best_dice, self.seconds, self._started = float("-inf"), 0.0, time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"best_dice": self.best_dice, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_dice, self.seconds = state_dict["best_dice"], state_dict["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # Lightning then validates here too, wherever the interval has got to

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = time.monotonic()
        self.seconds, self._started = self.seconds + now - self._started, now
        evaluation = pl_module.evaluation
        dice = evaluation.mean_foreground_dice
        if math.isnan(dice):
            raise ValueError(
                "no foreground class is in any label of the validation cases, so no checkpoint can be chosen on them; "
                "prepare the data with a split whose validation patients show one"
            )
        if dice > self.best_dice:
            self.best_dice = dice
            if trainer.is_global_zero:
                validation = {
                    "iteration": trainer.global_step,
                    "mean_foreground_dice": dice,
                    "dice": evaluation.per_class(),
                }
                metadata = CheckpointMetadata(**{**asdict(self.metadata), "validation": validation})
                save_checkpoint(self.folder / BEST, pl_module.model, metadata)
        beside = self.folder / f".{LAST}"
        trainer.save_checkpoint(beside)  # every process takes part, the first one writes
        if trainer.is_global_zero:
            os.replace(beside, self.folder / LAST)
            for logger in trainer.loggers:
                logger.save()
            from mamba_unet.drawing.figures import plot_curves

            logs = self.folder.glob("logs/version_*/metrics.csv")
            plot_curves(logs, self.folder / "curves.png", pl_module.class_names)
            self._write_progress(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:  # again: a run that was killed behind its last checkpoint has nothing to validate
            self._write_progress(trainer, pl_module)

    def _write_progress(self, trainer: Trainer, pl_module: LightningModule) -> None:
        on_gpu = pl_module.device.type == "cuda"
        write_json(
            self.folder / "progress.json",
            {
                "iteration": trainer.global_step,
                "iterations": pl_module.iterations,
                "hours": self.seconds / 3600,
                "peak_gpu_memory_mib": torch.cuda.max_memory_allocated(pl_module.device) / 2**20 if on_gpu else None,
                "best_validation_dice": self.best_dice,
            },
        )


class Progress(TQDMProgressBar):
    """Lightning's bar over the iterations; a run has no epochs. Sparing where the output is a file."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 50)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description("train")

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def split_of(recipe: Recipe, prepared: PreparedDataset) -> dict[str, list[str]]:
    """The splits a run has to do with, split -> identifiers: its fold's, or all there are.

    Raises:
        ValueError: the data has no such fold.
    """
    if recipe.fold is None:
        return prepared.splits
    return {name: prepared.split(split_name(name, recipe.fold)) for name in ("train", "val", "test")}


def check_resumable(folder: Path, recipe: Recipe, prepared: PreparedDataset) -> None:
    """Raise RecipeError if the run in `folder` is another experiment: another recipe, another split or other data."""
    if (folder / RECIPE).is_file():
        before, now = asdict(load_recipe(folder / RECIPE)), asdict(recipe)
        changed = [key for key in now if key not in FREE_ON_RESUME and now[key] != before[key]]
        if changed:
            lines = "; ".join(f"{key}: {before[key]} then, {now[key]} now" for key in changed)
            raise RecipeError(f"{folder} was started with another recipe ({lines}); give the same, or another --out")
    if (folder / SPLIT).is_file():
        before, now = json.loads((folder / SPLIT).read_text(encoding="utf-8")), split_of(recipe, prepared)
        changed = [name for name in ("train", "val") if before.get(name) != now.get(name)]
        if changed:
            raise RecipeError(
                f"{folder} was trained on another split of the data ({' and '.join(changed)} differ from "
                f"{prepared.folder}); choose another --out, or prepare the data with the split of that run"
            )
    best = folder / BEST
    if best.is_file() and (metadata := read_metadata(best)) and metadata.fingerprint != prepared.fingerprint:
        raise RecipeError(
            f"{folder} was trained on other data (fingerprint {metadata.fingerprint[:12]}..., that of "
            f"{prepared.folder} is {prepared.fingerprint[:12]}...); choose another --out"
        )


def train(recipe: Recipe, resume: bool = False, progress: ProgressBar | None = None) -> Path:
    """Train as the recipe says and return the run folder.

    The folder holds `recipe.yaml` (resolved), `split.json`, `versions.json`, `logs/` (CSV), `tensorboard/`,
    `curves.png`, `progress.json`, `best.safetensors` and `last.ckpt`.

    Args:
        recipe: with `data` and `out` set.
        resume: go on from the folder's `last.ckpt`; from the start where there is none yet.
        progress: what shows how far it is; None is a bar of this run alone.

    Raises:
        RecipeError: data or out are missing, the folder holds a run already, or that of another recipe, split or
            data.
        NonFiniteLossError: the loss or the weights became NaN or infinite; checkpoints stay as they were.
    """
    if recipe.data is None or recipe.out is None:
        raise RecipeError("a run needs its prepared data and its folder: --data FOLDER --out FOLDER")
    folder = Path(recipe.out)
    last = folder / LAST
    # the other processes of a distributed run find the folder begun by the first one of the first machine
    leader = rank_zero_only.rank == 0 and os.environ.get("NODE_RANK", "0") == "0"
    if leader and (folder / RECIPE).exists() and not resume:
        raise RecipeError(f"{folder} holds a run already; --resume continues it, or choose another --out")

    prepared = PreparedDataset(recipe.data)
    if leader:
        check_resumable(folder, recipe, prepared)
    model, config = _build(recipe, prepared.channels, prepared.num_classes)
    loaded = None if recipe.pretrained is None else load_pretrained(model, recipe.pretrained)

    if leader:
        if loaded is not None:
            log.info("%s", loaded)
            write_text(folder / "pretrained.txt", f"{loaded}\n")
        save_recipe(folder / RECIPE, recipe)
        write_json(folder / SPLIT, split_of(recipe, prepared))
        write_json(folder / "versions.json", describe_environment())
    metadata = CheckpointMetadata(
        model=recipe.model.name,
        config=config,
        class_names=prepared.class_names,
        preprocessing=prepared.preprocessing(recipe.view).to_json(),
        dataset=prepared.name,
        fingerprint=prepared.fingerprint,
        version=__version__,
        label_values=prepared.label_values,
    )
    run_folder = RunFolder(folder, metadata)
    module = SegmentationModule(
        model, recipe.optimizer, recipe.iterations, recipe.view, prepared.class_names, recipe.seed
    )
    data = SegmentationDataModule(
        prepared,
        recipe.view,
        recipe.batch_size,
        recipe.iterations,
        recipe.augment,
        recipe.seed,
        recipe.workers,
        recipe.fold,
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the run folder says what it tells
    trainer = _trainer(recipe, folder, [run_folder, progress or Progress()])
    with warnings.catch_warnings():
        # the loaders' processes are chosen by SegmentationDataModule; validation has nothing to load
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*dataloader is not resumable.*")  # it is: StepSampler.first_step
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)  # Lightning's
        trainer.fit(module, data, ckpt_path=last if resume and last.exists() else None, weights_only=True)
    if leader:
        log.info(
            "%s: %d iterations in %.1f minutes, best mean foreground Dice on the validation patients %.4f",
            folder, trainer.global_step, run_folder.seconds / 60, run_folder.best_dice,
        )  # fmt: skip
    return folder


def _build(recipe: Recipe, channels: int, num_classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """The recipe's network, its weights drawn by the recipe's seed, and its constructor arguments."""
    config = resolve_config(recipe.model.size, recipe.model.arguments, recipe.model.name)
    for key, found in (("in_channels", channels), ("num_classes", num_classes)):
        if config.setdefault(key, found) != found:
            raise RecipeError(f"model.arguments.{key} is {config[key]}, but the data has {found}; leave the key out")
    torch.manual_seed(recipe.seed)
    try:
        return build_model(recipe.model.name, **config), config
    except TypeError as error:
        raise RecipeError(
            f"model.arguments {recipe.model.arguments} do not fit {recipe.model.name}: {error}"
        ) from error


def _trainer(recipe: Recipe, folder: Path, callbacks: list[Callback]) -> Trainer:
    """Lightning's Trainer as the recipe wants it."""
    t = recipe.trainer
    return Trainer(
        accelerator=t.accelerator,
        devices=t.devices,
        num_nodes=t.num_nodes,
        strategy=t.strategy,
        precision=t.precision,
        deterministic=t.deterministic,
        max_steps=recipe.iterations,
        max_epochs=1,  # StepSampler makes the whole run one pass
        val_check_interval=min(recipe.validate_every, recipe.iterations),
        check_val_every_n_epoch=None,
        gradient_clip_val=recipe.optimizer.clip_norm,
        use_distributed_sampler=False,  # StepSampler shares the batch out itself
        num_sanity_val_steps=0,
        enable_checkpointing=False,  # RunFolder writes the checkpoints
        enable_model_summary=False,
        log_every_n_steps=min(10, recipe.iterations),
        logger=[CSVLogger(folder, name="logs"), TensorBoardLogger(folder, name="tensorboard")],
        callbacks=callbacks,
    )
