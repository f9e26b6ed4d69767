"""What a comparison found: networks measured on the same cases, as tables, tests and notes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from mamba_unet import __version__
from mamba_unet.comparison.columns import Column, Statistic, metric_columns, statistics_table
from mamba_unet.comparison.entry import Entry
from mamba_unet.comparison.paired import paired_tests, tests_notes, tests_table
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.drawing.examples import Example, largest_slice, pick_cases
from mamba_unet.evaluation.metrics import DISTANCE_METRICS, EMPTY_MASK_POLICY
from mamba_unet.evaluation.summary import Evaluation
from mamba_unet.tables import Table
from mamba_unet.training.labelled import learned_from
from mamba_unet.training.recipe import PLACE_KEYS, Recipe
from mamba_unet.words import counted

EXAMPLES = 4
TESTED = ("dice", "hd95")
NOT_OF_THE_NETWORK = PLACE_KEYS | {"seed", "fold"}  # keys that say nothing about the network

LEARNED_FROM = "learned from"
SYNTHETIC = "Synthetic data: drawn images, not patients. The numbers say nothing about medical images."


@dataclass(frozen=True)
class Comparison:
    """Networks measured on the same cases.

    Attributes:
        prepared: the data.
        entries: name -> row, in the order of the tables.
        reference: the name that the others are tested against.
        seeds: of the trainings.
        folds: number of folds whose test cases are pooled; None for the split `test`.
        unfinished: trainings that are left out because they are not complete, "unet seed 2".
    """

    prepared: PreparedDataset
    entries: Mapping[str, Entry]
    reference: str
    seeds: Sequence[int]
    folds: int | None = None
    unfinished: Sequence[str] = ()

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
        """What each network is, where its recipe differs from the others', and what its training cost."""
        recipes = {name: _flat(_keys(entry.recipe)) for name, entry in self.entries.items() if entry.recipe}
        shown = ("model.name", "few_labels.partners", "labelled", "annotation", "pretrained", "iterations")
        keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
        said = {name: _said(self.entries[name]) for name in recipes}
        differing = [
            key
            for key in keys
            if key not in NOT_OF_THE_NETWORK
            and len({str(recipe.get(key)) for recipe in recipes.values()}) > 1
            and (key not in shown or _is_hidden(key, recipes, said))
        ]
        titles = ["network", "model", "parameters", LEARNED_FROM, "starts from", *differing, "trainings", "iterations"]
        titles += ["time per training", "GPU memory"]
        several_machines = len(self._machines) > 1  # whose times do not compare
        titles += ["trained on"] if several_machines else []
        rows = []
        for name, entry in self.entries.items():
            if entry.recipe is None:
                others = len(titles) - 2
                rows.append([name, "external predictions", *["-"] * others])
                rows[-1][titles.index("trainings")] = str(len(entry.evaluations))
                continue
            recipe = recipes[name]
            hours = fmean(run["hours"] for run in entry.runs)
            memory = [run["peak_gpu_memory_mib"] for run in entry.runs]
            rows.append(
                [
                    name,
                    said[name]["few_labels.partners"],
                    f"{entry.parameters:,}",
                    said[name]["labelled"],
                    said[name]["pretrained"],
                    *("-" if recipe.get(key) is None else str(recipe[key]) for key in differing),
                    str(len(entry.runs)),
                    f"{entry.recipe.iterations:,}" if entry.recipe.minutes is None else _mean_iterations(entry),
                    f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min" if hours >= 1 / 60 else "< 1 min",
                    "-" if None in memory else f"{max(memory) / 1024:.1f} GiB",
                ]
            )
            if several_machines:
                rows[-1].append(" and ".join(dict.fromkeys(run["machine"] for run in entry.runs)))
        return Table(titles, rows, left=(0, 1, 3, 4))

    @property
    def _machines(self) -> list[str]:
        return sorted({run["machine"] for entry in self.entries.values() for run in entry.runs})

    @cached_property
    def tests(self) -> list[dict[str, Any]]:
        """Every network against the reference, see `paired_tests`."""
        metrics = [m for m in TESTED if m not in DISTANCE_METRICS or self.evaluation.distance_unit != "mixed"]
        return paired_tests(self.entries, self.reference, metrics)

    def significance(self) -> Table:
        """The tests, for people."""
        return tests_table(self.tests, self.columns, self.reference)

    def significance_notes(self) -> list[str]:
        """What belongs under the tests."""
        one_training = [name for name, one in self.entries.items() if one.runs and len(one.evaluations) == 1]
        return tests_notes(self.tests, self.reference, one_training)

    @property
    def class_names(self) -> Sequence[str]:
        return self.prepared.class_names

    @property
    def title(self) -> str:
        return f"{counted(len(self.entries), 'network')} on {self.prepared.name}"

    def result_notes(self) -> list[str]:
        """What belongs under the tables of results."""
        evaluation = self.evaluation
        cases = counted(len(evaluation.cases), "case")
        patients = counted(len(set(evaluation.cases.values())), "patient")
        where = "the split test" if self.folds is None else f"the test parts of {self.folds} folds together"
        lines = [
            f"{cases} of {patients}: {where}. Means of the foreground classes' means. ± is the standard deviation over "
            "trainings, absent where there was one: how much a training "
            f"varies, not how much patients do. {self._seeds_text()}",
            "Best in bold, second underlined, as rounded here; ↑ higher is better, ↓ lower. A mean distance that "
            "leaves infinite ones out is not marked.",
        ]
        if len(self.seeds) > 1 and any(isinstance(e.recipe.labelled, int) for e in self.entries.values() if e.recipe):
            lines.append(
                "Where `labelled` is a number, each seed drew other patients to learn from: ± holds that, too."
            )
        if self.unfinished:
            there = "; ".join(f"{name} {len(entry.evaluations)}" for name, entry in self.entries.items())
            lines.insert(
                0,
                f"Not complete: {len(self.unfinished)} trainings are not finished and left out "
                f"({', '.join(self.unfinished)}). Trainings in each row: {there}.",
            )
        if self.synthetic:
            lines.insert(0, SYNTHETIC)
        if evaluation.distance_unit == "mixed":
            lines.append("Distances are not averaged: some cases are in mm, others, without known spacing, in voxels.")
        elif evaluation.distance_unit:
            conventions = ", ".join(asdict(evaluation.conventions).values())
            lines.append(f"Distances in {evaluation.distance_unit}; conventions: {conventions}.")
        lines.append(EMPTY_MASK_POLICY)
        if evaluation.ignored_pixels:
            lines.append(f"{evaluation.ignored_pixels:,} pixels without ground truth (label 255) are not counted.")
        else:
            lines.append("Measured on dense labels, whatever was learned from: every pixel counts.")
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
        lines = ["Columns named as recipe keys are those in which the recipes differ; all other keys are the same."]
        if any(len(entry.recipe.members) > 1 for entry in self.entries.values() if entry.recipe):
            lines.append(
                "Where several networks were trained together, numbers and parameters are those of the one that the "
                "recipe says is validated (few_labels.validated)."
            )
        if len(self._machines) == 1:
            lines.append(f"Time includes validation. Trained on: {self._machines[0]}.")
        elif self._machines:
            lines.append("Time includes validation. Times on different machines or threads cannot be compared.")
        return lines

    def _seeds_text(self) -> str:
        trained = any(entry.recipe for entry in self.entries.values())
        return f"Seeds: {', '.join(map(str, self.seeds))}." if trained else ""

    @property
    def synthetic(self) -> bool:
        return "synthetic" in f"{self.prepared.name} {self.prepared.description}".lower()

    def examples(self, seed: int = 0) -> list[Example]:
        """The slice with the largest labelled area of cases drawn at random: they depend on names and seed alone."""
        examples = []
        for identifier in pick_cases(list(self.evaluation.cases), EXAMPLES, seed):
            case = self.prepared.case(identifier)
            labels = {name: entry.labels(case) for name, entry in self.entries.items() if entry.labels is not None}
            examples.append(Example.of_case(case, largest_slice(case.label), labels))
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
                and {k: v for k, v in _keys(entry.recipe).items() if k not in NOT_OF_THE_NETWORK},
                "parameters": entry.parameters,
                "trainings": list(entry.runs),
                "metrics": {
                    metric: asdict(statistic) | {"mean": statistic.mean, "sd": statistic.sd}
                    for metric, statistic in self.statistics[name].items()
                },
                "summaries": entry.summaries,
                "patients": {
                    metric: entry.per_patient(metric)
                    for metric in self.evaluation.metrics
                    if metric not in DISTANCE_METRICS or self.evaluation.distance_unit != "mixed"
                },
            }
        return _jsonable(
            {
                "version": __version__,
                "data": {"name": self.prepared.name, "fingerprint": self.prepared.fingerprint},
                "seeds": list(self.seeds),
                "folds": self.folds,
                "unfinished": list(self.unfinished),
                "cases": self.evaluation.cases,
                "distance_unit": self.evaluation.distance_unit,
                "conventions": self.evaluation.conventions and asdict(self.evaluation.conventions),
                "reference": self.reference,
                "networks": networks,
                "tests": self.tests,
            }
        )


