"""What was measured on a set of cases: its statistics, its tables, and its files.

metrics_per_case.csv   case, patient, class, metrics; nan is undefined, inf infinite
slice_dice.csv         Dice of every slice and class
summary.json           mean, deviation, interval and counts of each metric; null is undefined
summary.md             the table to read
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.evaluation.metrics import (
    DISTANCE_METRICS,
    EMPTY_MASK_POLICY,
    OVERLAP_METRICS,
    Conventions,
    metric_title,
    ratio,
)
from mamba_unet.files import read_json, to_csv, write_json, write_text
from mamba_unet.tables import Table, number
from mamba_unet.words import counted, some

BOOTSTRAP_SAMPLES = 10_000
BOOTSTRAP_SEED = 0
INTERVAL_PERCENTILES = (2.5, 97.5)  # of 95 %
SUMMARY = "summary.json"
MADE_BY = "made_by.json"  # beside an evaluation of a checkpoint: of which, and of which data

# columns of the tables; "ci95" is the interval of the Dice
TERMINAL_BLOCKS = (("dice", "ci95", "hd95", "asd"), ("iou", "accuracy", "precision", "sensitivity", "specificity"))
COLUMNS = ("dice", "ci95", *OVERLAP_METRICS[1:], *DISTANCE_METRICS)


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and its summary.

    Without any case (a process that got none) it can be merged, but has no summary.

    Attributes:
        class_names: [0] is the background.
        conventions: of the distances; None if these were left out.
        rows: one per case and foreground class: case, patient, class, class_name, ignored_pixels, distance_unit and
            the metrics.
        slice_rows: one per case, slice and foreground class: case, patient, slice, class, class_name, dice.
    """

    class_names: tuple[str, ...]
    conventions: Conventions | None
    rows: list[dict[str, Any]]
    slice_rows: list[dict[str, Any]]

    @classmethod
    def merge(cls, parts: "Sequence[Evaluation]") -> "Evaluation":
        """One evaluation of cases that several processes shared among them, in the order of their identifiers.

        Raises:
            ValueError: the parts differ in classes or conventions, or a case is in two of them.
        """
        first = parts[0]
        if any((part.class_names, part.conventions) != (first.class_names, first.conventions) for part in parts):
            raise ValueError("evaluations with different classes or conventions cannot be merged")
        times = Counter(case for part in parts for case in part.cases)
        twice = [case for case, count in times.items() if count > 1]
        if twice:
            raise ValueError(f"cases in more than one part: {', '.join(twice)}")
        rows, slice_rows = (
            sorted((row for part in parts for row in getattr(part, name)), key=lambda row: row["case"])
            for name in ("rows", "slice_rows")
        )
        return cls(first.class_names, first.conventions, rows, slice_rows)

    @property
    def metrics(self) -> tuple[str, ...]:
        return OVERLAP_METRICS + (DISTANCE_METRICS if self.conventions is not None else ())

    @cached_property
    def cases(self) -> dict[str, str]:
        """Case -> patient, in the order of evaluation."""
        return {row["case"]: row["patient"] for row in self.rows}

    @property
    def distance_unit(self) -> str | None:
        """Unit of the distances: "mm", "voxels", or "mixed" if the cases differ; None without distances."""
        if self.conventions is None:
            return None
        units = {row["distance_unit"] for row in self.rows}
        return units.pop() if len(units) == 1 else "mixed"

    @property
    def ignored_pixels(self) -> int:
        """Pixels without ground truth in all cases."""
        return sum({row["case"]: row.get("ignored_pixels", 0) for row in self.rows}.values())

    @property
    def mean_foreground_dice(self) -> float:
        """Mean of the foreground classes' mean Dice; NaN if no class was ever present."""
        return self.mean_dice(self.class_names[1:])

    def mean_dice(self, class_names: Sequence[str]) -> float:
        """Mean of these classes' mean Dice, those left out that were never present; NaN if none was."""
        places = [self.class_names.index(name) - 1 for name in class_names]
        return float(_mean(_mean(self._values("dice"), axis=0)[places]))

    def per_class(self, metric: str = "dice") -> dict[str, float]:
        """Class name -> mean over its counted (finite) cases, NaN if there are none.

        Raises:
            ValueError: a distance, where some cases are in mm and others in voxels.
        """
        if metric in DISTANCE_METRICS and self.distance_unit == "mixed":
            raise ValueError(f"{metric} is in mm for some cases and in voxels for others; use `rows` or `per_case`")
        return dict(zip(self.class_names[1:], _mean(self._values(metric), axis=0).tolist(), strict=True))

    def per_case(self, metric: str = "dice") -> dict[str, float]:
        """Case -> mean over its counted foreground classes, NaN if there are none."""
        return dict(zip(self.cases, _mean(self._values(metric), axis=1).tolist(), strict=True))

    def image_dice(self) -> np.ndarray:
        """Mean foreground Dice of each slice that holds or is predicted to hold anything (Figure 6)."""
        values = np.array([row["dice"] for row in self.slice_rows]).reshape(-1, len(self.class_names) - 1)
        means = _mean(values, axis=1)
        return means[np.isfinite(means)]

    def summary(self) -> dict[str, Any]:
        """Per class and for the foreground: mean, sd, 95 % interval and counts of each metric; ready for JSON.

        The foreground's mean is the mean of the class means; its sd is over the cases' means. The interval is the
        percentile bootstrap over patients, all cases of a patient together. What cannot be computed is None:
        everything of a class that was never counted, sd of one case, the interval of one patient, and the distances'
        statistics where some cases are in mm and others in voxels.

        Raises:
            ValueError: nothing was evaluated.
        """
        return self._summary

    @cached_property
    def _summary(self) -> dict[str, Any]:
        if not self.rows:
            raise ValueError("no case was evaluated: the split is empty, or there is no foreground class")
        values = np.stack([self._values(metric) for metric in self.metrics], axis=-1)  # (cases, classes, metrics)
        patients, member = np.unique(list(self.cases.values()), return_inverse=True)
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        draws = rng.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), size=BOOTSTRAP_SAMPLES)
        finite = np.isfinite(values)
        sums, counts = (np.zeros((len(patients), *values.shape[1:])) for _ in range(2))
        np.add.at(sums, member, np.where(finite, values, 0))
        np.add.at(counts, member, finite)
        drawn = ratio(np.tensordot(draws, sums, 1), np.tensordot(draws, counts, 1))  # (samples, classes, metrics)

        foreground, classes = {}, {name: {} for name in self.class_names[1:]}
        for m, metric in enumerate(self.metrics):
            comparable = self.distance_unit != "mixed" or metric not in DISTANCE_METRICS
            several = counts[:, :, m].any(axis=1).sum() > 1
            foreground[metric] = _statistics(
                values[:, :, m],
                mean=_mean(_mean(values[:, :, m], axis=0)),
                spread=_mean(values[:, :, m], axis=1),
                drawn=_mean(drawn[:, :, m], axis=1) if several else np.empty(0),
                comparable=comparable,
            )
            for c, name in enumerate(classes):
                several = np.count_nonzero(counts[:, c, m]) > 1
                classes[name][metric] = _statistics(
                    values[:, c, m],
                    mean=_mean(values[:, c, m]),
                    spread=values[:, c, m],
                    drawn=drawn[:, c, m] if several else np.empty(0),
                    comparable=comparable,
                )
        return {
            "cases": len(self.cases),
            "patients": len(patients),
            "class_names": list(self.class_names),
            "distance_unit": self.distance_unit,
            "conventions": {} if self.conventions is None else asdict(self.conventions),
            "bootstrap": {"over": "patients", "level": 0.95, "samples": BOOTSTRAP_SAMPLES, "seed": BOOTSTRAP_SEED},
            "empty_masks": EMPTY_MASK_POLICY,
            "ignored_pixels": self.ignored_pixels,
            "foreground": foreground,
            "classes": classes,
        }

    def tables(self, blocks: Sequence[Sequence[str]] = (COLUMNS,)) -> list[Table]:
        """The summary: a row per class and one for the foreground, a table per block of columns."""
        summary = self.summary()
        made = []
        for block in blocks:
            columns = [column for column in block if column == "ci95" or column in self.metrics]
            rows = [[name, *(_cell(column, statistics) for column in columns)] for name, statistics in _rows(summary)]
            made.append(Table(["", *(_title(column, self.distance_unit) for column in columns)], rows))
        return made

    def notes(self) -> list[str]:
        """The lines that belong under every table: who was counted, how, in which unit."""
        return _notes(self.summary())

    def text(self) -> str:
        """The summary for a terminal: two narrow blocks, then what was counted and how."""
        return "\n".join([*(table.text() for table in self.tables(TERMINAL_BLOCKS)), *self.notes()]) + "\n"

    def markdown(self) -> str:
        """The summary as a Markdown table with its notes."""
        return self.tables()[0].markdown() + "\n" + "".join(f"- {note}\n" for note in self.notes())

    def write(self, out_dir: str | Path) -> None:
        """Write metrics_per_case.csv, slice_dice.csv, summary.md and summary.json, each whole or not at all."""
        out_dir = Path(out_dir)
        write_text(out_dir / "metrics_per_case.csv", to_csv(self.rows))
        write_text(out_dir / "slice_dice.csv", to_csv(self.slice_rows))
        write_text(out_dir / "summary.md", self.markdown())
        write_json(out_dir / SUMMARY, self.summary())

    @classmethod
    def read(cls, out_dir: str | Path) -> "Evaluation":
        """Load what `write` wrote.

        Raises:
            FileNotFoundError: `out_dir` holds no evaluation.
            ValueError: its summary is damaged.
        """
        out_dir = Path(out_dir)
        summary = read_json(out_dir / SUMMARY, "evaluate again")
        rows = _from_csv(out_dir / "metrics_per_case.csv")
        slice_rows = _from_csv(out_dir / "slice_dice.csv")
        conventions = Conventions(**summary["conventions"]) if summary["conventions"] else None
        return cls(tuple(summary["class_names"]), conventions, rows, slice_rows)

    def _values(self, metric: str) -> np.ndarray:
        """(cases, foreground classes) of one metric."""
        return np.array([row[metric] for row in self.rows], dtype=float).reshape(
            len(self.cases), len(self.class_names) - 1
        )


