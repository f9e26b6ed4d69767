"""One table of text, rendered for a terminal, Markdown, LaTeX or HTML. (CSV holds unrounded values: `files.to_csv`.)"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Mark = Literal["", "best", "second"]

LATEX = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "_%&#${}"},
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "−": "$-$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "^": r"\^{}",
    "~": r"\textasciitilde{}",
}


class Html(str):
    """A cell that is HTML already; every other cell is escaped where HTML is written."""


@dataclass(frozen=True)
class Table:
    """Cells of text, of which some are marked as best or second of their column.

    Attributes:
        titles: of the columns; the first column names the rows.
        rows: cells, as many as titles each.
        marks: as `rows`, without the first column; empty where nothing is marked.
        left: numbers of the columns that hold words and are aligned to the left; the others hold numbers.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: Sequence[Sequence[Mark]] = ()
    left: Sequence[int] = (0,)

    def text(self, rule: bool = False) -> str:
        """Aligned columns for a terminal, without marks; `rule` underlines the titles."""
        head, *body = self._aligned([self.titles, *self.rows])
        lines = [head, *([["-" * len(cell) for cell in head]] if rule else []), *body]
        return "".join("  ".join(line).rstrip() + "\n" for line in lines)

    def markdown(self) -> str:
        """Aligned, so that it can be read as text too; best in bold, second underlined (`<ins>`)."""
        titles, *rows = [[cell.replace("|", r"\|") for cell in row] for row in (self.titles, *self.rows)]
        head, *body = self._aligned([titles, *self._marked(rows, "**{}**", "<ins>{}</ins>")])
        rule = ["-" * (len(cell) + 2) if i in self.left else "-" * (len(cell) + 1) + ":" for i, cell in enumerate(head)]
        lines = ["| " + " | ".join(line) + " |\n" for line in (head, *body)]
        return "".join([lines[0], f"|{'|'.join(rule)}|\n", *lines[1:]])

    def latex(self) -> str:
        """A tabular of plain LaTeX, without packages; best in bold, second underlined."""
        titles, *rows = [[_latex(cell) for cell in row] for row in (self.titles, *self.rows)]
        cells = self._marked(rows, r"\textbf{{{}}}", r"\underline{{{}}}")
        head, *body = [" & ".join(row) + " \\\\\n" for row in (titles, *cells)]
        columns = "".join("l" if i in self.left else "r" for i in range(len(titles)))
        rule = "\\hline\n"
        return "".join([f"\\begin{{tabular}}{{{columns}}}\n", rule, head, rule, *body, rule, "\\end{tabular}\n"])

    def html(self, css: str = "") -> str:
        """A table that scrolls sideways on its own; `css` is the class of its frame. See `drawing.html` for the style.

        The deviation of "0.93 ± 0.04" stands on a line of its own, which keeps a wide table narrow.
        """
        words = ["" if i not in self.left else " class=word" for i in range(len(self.titles))]
        head = "".join(
            f"<th scope='col'{word}>{_html(title)}</th>" for title, word in zip(self.titles, words, strict=True)
        )
        rows = [[_stacked(cell) for cell in row] for row in self.rows]
        body = ""
        for first, *others in self._marked(rows, "<strong>{}</strong>", "<u>{}</u>"):
            cells = "".join(f"<td{word}>{cell}</td>" for cell, word in zip(others, words[1:], strict=True))
            body += f"<tr><th scope='row'>{first}</th>{cells}</tr>"
        frame = f"<div class='scroll{' ' + css if css else ''}' tabindex='0'>"  # a keyboard can scroll it
        return f"{frame}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"

    def _marked(self, rows: Sequence[Sequence[str]], best: str, second: str) -> list[list[str]]:
        """The rows with the marks as `str.format` patterns."""
        pattern = {"": "{}", "best": best, "second": second}
        marked = [list(row) for row in rows]
        for row, row_marks in zip(marked, self.marks, strict=False):
            row[1:] = [pattern[mark].format(cell) for cell, mark in zip(row[1:], row_marks, strict=True)]
        return marked

    def _aligned(self, rows: Sequence[Sequence[str]]) -> list[list[str]]:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sides = [str.ljust if i in self.left else str.rjust for i in range(len(widths))]
        return [[side(cell, w) for side, cell, w in zip(sides, row, widths, strict=True)] for row in rows]


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    """A number as text, "inf", or "-" for None and NaN."""
    if value is None or value != value:
        return "-"
    return f"{value:{'+' if signed else ''}.{decimals}f}"


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def _html(cell: str) -> str:
    return cell if isinstance(cell, Html) else escape(cell)


def _stacked(cell: str) -> str:
    mean, sign, rest = _html(cell).partition(" ± ")
    return f"{mean}<small>± {rest}</small>" if sign else mean