def _said(entry: Entry) -> dict[str, str]:
    """Key of the recipe -> what another column says of it in fewer words."""
    return {
        "few_labels.partners": " + ".join(member.name for member in entry.recipe.members),
        "labelled": " and ".join(dict.fromkeys(_learned_from(run) for run in entry.runs)),
        "pretrained": Path(entry.recipe.pretrained).name if entry.recipe.pretrained else "random weights",
    }


def _is_hidden(key: str, recipes: Mapping[str, Mapping[str, Any]], said: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether two recipes differ in a key of which the table says the same."""
    seen: dict[str, str] = {}
    return any(
        seen.setdefault(said[name][key], str(recipe.get(key))) != str(recipe.get(key))
        for name, recipe in recipes.items()
        if key in said[name]
    )


def _learned_from(run: Mapping[str, Any]) -> str:
    if run.get("labelled_patients") is None:  # of a version that had labels of all
        return "all patients"
    return learned_from(run["labelled_patients"], run["unlabelled_patients"], run["annotation"], run["marked"])


def _keys(recipe: Recipe) -> dict[str, Any]:
    return asdict(recipe) | {"view": recipe.view.to_json()}  # with its kind, which is no field


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


def _mean_iterations(entry: Entry) -> str:
    """Of trainings that end by the clock."""
    return f"{fmean(run['iteration'] for run in entry.runs):,.0f}"