def refuse_other_cases(out: Path, identifiers: Sequence[str]) -> None:
    """Raise ValueError if a folder holds an evaluation of cases that are not among these: of another split."""
    if (out / SUMMARY).is_file() and (other := sorted(set(Evaluation.read(out).cases) - set(identifiers))):
        raise ValueError(
            f"{out} holds an evaluation of other cases ({some(other)}), expected a new folder, or one of the same "
            "cases; give another one (--out)"
        )


def _rows(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and statistics of every row of a table: each class, then the foreground mean."""
    return [*summary["classes"].items(), ("foreground mean", summary["foreground"])]


def format_statistic(metric: str, statistic: dict[str, Any]) -> str:
    """As "0.9281 ± 0.043" or "4.12 ± 1.30 (2 inf)"; "-" where there is no mean."""
    decimals = 2 if metric in DISTANCE_METRICS else 4
    text = number(statistic["mean"], decimals)
    if statistic["sd"] is not None:
        text += f" ± {statistic['sd']:.{min(decimals, 3)}f}"
    return f"{text} ({statistic['infinite']} inf)" if statistic["infinite"] else text


def format_interval(statistic: dict[str, Any]) -> str:
    """As "0.901 to 0.948"; "-" where there is no interval."""
    return "-" if statistic["ci95"] is None else "{:.3f} to {:.3f}".format(*statistic["ci95"])


def _notes(summary: dict[str, Any]) -> list[str]:
    """The lines that belong under every table: who was counted, how, in which unit."""
    cases, patients = counted(summary["cases"], "case"), counted(summary["patients"], "patient")
    bootstrap = summary["bootstrap"]
    lines = [
        f"Mean ± standard deviation over {cases} of {patients}; 95 % interval: bootstrap over patients "
        f"({bootstrap['samples']} samples, seed {bootstrap['seed']})."
    ]
    if summary["distance_unit"] == "mixed":
        lines.append(
            "Distances are not averaged: some cases are in mm, others, without a known spacing, in voxels. "
            "The per-case table has them."
        )
    elif summary["distance_unit"]:
        why = " (voxel spacing is unknown)" if summary["distance_unit"] == "voxels" else ""
        conventions = ", ".join(summary["conventions"].values())
        lines.append(f"Distances in {summary['distance_unit']}{why}; conventions: {conventions}.")
    lines.append(summary["empty_masks"])
    if summary["ignored_pixels"]:
        lines.append(f"{summary['ignored_pixels']:,} pixels without ground truth (label 255) are not counted.")
    else:
        lines.append("Measured on dense labels: every pixel counts.")
    gaps = []
    for name, statistics in summary["classes"].items():
        undefined, infinite = statistics["dice"]["undefined"], statistics.get("hd95", {}).get("infinite", 0)
        if undefined:
            gaps.append(f"{name} absent from label and prediction in {undefined}")
        if infinite:
            gaps.append(f"{name} absent from one of them in {infinite}")
    lines.append(f"Of {cases}: {'; '.join(gaps)}." if gaps else f"All {cases} counted in every class.")
    return lines


def _title(column: str, distance_unit: str | None) -> str:
    return "Dice 95 % interval" if column == "ci95" else metric_title(column, distance_unit)


def _cell(column: str, statistics: dict[str, Any]) -> str:
    return format_interval(statistics["dice"]) if column == "ci95" else format_statistic(column, statistics[column])


def _statistics(
    values: np.ndarray, *, mean: np.ndarray, spread: np.ndarray, drawn: np.ndarray, comparable: bool
) -> dict[str, Any]:
    """One entry of the summary: `mean` as given, sd of the finite `spread`, interval of the finite `drawn`."""
    spread, drawn = (x[np.isfinite(x)] for x in (spread, drawn))
    return {
        "mean": float(mean) if comparable and np.isfinite(mean) else None,
        "sd": float(spread.std(ddof=1)) if comparable and spread.size > 1 else None,
        "ci95": np.percentile(drawn, INTERVAL_PERCENTILES).tolist() if comparable and drawn.size else None,
        "counted": int(np.isfinite(values).sum()),
        "undefined": int(np.isnan(values).sum()),
        "infinite": int(np.isinf(values).sum()),
    }


def _mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the finite values, NaN where there are none."""
    finite = np.isfinite(values)
    return ratio(np.where(finite, values, 0).sum(axis=axis), finite.sum(axis=axis))


def _from_csv(path: Path) -> list[dict[str, Any]]:
    kinds = {"case": str, "patient": str, "class_name": str, "distance_unit": str}
    kinds |= dict.fromkeys(("class", "slice", "ignored_pixels"), int)
    with path.open(encoding="utf-8", newline="") as stream:
        return [{key: kinds.get(key, float)(text) for key, text in row.items()} for row in csv.DictReader(stream)]
