"""The training loop: what an iteration does, when the network is validated, and what is kept of it."""

import contextlib
import logging
import math
import time
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from torch import Tensor, nn

from mamba_unet.data.case import Case
from mamba_unet.evaluation.cases import Evaluation, evaluate_cases
from mamba_unet.files import naming, write_json
from mamba_unet.inference.scores import predict_array
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.models.layers import in_cpu_order
from mamba_unet.runs import RunFolder
from mamba_unet.training.batches import TrainingData
from mamba_unet.training.objectives.base import Batch, Objective
from mamba_unet.training.optimizer import build_optimizer
from mamba_unet.training.processes import share_statistics
from mamba_unet.training.progress import Progress
from mamba_unet.training.pseudo_labels import keep_pseudo_labels
from mamba_unet.training.recipe import Recipe, RecipeError
from mamba_unet.training.signals import NAMES, StopSignals, TrainingStopped
from mamba_unet.training.state import ResumeError, save_state
from mamba_unet.training.watch import watched

LOG_EVERY = 10  # iterations

log = logging.getLogger(__name__)


class NonFiniteLossError(FloatingPointError):
    """The loss or the weights became NaN or infinite."""

    def __init__(self, what: str, iteration: int, names: Sequence[str]) -> None:
        super().__init__(
            f"{what} at iteration {iteration}; samples in the batch: {', '.join(names)}. The run folder keeps its last "
            "good checkpoints. What may help: a lower optimizer.lr, optimizer.clip_norm=1, optimizer.warmup or "
            "trainer.precision=32-true, in another --out, which may start from this one by --pretrained; "
            "`mamba-unet check` finds broken images"
        )


