"""What a comparison found: networks measured on the same cases, as tables, tests and notes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from mamba_unet import __version__
from mamba_unet.data.case import Case
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.drawing.overlay import Example
from mamba_unet.drawing.tables import Column, Statistic, Table, metric_columns, statistics_table
from mamba_unet.evaluation.cases import Evaluation
from mamba_unet.evaluation.metrics import DISTANCE_METRICS, EMPTY_MASK_POLICY
from mamba_unet.evaluation.significance import holm, paired_test
from mamba_unet.report.page import pick_cases
from mamba_unet.training.recipe import PLACE_KEYS, Recipe

EXAMPLES = 4
TESTED = ("dice", "hd95")
NOT_OF_THE_NETWORK = PLACE_KEYS | {"seed", "fold"}  # keys that do not tell one network from another

SYNTHETIC = "Synthetic data: drawn images, not patients. The numbers say nothing about medical images."


@dataclass(frozen=True)
class Entry:
    """One row of the comparison: a network under its recipe, or predictions from elsewhere.

    Attributes:
        name: of the row.
        evaluations: one per training (seed), of the same cases; those of a seed's folds are merged.
        labels: case -> class indices (D, H, W) of the first training, for the figures.
        recipe: None for external predictions.
        runs: what is known of each training: folder, seed, fold, iteration, hours, peak_gpu_memory_mib, machine.
        parameters: trainable numbers; None for external predictions.
    """

    name: str
    evaluations: Sequence[Evaluation]
    labels: Callable[[Case], np.ndarray]
    recipe: Recipe | None = None
    runs: Sequence[Mapping[str, Any]] = ()
    parameters: int | None = None

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

    def per_patient(self, metric: str) -> dict[str, float]:
        """Patient -> mean over classes, cases and trainings; infinite if one of them is, NaN where none is defined."""
        return _per_patient(self.evaluations, metric)

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


@dataclass(frozen=True)
class Comparison:
    """Networks measured on the same cases.

    Attributes:
        prepared: the data.
        entries: name -> row, in the order of the tables.
        reference: the name that the others are tested against.
        seeds: of the trainings.
        folds: number of folds whose test cases are pooled; None for the split `test`.
    """

    prepared: PreparedDataset
    entries: Mapping[str, Entry]
    reference: str
    seeds: Sequence[int]
    folds: int | None = None

    @property
    def evaluation(self) -> Evaluation:
        """Any one of them, for what they all share."""
        return next(iter(self.entries.values())).evaluations[0]

    @cached_property
    def columns(self) -> list[Column]:
        return metric_columns(self.evaluation.metrics, self.evaluation.distance_unit)

    @cached_property
    def statistics(self) -> dict[str, dict[str, Statistic]]:
        """Network -> metric -> foreground mean over the trainings."""
        return {
            name: {column.key: entry.statistic(column.key) for column in self.columns}
            for name, entry in self.entries.items()
        }

    def results(self) -> Table:
        """The paper's Table 1 or 2."""
        return statistics_table(self.columns, self.statistics, "network")

    def classes(self) -> Table:
        """Dice of every class."""
        names = self.evaluation.class_names[1:]
        rows = {
            name: {class_name: entry.statistic("dice", class_name) for class_name in names}
            for name, entry in self.entries.items()
        }
        return statistics_table([Column(name, name) for name in names], rows, "Dice")

    def networks(self) -> Table:
        """What each network is, where its recipe differs from the others', and what its training took."""
        recipes = {name: _flat(asdict(entry.recipe)) for name, entry in self.entries.items() if entry.recipe}
        shown = ("model.name", "pretrained", "iterations")  # columns of their own
        keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
        differing = [
            key
            for key in keys
            if key not in NOT_OF_THE_NETWORK
            and key not in shown
            and len({str(recipe.get(key)) for recipe in recipes.values()}) > 1
        ]
        titles = ["network", "model", "parameters", "starts from", *differing, "trainings", "iterations"]
        titles += ["time per training", "GPU memory"]
        rows = []
        for name, entry in self.entries.items():
            if entry.recipe is None:
                others = len(titles) - 2
                rows.append([name, "external predictions", *["-"] * others])
                rows[-1][titles.index("trainings")] = str(len(entry.evaluations))
                continue
            recipe = recipes[name]
            start = recipe["pretrained"]
            hours = fmean(run["hours"] for run in entry.runs)
            memory = [run["peak_gpu_memory_mib"] for run in entry.runs]
            rows.append(
                [
                    name,
                    recipe["model.name"],
                    f"{entry.parameters:,}",
                    "random weights" if start is None else Path(start).name,
                    *("-" if recipe.get(key) is None else str(recipe[key]) for key in differing),
                    str(len(entry.runs)),
                    f"{entry.recipe.iterations:,}",
                    f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min" if hours >= 1 / 60 else "< 1 min",
                    "-" if None in memory else f"{max(memory) / 1024:.1f} GiB",
                ]
            )
        return Table(titles, rows)

    @cached_property
    def tests(self) -> list[dict[str, Any]]:
        """Each network against the reference: network, metric, what `paired_test` finds over patients, p_holm, and of
        how many pairs of a training of the network and one of the reference the network's has the better mean."""
        tests = []
        metrics = [m for m in TESTED if m not in DISTANCE_METRICS or self.evaluation.distance_unit != "mixed"]
        reference = self.entries[self.reference]
        for metric in metrics:
            higher = metric not in DISTANCE_METRICS
            expected = reference.per_patient(metric)
            for name, entry in self.entries.items():
                if name == self.reference:
                    continue
                values = entry.per_patient(metric)
                found = paired_test(
                    [values[patient] for patient in expected], list(expected.values()), higher_is_better=higher
                )
                pairs = list(product(entry.per_training(metric), reference.per_training(metric)))
                better = sum(own > other if higher else own < other for own, other in pairs)
                trainings = {"pairs_of_trainings": len(pairs), "better_pairs": better}
                tests.append({"network": name, "metric": metric, **asdict(found), **trainings})
        for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
            test["p_holm"] = p
        return tests

    def significance(self) -> Table:
        """The tests, for people."""
        columns = {column.key: column for column in self.columns}
        rows = []
        for test in self.tests:
            decimals = columns[test["metric"]].decimals
            low_high = "-" if test["interval"] is None else " to ".join(f"{x:+.{decimals}f}" for x in test["interval"])
            rows.append(
                [
                    test["network"],
                    columns[test["metric"]].title,
                    str(test["patients"]),
                    str(test["ties"]),
                    str(test["left_out"]),
                    "-" if test["median_difference"] is None else f"{test['median_difference']:+.{decimals}f}",
                    low_high,
                    "-" if test["effect"] is None else f"{test['effect']:+.2f}",
                    _p_text(test["p"]),
                    _p_text(test["p_holm"]),
                    f"{test['better_pairs']} of {test['pairs_of_trainings']}",
                ]
            )
        titles = [f"against {self.reference}", "metric", "patients", "ties", "left out", "median difference"]
        return Table([*titles, "95 % interval", "rank-biserial r", "p", "p (Holm)", "better trainings"], rows)

    @property
    def title(self) -> str:
        return f"{len(self.entries)} networks on {self.prepared.name}"

    def result_notes(self) -> list[str]:
        """What belongs under the tables of results."""
        evaluation, patients = self.evaluation, set(self.evaluation.cases.values())
        where = "the split test" if self.folds is None else f"the test parts of {self.folds} folds together"
        lines = [
            f"{len(evaluation.cases)} cases of {len(patients)} patients: {where}. Means of the foreground classes' "
            "means. ± is the standard deviation over trainings, absent where there was one: how much a training "
            f"varies, not how much patients do. {self._seeds_text()}",
            "Best in bold, second underlined, as rounded here; ↑ higher is better, ↓ lower. A mean distance that "
            "leaves infinite ones out is not marked.",
        ]
        if self.synthetic:
            lines.insert(0, SYNTHETIC)
        if evaluation.distance_unit == "mixed":
            lines.append("Distances are not averaged: some cases are in mm, others, without known spacing, in voxels.")
        elif evaluation.distance_unit:
            conventions = ", ".join(evaluation.conventions.values())
            lines.append(f"Distances in {evaluation.distance_unit}; conventions: {conventions}.")
        lines.append(EMPTY_MASK_POLICY)
        gaps = []
        for name, statistics in self.statistics.items():
            undefined, infinite = statistics["dice"].undefined, statistics["hd95"].infinite
            if undefined or infinite:
                gaps.append(f"{name} {undefined} undefined, {infinite} infinite")
        measured = "Of the measurements (case x class x training): "
        lines.append(
            f"{measured}{'; '.join(gaps)}." if gaps else "Every class of every case counted, in all trainings."
        )
        return lines

    def network_notes(self) -> list[str]:
        """What belongs under the table of networks."""
        machines = sorted({run["machine"] for entry in self.entries.values() for run in entry.runs})
        lines = ["Columns named as recipe keys are those in which the recipes differ; all other keys are the same."]
        if machines:
            lines.append(f"Time includes validation. Trained on: {'; '.join(machines)}.")
        return lines

    def significance_notes(self) -> list[str]:
        """What belongs under the tests."""
        number = sum(test["p"] is not None for test in self.tests)
        most = max((test["patients"] - test["ties"] for test in self.tests), default=0)
        smallest = min(1.0, 2.0 ** (1 - most))
        lines = [
            f"Each network minus {self.reference}, one value per patient: the mean over the patient's classes, cases "
            "and trainings. Wilcoxon's signed-rank test, two-sided and exact; patients without a difference (ties) do "
            "not enter it.",
            f"p (Holm) is corrected for the {number} tests of this table.",
            "The median is over all patients compared, its interval the percentile bootstrap over patients (10,000 "
            "samples, seed 0). r is the matched-pairs rank-biserial correlation: +1 better in every patient, -1 worse "
            "in every patient.",
            "A patient's distance is infinite if one of its structures was missed or invented in any training; it then "
            "has the largest rank. Left out: patients with an undefined value, or infinite for both networks.",
            "Patients are the sample. A small p says that more patients like these would show the difference between "
            "these very trainings; a large p does not say that the networks are equally good.",
            "Better trainings: of the pairs of a training of the network and one of the reference, those in which the "
            "network's mean over patients is the better one. Neither few nor nearly all: seeds decide as much as "
            "networks do.",
        ]
        if number * smallest > 0.05:
            lines.append(
                f"With {most} patients no p below {smallest:.2g} is possible, and none below "
                f"{min(1.0, number * smallest):.2g} after the correction: too few to find anything at the 5 % level."
            )
        if any(len(entry.runs) and len(entry.evaluations) == 1 for entry in self.entries.values()):
            lines.append("One training per network: how much it varies from seed to seed is not known here.")
        return lines

    def _seeds_text(self) -> str:
        trained = any(entry.recipe for entry in self.entries.values())
        return f"Seeds: {', '.join(map(str, self.seeds))}." if trained else ""

    @property
    def synthetic(self) -> bool:
        return "synthetic" in f"{self.prepared.name} {self.prepared.description}".lower()

    def examples(self, seed: int = 0) -> list[Example]:
        """The slice with the largest labelled area of cases drawn by lot: they depend on names and seed alone."""
        examples = []
        for identifier in pick_cases(list(self.evaluation.cases), EXAMPLES, seed):
            case = self.prepared.case(identifier)
            number = int((case.label > 0).sum(axis=(1, 2)).argmax())
            labels = {name: entry.labels(case)[number] for name, entry in self.entries.items()}
            examples.append(
                Example(
                    f"{identifier}, slice {number}",
                    case.image[number],
                    {"truth": case.label[number], **labels},
                    case.spacing_mm[1:] if case.spacing_mm else (1, 1),
                ).cropped()
            )
        return examples

    def image_dice(self) -> dict[str, np.ndarray]:
        """Network -> Dice of every image in every training."""
        return {
            name: np.concatenate([evaluation.image_dice() for evaluation in entry.evaluations])
            for name, entry in self.entries.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Everything; undefined numbers are None, infinite ones "inf"."""
        networks = {}
        for name, entry in self.entries.items():
            networks[name] = {
                "external": entry.recipe is None,
                "recipe": entry.recipe
                and {k: v for k, v in asdict(entry.recipe).items() if k not in NOT_OF_THE_NETWORK},
                "parameters": entry.parameters,
                "trainings": list(entry.runs),
                "metrics": {
                    metric: asdict(statistic) | {"mean": statistic.mean, "sd": statistic.sd}
                    for metric, statistic in self.statistics[name].items()
                },
                "summaries": entry.summaries,
                "patients": {metric: entry.per_patient(metric) for metric in self.evaluation.metrics},
            }
        return _jsonable(
            {
                "version": __version__,
                "data": {"name": self.prepared.name, "fingerprint": self.prepared.fingerprint},
                "seeds": list(self.seeds),
                "folds": self.folds,
                "cases": self.evaluation.cases,
                "distance_unit": self.evaluation.distance_unit,
                "conventions": self.evaluation.conventions,
                "reference": self.reference,
                "networks": networks,
                "tests": self.tests,
            }
        )


def _p_text(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value."""
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
