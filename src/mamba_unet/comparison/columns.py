"""Numbers of several networks, as in the paper's Tables 1 and 2: a row per network, a column per number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from mamba_unet.evaluation.metrics import DISTANCE_METRICS, metric_title
from mamba_unet.files import to_csv
from mamba_unet.tables import Mark, Table, number


@dataclass(frozen=True)
class Column:
    """A number that every network has.

    Attributes:
        key: in the rows.
        title: with its unit.
        decimals: shown.
        higher_is_better: False for distances.
    """

    key: str
    title: str
    decimals: int = 4
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        return f"{self.title} {'↑' if self.higher_is_better else '↓'}"


@dataclass(frozen=True)
class Statistic:
    """One number of one network over its trainings.

    Attributes:
        values: one per training; None where there was nothing to average.
        infinite, undefined: how many measurements, over all trainings, the averages leave out.
    """

    values: tuple[float | None, ...]
    infinite: int = 0
    undefined: int = 0

    @property
    def mean(self) -> float | None:
        """Over the trainings; None as soon as one of them has no value."""
        return None if not self.values or None in self.values else fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation (n - 1) over the trainings; None with fewer than two."""
        return None if self.mean is None or len(self.values) < 2 else stdev(self.values)

    def text(self, decimals: int) -> str:
        """As "0.9281 ± 0.0043", "4.12 ± 0.30 (2 inf)"; "-" where there is no mean."""
        text = number(self.mean, decimals)
        if self.sd is not None:
            text += f" ± {self.sd:.{decimals}f}"
        return f"{text} ({self.infinite} inf)" if self.infinite else text


def metric_columns(metrics: Sequence[str], distance_unit: str | None) -> list[Column]:
    """The columns of the metrics of an evaluation."""
    return [
        Column(metric, metric_title(metric, distance_unit), decimals=2, higher_is_better=False)
        if metric in DISTANCE_METRICS
        else Column(metric, metric_title(metric))
        for metric in metrics
    ]


def marks(column: Column, statistics: Sequence[Statistic]) -> list[Mark]:
    """Which are best and second among several, as the table shows them: equal as printed is equally good.

    A mean that leaves infinite distances out is not marked: over all cases it would be infinite.
    """
    shown = [
        None
        if s.mean is None or s.infinite
        else round(s.mean, column.decimals) * (1 if column.higher_is_better else -1)
        for s in statistics
    ]
    steps = sorted({value for value in shown if value is not None}, reverse=True)
    if len(statistics) < 2:
        return [""] * len(statistics)
    return [
        "best" if value in steps[:1] else "second" if value in steps[1:2] else ""  # None is in neither
        for value in shown
    ]


def statistics_table(columns: Sequence[Column], rows: Mapping[str, Mapping[str, Statistic]], title: str = "") -> Table:
    """A row per network, a column per number, best and second marked in each."""
    by_column = [marks(column, [row[column.key] for row in rows.values()]) for column in columns]
    return Table(
        [title, *(column.heading for column in columns)],
        [[name, *(row[column.key].text(column.decimals) for column in columns)] for name, row in rows.items()],
        list(zip(*by_column, strict=True)),
    )


def statistics_csv(columns: Sequence[Column], rows: Mapping[str, Mapping[str, Statistic]]) -> str:
    """The same unrounded: for each number mean, sd and what the mean leaves out."""
    return to_csv(
        [
            {"network": name}
            | {
                f"{column.title} {part}": getattr(row[column.key], part)
                for column in columns
                for part in ("mean", "sd", "infinite", "undefined")
            }
            for name, row in rows.items()
        ]
    )