class Training:
    """One training from its first iteration, or from a saved state, to its last.

    Every random draw of an iteration is seeded by (seed, iteration, process), so that a run killed anywhere and
    resumed repeats the uninterrupted run exactly. Every process validates every case, so that all of them know the
    result without telling one another; the first one writes.

    Args:
        fabric: devices, precision and loggers.
        objective: what is minimised.
        data: streams and validation cases.
        recipe: of the run.
        run: folder to write.
        metadata: name of each of the objective's networks -> what its checkpoint says, without validation.
        progress: is told how far it is.
        pretrained: names of the network's parameters that were loaded from elsewhere.
        state: what `save_state` wrote, to go on from.

    Attributes:
        step: iterations done.
        validated: iterations that were done at the last validation.
        best_dice: best mean foreground Dice on the validation patients so far.
        others: the same of the networks that are reported beside the validated one.
        seconds: spent up to the last state that was saved.
    """

    def __init__(
        self,
        fabric: Fabric,
        objective: Objective,
        data: TrainingData,
        recipe: Recipe,
        run: RunFolder,
        metadata: Mapping[str, CheckpointMetadata],
        progress: Progress,
        pretrained: Sequence[str] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.fabric, self.objective, self.data, self.recipe = fabric, objective, data, recipe
        self.run_folder, self.metadata, self.progress = run, metadata, progress
        self.pretrained = list(pretrained)
        self.step, self.validated, self.best_dice, self.seconds = 0, 0, float("-inf"), 0.0
        self.time_done = 0.0  # of the minutes that the recipe allows; the same in all processes, whose clocks differ
        self.name, *others = objective.networks
        self.others = dict.fromkeys(others, float("-inf"))
        self._since, self._names = time.monotonic(), list[str]()

        on_cpu = fabric.device.type == "cpu"
        if on_cpu and fabric.world_size == 1:  # processes share gradients in the order that weights are made in
            in_cpu_order(objective)
        if fabric.world_size > 1:
            share_statistics(objective)
            # the gradients of a convolution on maps with the channels last; they are copied, and right
            warnings.filterwarnings("ignore", "Grad strides do not match")
        optimizer, self.schedule = build_optimizer(
            objective,
            recipe.optimizer,
            recipe.iterations,
            {f"{objective.trained}.{name}" for name in pretrained},
            lambda: self.time_done,
            fused=on_cpu,
        )
        # the module whose forward pass shares gradients between processes, and casts; `objective` stays the bare one
        self.wrapped, self.optimizer = fabric.setup(objective, optimizer)
        if state is not None:
            try:
                self._restore(state)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise ResumeError(
                    f"{run}: its last.ckpt is not the state of this training ({said}); put the right file there, or "
                    "start the run again in another --out"
                ) from error

    def run(self) -> None:
        """Train to the last iteration.

        Raises:
            NonFiniteLossError: the loss or the weights became NaN or infinite; checkpoints stay as they were.
            TrainingStopped: a signal asked for it; the state is saved.
            KeyboardInterrupt: likewise, by Ctrl-C; at the second one nothing is saved.
            LostProcess: another process of this training is gone.
        """
        limit = None if self.recipe.minutes is None else max(0.0, 60 * self.recipe.minutes - self.seconds)
        self.progress.start(self.step, self.recipe.iterations, limit)
        self.objective.train()
        batches = self.data.batches(
            self.objective.streams,
            self.step,
            self.recipe.iterations,
            self.fabric.global_rank,
            self.fabric.world_size,
            pin_memory=self.fabric.device.type == "cuda",
        )
        with (
            watched(self.fabric),
            StopSignals() as signals,
            contextlib.closing(self.progress),
            contextlib.closing(batches),
        ):
            while True:
                if stop := self._most((None, *NAMES).index(signals.received)):
                    self._stop(NAMES[int(stop) - 1])
                self.time_done = self._share_of_minutes()
                ended = self.done >= 1 and self.step > 0  # however few minutes: something is learned and validated
                due = self.step % self.recipe.validate_every == 0 or ended
                if due and self.step > self.validated:
                    self._validate()
                if ended:
                    break
                self._iterate(next(batches))
        if self.fabric.is_global_zero:  # again: a run that was killed behind its last state has nothing to validate
            self._write_progress()

    @property
    def done(self) -> float:
        """How much of the training is over, from 0 to 1: of its iterations or of its minutes, whichever is more."""
        return max(self.step / self.recipe.iterations, self.time_done)

    def _share_of_minutes(self) -> float:
        """How much of the time that the recipe allows is spent by any process; 0 where it sets no limit."""
        if self.recipe.minutes is None:
            return 0.0
        return self._most(min(1.0, (self.seconds + time.monotonic() - self._since) / (60 * self.recipe.minutes)))

    def _iterate(self, batch: dict[str, Batch]) -> None:
        torch.manual_seed(zlib.crc32(f"{self.recipe.seed}/{self.step}/{self.fabric.global_rank}".encode()))
        self._names = [name for part in batch.values() for name in part["name"]]
        losses = self._losses(self.fabric.to_device(batch))
        loss = losses["loss"].item()
        if self._in_any_process(not math.isfinite(loss)):
            found = [(loss, self._names)]
            if self.fabric.world_size > 1:
                found = [None] * self.fabric.world_size
                dist.all_gather_object(found, (loss, self._names))
            found = [(loss, names) for loss, names in found if not math.isfinite(loss)]
            names = [name for _, names in found for name in names]
            raise NonFiniteLossError(f"the loss became {found[0][0]}", self.step, names)
        learning_rate = self.schedule.get_last_lr()[0]

        self.optimizer.zero_grad()
        self.fabric.backward(losses["loss"])
        if self.recipe.optimizer.clip_norm is not None:
            self.fabric.clip_gradients(
                self.wrapped, self.optimizer, max_norm=self.recipe.optimizer.clip_norm, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        self.objective.after_step(self.step)

        if self.step % min(LOG_EVERY, self.recipe.iterations) == 0:
            self._log({f"train/{name}": value.detach() for name, value in losses.items()} | {"lr": learning_rate})
        self.progress.step(self.step, loss)

    def _losses(self, batch: dict[str, Batch]) -> dict[str, Tensor]:
        try:
            return self.wrapped(batch, self.step, self.done)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise RecipeError(
                "the network's batch normalisation has one value per channel and cannot train on it: batch_size is "
                f"{self.recipe.batch_size} and samples of {' x '.join(map(str, self.recipe.view.size))} "
                "shrink to one pixel; take batch_size 2 or a larger view.size"
            ) from error

    def _validate(self) -> None:
        """Measure the network on whole volumes, keep it if it is the best, and save what can be gone on from."""
        self._require_finite_weights()
        evaluation = self._evaluate(self.objective.network)
        dice = self._dice(evaluation)
        by_class = {f"val/dice/{name}": value for name, value in evaluation.per_class().items()}
        self._log({"val/dice": dice} | by_class)
        self.validated = self.step
        if dice > self.best_dice:
            self.best_dice = dice
            if self.fabric.is_global_zero:
                self._save_best(self.run_folder.best, self.name, evaluation)
        self._validate_others()
        self._keep_pseudo_labels()
        self._save()  # after the best: a kill between the two is followed by the same validation
        self.progress.validated(self.step, dice, self.best_dice)

    def _validate_others(self) -> None:
        """Report the networks beside the validated one in the same way, and keep the best of each."""
        for name in self.others:
            evaluation = self._evaluate(self.objective.networks[name])
            dice = self._dice(evaluation)
            self._log({f"val_{name}/dice": dice})
            if dice > self.others[name]:
                self.others[name] = dice
                if self.fabric.is_global_zero:
                    self._save_best(self.run_folder.best_of(name), name, evaluation)

    def _keep_pseudo_labels(self) -> None:
        labellers = self.objective.labellers(self.done)
        if self.fabric.is_global_zero and labellers:
            keep_pseudo_labels(self.run_folder, self.data, self.step, self.done, self._predict, labellers)

    def _predict(self, network: nn.Module, case: Case) -> np.ndarray:
        view, classes = self.recipe.view, self.data.prepared.num_classes
        with self.fabric.autocast():
            return predict_array(network, case.image, view, classes, spacing_mm=case.spacing_mm)

    def _evaluate(self, network: nn.Module) -> Evaluation:
        prepared = self.data.prepared
        return evaluate_cases(
            lambda case: self._predict(network, case),
            map(prepared.case, self.data.validation_cases),
            prepared.class_names,
            distances=False,
        )

    def _dice(self, evaluation: Evaluation) -> float:
        """By which checkpoints are chosen."""
        return evaluation.mean_dice(self.data.validated_classes)

    def _require_finite_weights(self) -> None:
        """A finite loss can have an infinite gradient; such weights must not become the state to resume from."""
        if not all(parameter.isfinite().all() for parameter in self.objective.parameters()):
            raise NonFiniteLossError("weights became NaN or infinite", self.step - 1, self._names)

    def _save_best(self, path: Path, name: str, evaluation: Evaluation) -> None:
        validation = {
            "iteration": self.step,
            "mean_foreground_dice": self._dice(evaluation),
            "dice": evaluation.per_class(),
        }
        save_checkpoint(path, self.objective.networks[name], replace(self.metadata[name], validation=validation))

    def _save(self) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        if not self.fabric.is_global_zero:
            return
        save_state(
            self.run_folder,
            {
                "step": self.step,
                "validated": self.validated,
                "best_dice": self.best_dice,
                "others": self.others,
                "seconds": self.seconds,
                "pretrained": self.pretrained,
                "lineage": list(self.metadata[self.name].lineage),
                "objective": self.objective.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "precision": self.fabric.strategy.precision.state_dict(),  # the loss scale of 16-mixed
            },
        )
        with naming(self.run_folder.path):
            for logger in self.fabric.loggers:
                logger.save()
        from mamba_unet.drawing.figures import plot_curves

        plot_curves(self.run_folder.metrics, self.run_folder.curves, self.metadata[self.name].class_names)
        self._write_progress()

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step, self.validated = state["step"], state["validated"]
        self.best_dice, self.seconds = state["best_dice"], state["seconds"]
        self.others |= state.get("others", {})
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, kept in self.optimizer.state.items():  # in the parameter's order of memory, as fused steps need
            for name, value in kept.items():
                if value.shape == parameter.shape:
                    kept[name] = torch.empty_like(parameter).copy_(value)
        self.schedule.load_state_dict(state["schedule"])
        if state["precision"]:  # not where a CPU trained, which scales no loss
            self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _stop(self, received: str) -> None:
        """Save, and end; `received` is the name of the signal that asked for it."""
        self._require_finite_weights()
        self._save()
        if self.fabric.is_global_zero:
            log.warning(
                "%s: stopped by %s behind iteration %d of %d; the state is saved and --resume goes on from there",
                self.run_folder, received, self.step, self.recipe.iterations,
            )  # fmt: skip
        if received == "SIGINT" and self.fabric.is_global_zero:
            raise KeyboardInterrupt
        raise TrainingStopped(received, self.fabric.is_global_zero)

    def _in_any_process(self, happened: bool) -> bool:
        return bool(self._most(happened))

    def _most(self, value: float) -> float:
        """The largest of the processes' values."""
        if self.fabric.world_size == 1:
            return value
        return self.fabric.all_reduce(torch.tensor(float(value), device=self.fabric.device), reduce_op="max").item()

    def _log(self, values: Mapping[str, Tensor | float]) -> None:
        """Write values under the last iteration's number, counted from 0; a mean over the processes."""
        values = {name: float(self.fabric.all_reduce(value)) for name, value in values.items()}
        self.fabric.log_dict(values, step=self.step - 1)

    def _write_progress(self) -> None:
        device = self.fabric.device
        others = {name: dice if math.isfinite(dice) else None for name, dice in self.others.items()}
        write_json(
            self.run_folder.progress,
            {
                "iteration": self.step,
                "validated": self.validated,
                "iterations": self.recipe.iterations,
                "out_of_time": self.time_done >= 1,
                "hours": self.seconds / 3600,
                "peak_gpu_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20
                if device.type == "cuda"
                else None,
                "best_validation_dice": self.best_dice if math.isfinite(self.best_dice) else None,
                "parameters": sum(parameter.numel() for parameter in self.objective.network.parameters()),
            }
            | ({"best_validation_dice_of_others": others} if self.others else {}),
        )
