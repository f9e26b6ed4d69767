"""Tables of several networks, as the paper's Tables 1 and 2: Markdown, LaTeX and CSV of the same cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from statistics import fmean, stdev
from typing import Literal

from mamba_unet.evaluation.cases import METRIC_TITLES
from mamba_unet.evaluation.metrics import DISTANCE_METRICS
from mamba_unet.files import to_csv

Mark = Literal["", "best", "second"]

LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "_%&#${}"},
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "−": "$-$",
    "<": "$<$",
}


BOLD, UNDERLINE, RULE = r"\textbf{{{}}}", r"\underline{{{}}}", "\\hline\n"


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
        text = "-" if self.mean is None else f"{self.mean:.{decimals}f}"
        if self.sd is not None:
            text += f" ± {self.sd:.{decimals}f}"
        return f"{text} ({self.infinite} inf)" if self.infinite else text


def metric_columns(metrics: Sequence[str], distance_unit: str | None) -> list[Column]:
    """The columns of the metrics of an evaluation."""
    return [
        Column(metric, f"{METRIC_TITLES[metric]} ({distance_unit})", decimals=2, higher_is_better=False)
        if metric in DISTANCE_METRICS
        else Column(metric, METRIC_TITLES[metric])
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


@dataclass(frozen=True)
class Table:
    """Cells of text, of which some are marked as best or second of their column.

    Attributes:
        titles: of the columns; the first names the rows.
        rows: cells, as many as titles each.
        marks: as `rows`, without the first column; empty where nothing is marked.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: Sequence[Sequence[Mark]] = ()

    def _cells(self, best: str, second: str) -> list[list[str]]:
        """The rows with the marks as `str.format` patterns."""
        pattern = {"": "{}", "best": best, "second": second}
        rows = [list(row) for row in self.rows]
        for row, row_marks in zip(rows, self.marks, strict=False):
            row[1:] = [pattern[mark].format(cell) for cell, mark in zip(row[1:], row_marks, strict=True)]
        return rows

    def markdown(self) -> str:
        """Best in bold, second underlined (`<ins>`, for Markdown has no underline)."""
        rows = [self.titles, *self._cells("**{}**", "<ins>{}</ins>")]
        lines = ["| " + " | ".join(row) + " |\n" for row in rows]
        lines.insert(1, "|---|" + "---:|" * (len(self.titles) - 1) + "\n")
        return "".join(lines)

    def latex(self) -> str:
        """A tabular of plain LaTeX, without packages."""
        rows = [[_latex(cell) for cell in row] for row in self.rows]
        titles, cells = [_latex(title) for title in self.titles], replace(self, rows=rows)._cells(BOLD, UNDERLINE)
        head, *body = [" & ".join(row) + " \\\\\n" for row in (titles, *cells)]
        columns = "l" + "r" * (len(titles) - 1)
        lines = [f"\\begin{{tabular}}{{{columns}}}\n", RULE, head, RULE, *body, RULE, "\\end{tabular}\n"]
        return "".join(lines)

    def html_rows(self) -> list[list[str]]:
        """The cells as HTML, for a page's own table; a deviation on a line of its own keeps it narrow."""

        def stacked(cell: str) -> str:
            mean, sign, rest = escape(cell).partition(" ± ")
            return f"{mean}<small>± {rest}</small>" if sign else mean

        rows = [[stacked(cell) for cell in row] for row in self.rows]
        return replace(self, rows=rows)._cells("<strong>{}</strong>", "<u>{}</u>")


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


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
