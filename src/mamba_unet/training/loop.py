"""One training step and one validation, as a LightningModule."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mamba_unet.evaluation.cases import Evaluation, evaluate_cases
from mamba_unet.inference.scores import predict_array
from mamba_unet.training.objectives.losses import segmentation_loss
from mamba_unet.training.recipe import OptimizerRecipe
from mamba_unet.views.slices import Slices


class NonFiniteLossError(FloatingPointError):
    """The loss or the weights became NaN or infinite."""

    def __init__(self, what: str, iteration: int, names: Sequence[str]) -> None:
        super().__init__(
            f"{what} at iteration {iteration}; slices in the batch: {', '.join(names)}. The run folder keeps its last "
            "good checkpoints. Ways out: a lower optimizer.lr, optimizer.clip_norm=1, optimizer.warmup, "
            "trainer.precision=32-true; `mamba-unet check` finds broken images"
        )


class SegmentationModule(LightningModule):
    """Trains `model` by cross-entropy and Dice, and validates it on whole volumes.

    Every random draw of an iteration is seeded by (seed, iteration, process), so that a run killed anywhere and
    resumed repeats the uninterrupted run exactly.

    Args:
        model: (B, C, H, W) -> logits (B, K, H, W).
        optimizer: the optimiser's recipe.
        iterations: optimiser steps of the whole run.
        view: what the network sees of a case.
        class_names: the first is background.
        seed: of stochastic depth and dropout.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerRecipe,
        iterations: int,
        view: Slices,
        class_names: list[str],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.iterations = model, optimizer, iterations
        self.view, self.class_names, self.seed = view, class_names, seed
        self.evaluation: Evaluation | None = None  # the last validation's
        self._validated: dict[str, np.ndarray] = {}  # the predictions alone: an open case holds two files open
        self._batch_names: Sequence[str] = ()  # the last iteration's

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(zlib.crc32(f"{self.seed}/{self.global_step}/{self.global_rank}".encode()))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self._batch_names = batch["name"]
        losses = segmentation_loss(self.model(batch["image"]), batch["label"])
        if not torch.isfinite(losses["loss"]):
            raise NonFiniteLossError(f"the loss became {losses['loss'].item()}", self.global_step, self._batch_names)
        self.log("train/loss", losses["loss"], prog_bar=True, sync_dist=True)
        self.log("train/cross_entropy", losses["cross_entropy"], sync_dist=True)
        self.log("train/dice_loss", losses["dice_loss"], sync_dist=True)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        return losses["loss"]

    def on_validation_epoch_start(self) -> None:
        # a finite loss can have an infinite gradient; such weights must not become the checkpoint to resume from
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise NonFiniteLossError("weights became NaN or infinite", self.global_step - 1, self._batch_names)

    def validation_step(self, identifier: str, batch_idx: int) -> None:
        case = self.trainer.datamodule.prepared.case(identifier)
        self._validated[identifier] = predict_array(self.model, case.image, self.view, len(self.class_names))

    def on_validation_epoch_end(self) -> None:
        self.evaluation = evaluate_cases(
            lambda case: self._validated[case.identifier],
            map(self.trainer.datamodule.prepared.case, self._validated),
            self.class_names,
            distances=False,
        )
        self._validated.clear()
        self.log("val/dice", self.evaluation.mean_foreground_dice, prog_bar=True, rank_zero_only=True)
        for name, dice in self.evaluation.per_class().items():
            self.log(f"val/dice/{name}", dice, rank_zero_only=True)

    def configure_optimizers(self) -> dict[str, Any]:
        r = self.recipe
        if r.name == "sgd":
            optimizer = torch.optim.SGD(
                self.model.parameters(), lr=r.lr, momentum=r.momentum, weight_decay=r.weight_decay
            )
        else:
            optimizer = torch.optim.AdamW(self.model.parameters(), lr=r.lr, weight_decay=r.weight_decay)

        def factor(step: int) -> float:
            warmup = min(1.0, (step + 1) / (r.warmup + 1))
            return warmup * max(0.0, 1 - step / self.iterations) ** r.power

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
