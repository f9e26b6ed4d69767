"""One row of a comparison, and what is averaged over its trainings."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from mamba_unet.comparison.columns import Statistic
from mamba_unet.data.case import Case
from mamba_unet.evaluation.summary import Evaluation
from mamba_unet.training.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """One row of the comparison: a network under its recipe, or predictions from elsewhere.

    Attributes:
        name: of the row.
        evaluations: one per training (seed), of the same cases; those of a seed's folds are merged.
        labels: case -> class indices (D, H, W) of the first training, for the figures; None where they are gone.
        recipe: None for external predictions.
        runs: what is known of each training: folder, seed, fold, iteration, hours, peak_gpu_memory_mib, machine.
        parameters: trainable numbers; None for external predictions.
        curves: (iterations, mean foreground Dice on the validation patients) of each training that logged it.
    """

    name: str
    evaluations: Sequence[Evaluation]
    labels: Callable[[Case], np.ndarray] | None
    recipe: Recipe | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    parameters: int | None = None
    curves: Sequence[tuple[np.ndarray, np.ndarray]] = ()

    @cached_property
    def summaries(self) -> list[dict[str, Any]]:
        return [evaluation.summary() for evaluation in self.evaluations]

    def statistic(self, metric: str, class_name: str | None = None) -> Statistic:
        """Over the trainings, of the foreground mean or of one class."""
        parts = [s["foreground"] if class_name is None else s["classes"][class_name] for s in self.summaries]
        return Statistic(
            tuple(part[metric]["mean"] for part in parts),
            sum(part[metric]["infinite"] for part in parts),
            sum(part[metric]["undefined"] for part in parts),
        )

    @property
    def seeds(self) -> list[int]:
        """Of `evaluations`; empty for external predictions."""
        return list(dict.fromkeys(run["seed"] for run in self.runs))

    def per_patient(self, metric: str, trainings: Sequence[int] | None = None) -> dict[str, float]:
        """Patient -> mean over classes, cases and trainings; infinite if one of them is, NaN where none is defined.

        Args:
            metric: one of `Evaluation.metrics`.
            trainings: which of `evaluations`, by their places; None takes all.
        """
        chosen = self.evaluations if trainings is None else [self.evaluations[place] for place in trainings]
        return _per_patient(chosen, metric)

    def per_training(self, metric: str) -> list[float]:
        """Mean over patients of each training; infinite if one of them is."""
        return [_defined_mean(list(_per_patient([e], metric).values())) for e in self.evaluations]


def _per_patient(evaluations: Sequence[Evaluation], metric: str) -> dict[str, float]:
    by_case: dict[tuple[str, int, str], list[float]] = {}
    for number, evaluation in enumerate(evaluations):
        for row in evaluation.rows:
            by_case.setdefault((row["patient"], number, row["case"]), []).append(row[metric])
    by_patient: dict[str, list[float]] = {}
    for (patient, _, _), values in by_case.items():
        by_patient.setdefault(patient, []).append(_defined_mean(values))
    return {patient: _defined_mean(by_patient[patient]) for patient in sorted(by_patient)}


def _defined_mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return fmean(defined) if defined else math.nan
