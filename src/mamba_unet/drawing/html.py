"""Parts of HTML pages that need nothing else: no file beside them, no request to anywhere.

One script of a few lines sorts tables, and no other can run; without scripts the pages show all the same.
"""

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.drawing.colors import DARK, LIGHT, Theme
from mamba_unet.drawing.figures import to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


REM_PER_INCH = 7  # of a wide figure: its letters are then a little larger than the page's


def page(title: str, body: str) -> str:
    """A whole page; `title` is escaped here, `body` is HTML."""
    allowed = base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()
    return PAGE.format(title=escape(title), style=STYLE, body=body, script=SORT, hash=allowed)


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def bullets(lines: Sequence[str]) -> str:
    """A list of lines of text; nothing where there are none."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def warning(text: str, heading: str = "") -> str:
    """A line that nobody should miss."""
    strong = f"<strong>{escape(heading)}</strong> " if heading else ""
    return f"<p class='warning' role='note'>{strong}{escape(text)}</p>"


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def image(pixels: np.ndarray, alt: str) -> str:
    """A picture (height, width, 3) uint8."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return f"<img src='{data_uri(stream.getvalue())}' alt='{escape(alt)}'>"


def themed_figure(draw: "Callable[[Theme], Figure]", alt: str, css: str = "") -> str:
    """A figure in both themes; the browser shows the one that fits the page."""
    figures = [(draw(theme), theme) for theme in (LIGHT, DARK)]
    light, dark = (data_uri(to_png(figure, theme)) for figure, theme in figures)
    width = figures[0][0].get_size_inches()[0] * REM_PER_INCH
    return (
        f"<picture><source srcset='{dark}' media='(prefers-color-scheme: dark)'>"
        f"<img class='{css}' style='--width: {width:.0f}rem' src='{light}' alt='{escape(alt)}'></picture>"
    )


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
  script-src 'sha256-{hash}'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
