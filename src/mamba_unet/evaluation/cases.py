"""Cases in, table out: the one evaluation that validation during training, `evaluate` and the report share."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.evaluation.metrics import (
    DEFAULT_ASD,
    DEFAULT_HD95,
    DISTANCE_METRICS,
    EMPTY_MASK_POLICY,
    OVERLAP_METRICS,
    distance_conventions,
    segmentation_metrics,
    slice_dice,
)
from mamba_unet.files import to_csv, write_json, write_text

if TYPE_CHECKING:
    from mamba_unet.data.case import Case

BOOTSTRAP_SAMPLES = 10_000
BOOTSTRAP_SEED = 0

METRIC_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "hd95": "HD95",
    "asd": "ASD",
}


def evaluate_cases(
    predict: "Callable[[Case], np.ndarray]",
    cases: "Iterable[Case]",
    class_names: Sequence[str],
    *,
    hd95: str = DEFAULT_HD95,
    asd: str = DEFAULT_ASD,
    distances: bool = True,
    progress: bool = False,
) -> "Evaluation":
    """Predict every case and measure each foreground class in it.

    Args:
        predict: case -> class indices (D, H, W), in the shape of the case's label.
        cases: labelled cases, taken one at a time.
        class_names: [0] is the background, which is not measured.
        hd95, asd: conventions of the distances, see `metrics.segmentation_metrics`.
        distances: False leaves them out, as validation during training does.
        progress: show a bar on stderr.

    Raises:
        ValueError: naming the case that has no label, is there twice, or whose prediction does not fit its label.
    """
    distance_conventions(hd95, asd)  # a wrong name is found before anything is predicted
    rows: list[dict[str, Any]] = []
    slice_rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    if progress:
        from tqdm import tqdm

        cases = tqdm(cases, desc="evaluate", unit="case")
    for case in cases:
        if case.label is None:
            raise ValueError(f"{case.identifier}: no label to measure against; `predict` needs none, `evaluate` does")
        if case.identifier in seen:
            raise ValueError(f"{case.identifier}: the case came twice and would be counted twice")
        seen.add(case.identifier)
        prediction = predict(case)
        if tuple(prediction.shape) != case.label.shape:
            raise ValueError(
                f"{case.identifier}: prediction has shape {tuple(prediction.shape)}, its label {case.label.shape}; "
                "resample the prediction to the case's own grid"
            )
        try:
            measured = segmentation_metrics(
                prediction,
                case.label,
                case.spacing_mm,
                len(class_names),
                hd95=hd95,
                asd=asd,
                distances=distances,
            )
        except ValueError as error:
            raise ValueError(f"{case.identifier}: {error}") from error
        where = {"case": case.identifier, "patient": case.patient}
        unit = {"distance_unit": "voxels" if case.spacing_mm is None else "mm"} if distances else {}
        for index, values in measured.items():
            rows.append({**where, "class": index, "class_name": class_names[index], **unit, **values})
        by_slice = slice_dice(prediction, case.label, len(class_names))
        for position, values in enumerate(by_slice.tolist()):
            for index, dice in enumerate(values, start=1):
                slice_rows.append(
                    {**where, "slice": position, "class": index, "class_name": class_names[index], "dice": dice}
                )
    return Evaluation(tuple(class_names), {"hd95": hd95, "asd": asd} if distances else {}, rows, slice_rows)


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and its summary.

    Without any case (a process that got none) it can be merged, but has no summary.

    Attributes:
        class_names: [0] is the background.
        conventions: metric -> name of its convention; empty if distances were left out.
        rows: one per case and foreground class: case, patient, class, class_name, distance_unit and the metrics.
        slice_rows: one per case, slice and foreground class: case, patient, slice, class, class_name, dice.
    """

    class_names: tuple[str, ...]
    conventions: dict[str, str]
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
        return OVERLAP_METRICS + (DISTANCE_METRICS if self.conventions else ())

    @cached_property
    def cases(self) -> dict[str, str]:
        """Case -> patient, in the order of evaluation."""
        return {row["case"]: row["patient"] for row in self.rows}

    @property
    def distance_unit(self) -> str | None:
        """Unit of the distances: "mm", "voxels", or "mixed" if the cases differ; None without distances."""
        if not self.conventions:
            return None
        units = {row["distance_unit"] for row in self.rows}
        return units.pop() if len(units) == 1 else "mixed"

    @property
    def mean_foreground_dice(self) -> float:
        """Mean of the foreground classes' mean Dice; NaN if no class was ever present."""
        return float(_mean(_mean(self._values("dice"), axis=0)))

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
        drawn = _ratio(np.tensordot(draws, sums, 1), np.tensordot(draws, counts, 1))  # (samples, classes, metrics)

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
            "conventions": dict(self.conventions),
            "bootstrap": {"over": "patients", "level": 0.95, "samples": BOOTSTRAP_SAMPLES, "seed": BOOTSTRAP_SEED},
            "empty_masks": EMPTY_MASK_POLICY,
            "foreground": foreground,
            "classes": classes,
        }

    def table(self) -> str:
        """The summary for a terminal: two narrow blocks, then what was counted and how."""
        summary = self.summary()
        blocks = [["dice", "ci95", "hd95", "asd"], ["iou", "accuracy", "precision", "sensitivity", "specificity"]]
        text = []
        for block in blocks:
            columns = [column for column in block if column == "ci95" or column in self.metrics]
            lines = [["", *(_title(column, summary) for column in columns)]]
            for name, statistics in summary_rows(summary):
                lines.append([name, *(_cell(column, statistics) for column in columns)])
            widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
            for line in lines:
                cells = [
                    line[0].ljust(widths[0]),
                    *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)),
                ]
                text.append("  ".join(cells).rstrip())
            text.append("")
        return "\n".join([*text, *notes(summary)]) + "\n"

    def markdown(self) -> str:
        """The summary as a Markdown table."""
        summary = self.summary()
        columns = ["dice", "ci95", *self.metrics[1:]]
        lines = [
            "| | " + " | ".join(_title(column, summary) for column in columns) + " |",
            "|---|" + "---:|" * len(columns),
        ]
        for name, statistics in summary_rows(summary):
            lines.append(f"| {name} | " + " | ".join(_cell(column, statistics) for column in columns) + " |")
        return "\n".join([*lines, "", *(f"- {note}" for note in notes(summary))]) + "\n"

    def write(self, out_dir: str | Path) -> None:
        """Write metrics_per_case.csv, slice_dice.csv, summary.md and summary.json, each whole or not at all."""
        out_dir = Path(out_dir)
        write_text(out_dir / "metrics_per_case.csv", to_csv(self.rows))
        write_text(out_dir / "slice_dice.csv", to_csv(self.slice_rows))
        write_text(out_dir / "summary.md", self.markdown())
        write_json(out_dir / "summary.json", self.summary())

    @classmethod
    def read(cls, out_dir: str | Path) -> "Evaluation":
        """Load what `write` wrote.

        Raises:
            FileNotFoundError: `out_dir` holds no evaluation.
        """
        out_dir = Path(out_dir)
        summary = json.loads((out_dir / "summary.json").read_text(encoding="utf-8"))
        rows = _from_csv(out_dir / "metrics_per_case.csv")
        slice_rows = _from_csv(out_dir / "slice_dice.csv")
        return cls(tuple(summary["class_names"]), summary["conventions"], rows, slice_rows)

    def _values(self, metric: str) -> np.ndarray:
        """(cases, foreground classes) of one metric."""
        return np.array([row[metric] for row in self.rows], dtype=float).reshape(
            len(self.cases), len(self.class_names) - 1
        )


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and statistics of every row a table of the summary has: each class, then the foreground mean."""
    return [*summary["classes"].items(), ("foreground mean", summary["foreground"])]


def format_statistic(metric: str, statistic: dict[str, Any]) -> str:
    """As "0.9281 ± 0.043" or "4.12 ± 1.30 (2 inf)"; "-" where there is no mean."""
    decimals = 2 if metric in DISTANCE_METRICS else 4
    text = "-" if statistic["mean"] is None else f"{statistic['mean']:.{decimals}f}"
    if statistic["sd"] is not None:
        text += f" ± {statistic['sd']:.{min(decimals, 3)}f}"
    return f"{text} ({statistic['infinite']} inf)" if statistic["infinite"] else text


def format_interval(statistic: dict[str, Any]) -> str:
    """As "0.901 to 0.948"; "-" where there is no interval."""
    return "-" if statistic["ci95"] is None else "{:.3f} to {:.3f}".format(*statistic["ci95"])


def notes(summary: dict[str, Any]) -> list[str]:
    """The lines that belong under every table: who was counted, how, in which unit."""
    cases, patients = summary["cases"], summary["patients"]
    bootstrap = summary["bootstrap"]
    lines = [
        f"Mean ± standard deviation over {cases} cases of {patients} patients; 95 % interval: bootstrap over patients "
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
    gaps = []
    for name, statistics in summary["classes"].items():
        undefined, infinite = statistics["dice"]["undefined"], statistics.get("hd95", {}).get("infinite", 0)
        if undefined:
            gaps.append(f"{name} absent from label and prediction in {undefined}")
        if infinite:
            gaps.append(f"{name} absent from one of them in {infinite}")
    lines.append(f"Of {cases} cases: {'; '.join(gaps)}." if gaps else f"All {cases} cases counted in every class.")
    return lines


def _title(column: str, summary: dict[str, Any]) -> str:
    if column == "ci95":
        return "Dice 95 % interval"
    unit = summary["distance_unit"]
    return f"{METRIC_TITLES[column]} ({unit})" if column in DISTANCE_METRICS else METRIC_TITLES[column]


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
        "ci95": np.percentile(drawn, [2.5, 97.5]).tolist() if comparable and drawn.size else None,
        "counted": int(np.isfinite(values).sum()),
        "undefined": int(np.isnan(values).sum()),
        "infinite": int(np.isinf(values).sum()),
    }


def _mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Mean of the finite values, NaN where there are none."""
    finite = np.isfinite(values)
    return _ratio(np.where(finite, values, 0).sum(axis=axis), finite.sum(axis=axis))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator > 0)


def _from_csv(path: Path) -> list[dict[str, Any]]:
    kinds = {"case": str, "patient": str, "class_name": str, "distance_unit": str, "class": int, "slice": int}
    with path.open(encoding="utf-8", newline="") as stream:
        return [{key: kinds.get(key, float)(text) for key, text in row.items()} for row in csv.DictReader(stream)]
