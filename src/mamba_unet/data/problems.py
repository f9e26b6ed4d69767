"""Problems of a data set, and their table."""

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mamba_unet.words import counted, some

SKIP = "repair or remove the file, or leave the case out (--skip-bad)"
SEVERITIES = ("error", "warning", "note")
WIDTH = 80


@dataclass(frozen=True)
class Problem:
    """What does not fit in one file, or in the data set as a whole.

    Attributes:
        file: the file at fault, or the folder or list where no single file is.
        problem: what is wrong, in few words.
        expected, found: the two things that do not agree.
        remedy: what the user can do.
        severity: "error" stops `prepare`, "warning" does not; a "note" is for the reader to know.
        case: the identifier of the case at fault; None if it concerns the data set as a whole.
    """

    file: Path
    problem: str
    expected: str
    found: str
    remedy: str
    severity: Literal["error", "warning", "note"] = "error"
    case: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """Everything found in one pass over a data set.

    Attributes:
        source: the folder that was checked.
        layout: the name of its layout, and `why` it was taken for that.
        dataset: name of the data set, e.g. "acdc".
        class_names: [0] is the background.
        cases: identifiers of all the cases found, good and bad.
        problems: errors first.
        notes: what was decided on the way and is not a problem (files left alone, how the split came about).
    """

    source: Path
    layout: str
    why: str
    dataset: str
    class_names: Sequence[str]
    cases: Sequence[str]
    problems: Sequence[Problem] = field(default=())
    notes: Sequence[str] = field(default=())

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "warning"]

    def table(self, most: int | None = 10) -> str:
        """Text for a terminal: what was found, then the problems in 80 columns, equal ones together.

        Args:
            most: so many files of equal problems are named; None: all.
        """
        lines = [
            f"{self.source}: {self.layout} ({self.why})",
            f"{self.dataset}, {counted(len(self.cases), 'case')}, classes: {', '.join(self.class_names)}",
            *(f"note: {note}" for note in self.notes),
        ]
        groups: dict[tuple[str, ...], list[Problem]] = {}
        for p in self.problems:
            groups.setdefault((p.severity, p.problem, p.expected, p.remedy), []).append(p)
        for (severity, problem, expected, remedy), alike in groups.items():
            files = list(dict.fromkeys(_short(p.file, self.source) for p in alike))
            by_found: dict[str, list[str]] = {}
            for p in alike:
                by_found.setdefault(p.found, []).append(_short(p.file, self.source))
            found = [
                text if len(by_found) == 1 else f"{text} ({some(names, 3)})"
                for text, names in list(by_found.items())[:most]
            ]
            more = len(by_found) - len(found)
            lines += [
                "",
                f"{severity}: {problem}" + (f" ({len(files)} files)" if len(files) > 1 else ""),
                *_row("file" if len(files) == 1 else "files", some(files, most)),
                *_row("expected", expected),
                *_row("found", "; ".join(found) + (f"; {more} others" if more else "")),
                *_row("what to do", remedy),
            ]
        counts = (counted(len(rows), word) for rows, word in ((self.errors, "error"), (self.warnings, "warning")))
        return "\n".join([*map(_printable, lines), "", ", ".join(counts)])


class BadDataError(ValueError):
    """The data set has errors; `.report` holds all of them, the message shows them as a table."""

    def __init__(self, report: CheckReport):
        super().__init__(report.table() + "\nRefused. Repair the files, or leave the bad cases out with --skip-bad.")
        self.report = report


def by_severity(problems: Iterable[Problem]) -> list[Problem]:
    """Errors first, then warnings and notes, each in their order."""
    return sorted(problems, key=lambda problem: SEVERITIES.index(problem.severity))


def _printable(text: str) -> str:
    """What would move the cursor, or cannot be written, by its code: names of files are others' words."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _row(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"  {title:<12}{_printable(text)}",
        WIDTH,
        subsequent_indent=" " * 14,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _short(file: Path, source: Path) -> str:
    root = next((root for root in (source, source.resolve()) if file.is_relative_to(root) and file != root), None)
    return str(file) if root is None else file.relative_to(root).as_posix()