<footer>Written by mamba-unet. Research software: not for diagnosis or treatment.</footer>
</main>
<script>{script}</script>
</body>
</html>
"""

# A click on a title sorts the rows by that column, a second one the other way round; what is no number comes last.
SORT = """
const key = (row, column) => {
  const text = row.cells[column].textContent.trim();
  return text.startsWith("inf") ? Infinity : parseFloat(text);
};
for (const table of document.querySelectorAll(".sortable table")) {
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, column) => {
    const button = document.createElement("button");
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const up = title.getAttribute("aria-sort") !== "ascending";
      titles.forEach(other => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map(row => [key(row, column), row.cells[column].textContent, row]);
      const words = rows.every(([value]) => Number.isNaN(value)) || column === 0;
      rows.sort(([a, s], [b, t]) => {
        if (words) return up ? s.localeCompare(t, "en", {numeric: true}) : t.localeCompare(s, "en", {numeric: true});
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return a === b ? 0 : (a < b) === up ? -1 : 1;
      });
      table.tBodies[0].append(...rows.map(([, , row]) => row));
    });
  });
}
"""

# A table wider than its frame fades at its right edge as long as more lies there: the first layer moves with the
# content and covers the second, which stays, once the end is reached.
STYLE = """
:root { --page: #f4f6f9; --panel: #fff; --text: #1f2430; --quiet: #5b6472; --line: #d9dde5; --accent: #0072b2;
  --warn: #7a3300; --warn-back: #ffe9d6; --stripe: #f7f8fb; --shade: #1f24304d }
@media (prefers-color-scheme: dark) { :root { --page: #0e1015; --panel: #171a21; --text: #e4e7ee; --quiet: #9aa3b2;
  --line: #343a46; --accent: #56b4e9; --warn: #ffd2a8; --warn-back: #43280f; --stripe: #1c2029; --shade: #000000b0 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
main { max-width: 78rem; margin: 0 auto; padding: 1.5rem 1rem 3rem }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere }
h1 span { color: var(--quiet); font-weight: 400 }
h2 { margin: 0 0 .75rem; font-size: 1.25rem }
h3 { margin: 1.25rem 0 .25rem; font-size: 1.05rem }
p { margin: .25rem 0 .75rem; max-width: 65ch }
.facts, small, figcaption, footer, ul { color: var(--quiet) }
.warning { max-width: none; margin: 1rem 0 0; padding: .75rem 1rem; border-left: .4rem solid currentColor;
  border-radius: .4rem; background: var(--warn-back); color: var(--warn); font-size: 1.05rem }
.missing { padding: .75rem 1rem; border: 1px dashed var(--line); border-radius: .4rem; color: var(--quiet);
  overflow-wrap: anywhere }
section { margin-top: 1.25rem; padding: 1.25rem; border: 1px solid var(--line); border-radius: .75rem;
  background: var(--panel) }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin-bottom: 1rem }
.card { padding: .75rem 1rem; border-radius: .5rem; background: var(--stripe) }
.card small, td small { display: block; font-size: .85rem }
.card strong { font-size: 1.7rem; line-height: 1.3; font-variant-numeric: tabular-nums }
.scroll { overflow-x: auto; background:
  linear-gradient(to left, var(--panel) 30%, transparent) right / 3rem 100% no-repeat local,
  linear-gradient(to left, var(--shade), transparent) right / 1.1rem 100% no-repeat scroll, var(--panel) }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .4rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
thead th { color: var(--quiet); font-weight: 500; vertical-align: bottom; white-space: normal }
tbody th, thead th:first-child { position: sticky; left: 0; background: var(--panel); text-align: left }
tbody th { font-weight: 500 }
thead .word { text-align: left }
.word { text-align: left }
th button { all: unset; cursor: pointer; font: inherit; color: inherit; text-align: inherit }
th button:focus-visible { outline: 2px solid var(--accent) }
th button::after { content: " \\2195"; opacity: .45 }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1 }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1 }
a { color: var(--accent) }
figure:target { outline: 3px solid var(--accent); outline-offset: .3rem; border-radius: .3rem }
.summary tr:last-child { font-weight: 600 }
ul { padding-left: 1.2rem; margin: 1rem 0 0; font-size: .9rem }
.class { white-space: nowrap; margin-right: .75rem }
.class i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: .2em }
.charts { display: grid; align-items: center; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)) }
.charts img { width: 100%; max-width: 34rem; display: block }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); gap: 1.25rem }
.wide { display: block; width: min(100%, var(--width)); min-width: min(44rem, var(--width)); border-radius: .4rem }
@media (max-width: 47rem) { .scroll:has(picture) { mask-image: linear-gradient(to left, transparent, #000 1.5rem) }
  .scroll picture img { box-sizing: content-box; padding-right: 1.5rem } }
u { text-underline-offset: .2em }
figure { margin: 0 }
.triptych { display: grid; grid-template-columns: repeat(var(--columns, 3), 1fr); gap: .25rem }
.triptych img { width: 100%; display: block; border-radius: .3rem }
.triptych small { font-size: .8rem }
figcaption { font-size: .9rem; overflow-wrap: anywhere }
details { border-top: 1px solid var(--line); padding: .5rem 0 }
summary { cursor: pointer; font-weight: 500 }
pre { overflow-x: auto; padding: .75rem; border-radius: .4rem; background: var(--stripe); font-size: .85rem }
details p, code { overflow-wrap: anywhere }
footer { margin-top: 1.5rem; font-size: .85rem }
@media print {
  :root { --page: #fff; --panel: #fff; --text: #000; --quiet: #444; --line: #bbb; --accent: #0072b2; --stripe: #fff;
    --shade: transparent; color-scheme: light }
  main { max-width: none; padding: 0 } section { border: 0; padding: .5rem 0 } table { font-size: 7.5pt }
  .scroll { overflow: visible; background: none } .wide { min-width: 0 } th button::after { content: none }
  th, td { padding: .15rem .3rem } thead { display: table-header-group } tbody th, thead th { position: static }
  section > h2, h3 { break-after: avoid } figure, .charts img, tr, .card { break-inside: avoid }
  details:not([open]) { display: none }
}
"""
