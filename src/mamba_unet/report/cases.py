"""The parts of a run's page that show single cases: examples, the best and the worst, the table of all."""

from collections.abc import Collection, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.drawing.colors import class_color
from mamba_unet.drawing.examples import Example, largest_slice, most_wrong_slice, pick_cases
from mamba_unet.drawing.figures import segmentation_figure
from mamba_unet.drawing.html import image, section
from mamba_unet.evaluation.metrics import metric_title
from mamba_unet.report.run import Run
from mamba_unet.tables import Html, Table, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 4
EXTREMES = 4  # best and as many worst cases shown


def segmentations(run: Run, seed: int) -> "tuple[str, Figure | None]":
    """The section of cases drawn at random, and the same as the paper's Figure 4; no figure without pictures."""
    shown = run.with_pictures()
    if isinstance(shown, str):
        return section("Segmentations", missing(shown)), None
    examples = [_example(run, name) for name in pick_cases(shown, EXAMPLES, seed)]
    how = (
        f"{len(examples)} of {len(shown)} case{'s' if len(shown) > 1 else ''}, drawn at random (seed {seed}). Of each "
        "the slice with the largest labelled area, cut to the surroundings of what is labelled."
    )
    content = f"<p>{how}</p>{_legend(run)}{_pictures(run, examples)}"
    return section("Segmentations", content), segmentation_figure(examples, run.class_names)


def pseudo_labels(run: Run) -> str:
    """The section of what was taken for labels at moments of the training; nothing for a training that did not."""
    files = sorted((run.folder / "pseudo_labels").glob("moment_*.npz"))
    if not files:
        return ""
    if run.prepared is None:
        return section("Pseudo labels", missing(f"No pictures: the images are not at hand ({run.why_no_data})."))
    moments = [dict(np.load(file)) for file in files]
    known, figures = set(run.prepared.identifiers), []
    for place, identifier in enumerate(moments[0]["cases"].tolist()):
        if identifier not in known:
            continue
        case, position = run.prepared.case(identifier), int(moments[0]["slices"][place])
        answers = {
            f"{key.partition('/')[2]}, iteration {moment['iteration']}": label[None]
            for moment in moments
            for key, label in moment.items()
            if key.startswith(f"{place}/")
        }
        names = sorted(answers, key=lambda name: name.partition(",")[0])  # a network's moments are a row
        example = Example.of_slice(case, position, {name: answers[name] for name in names})
        cells = [
            f"<span>{image(pixels, f'{example.name}: {name}')}<small>{escape(name)}</small></span>"
            for name, pixels in zip(("image", *example.labels), example.pictures(), strict=True)
        ]
        head, width = len(cells) - len(names), len(moments)  # image, and truth where there is one
        rows = [cells[:head], *(cells[start : start + width] for start in range(head, len(cells), width))]
        columns = max(head, width)
        filled = "".join("".join(row) + "<span></span>" * (columns - len(row)) for row in rows)
        figures.append(
            f"<figure><div class='triptych' style='--columns: {columns}'>{filled}</div>"
            f"<figcaption>{escape(example.name)}</figcaption></figure>"
        )
    text = (
        "What the training took for labels, on training images whose own labels it did not see or that have scribbles "
        "alone. The ground truth is shown where the data has it, to compare."
    )
    return section("Pseudo labels", f"<p>{text}</p>{_legend(run)}<div class='examples'>{''.join(figures)}</div>")


def extremes(run: Run) -> tuple[str, set[str]]:
    """The best and the worst cases, and which of them are pictured; nothing where there are too few to tell."""
    dice = {case: value for case, value in run.evaluation.per_case().items() if np.isfinite(value)}
    order = sorted(dice, key=lambda case: (-dice[case], case))
    count = min(EXTREMES, len(order) // 2)
    if not count:
        return "", set()
    linked: set[str] = set()
    shown = run.with_pictures()
    parts = []
    for title, cases, most_wrong, which in (
        ("Best", order[:count], False, "the slice with the largest labelled area"),
        ("Worst", order[: -count - 1 : -1], True, "the slice with the most wrongly labelled pixels"),
    ):
        if isinstance(shown, str):
            content = "<ul>" + "".join(f"<li>{escape(case)}: Dice {dice[case]:.3f}</li>" for case in cases) + "</ul>"
        else:
            pictured = [_example(run, case, most_wrong) for case in cases if case in shown]
            linked.update(case for case in cases if case in shown)
            content = f"<p>Of each case {which}.</p>{_pictures(run, pictured, linked=True)}"
        parts.append(f"<h3>{title}</h3>{content}")
    legend = "" if isinstance(shown, str) else _legend(run)
    return section("Best and worst cases", legend + "".join(parts)), linked


def every_case(run: Run, linked: Collection[str]) -> str:
    """Dice and HD95 of each class in each case; `linked` cases are links to their pictures among the extremes."""
    evaluation, names = run.evaluation, run.class_names[1:]
    metrics = [metric for metric in ("dice", "hd95") if metric in evaluation.metrics]
    mixed = evaluation.distance_unit == "mixed"
    rows_of: dict[str, list[dict[str, Any]]] = {case: [] for case in evaluation.cases}
    for row in evaluation.rows:
        rows_of[row["case"]].append(row)
    titles = ["Case", "Mean Dice"]
    for metric in metrics:
        title = metric_title(metric, None if mixed else evaluation.distance_unit)
        titles += [f"{title} {name}" for name in names]
    rows = []
    for case, mean in evaluation.per_case().items():
        name = Html(f"<a href='#{_anchor(case)}'>{escape(case)}</a>") if case in linked else case
        cells = [name, number(mean, 3)]
        for metric in metrics:
            for row in rows_of[case]:
                unit = f" {row['distance_unit']}" if metric == "hd95" and mixed else ""
                cells.append(number(row[metric], 3 if metric == "dice" else 2) + unit)
        rows.append(cells)
    text = (
        "<p>A click on a title sorts; a case that is a link has a picture above. All eight metrics of each case are in "
        "<code>metrics_per_case.csv</code> beside this evaluation.</p>"
    )
    return section("Every case", text + Table(titles, rows).html("sortable"))


def class_name(run: Run, name: str) -> str:
    """A class's name after a patch of its colour; any other name as it is."""
    if name not in run.class_names:
        return name
    color = class_color(run.class_names.index(name))
    return Html(f"<span class='class'><i style='background:{color}'></i>{escape(name)}</span>")


def missing(text: str) -> str:
    return f"<p class='missing'>{escape(text)}</p>"


def _example(run: Run, identifier: str, most_wrong: bool = False) -> Example:
    case, prediction = run.prepared.case(identifier), run.prediction(identifier)
    position = most_wrong_slice(case.label, prediction) if most_wrong else largest_slice(case.label)
    return Example.of_case(case, position, {"prediction": prediction})


def _anchor(case: str) -> str:
    """The id of a case's picture: its name could hold what an id cannot."""
    return "case-" + "".join(c if c.isascii() and c.isalnum() else f"-{ord(c):x}-" for c in case)


def _pictures(run: Run, examples: Sequence[Example], linked: bool = False) -> str:
    """The examples side by side; of each case one picture at most may be `linked` from the table."""
    dice = run.evaluation.per_case()
    figures = []
    for example in examples:
        columns = "".join(
            f"<span>{image(pixels, f'{example.name}: {name}')}<small>{escape(name)}</small></span>"
            for name, pixels in zip(("image", *example.labels), example.pictures(), strict=True)
        )
        case = example.name.rpartition(", ")[0]
        mean, anchor = number(dice[case], 3), f" id='{_anchor(case)}'" if linked else ""
        figures.append(
            f"<figure{anchor}><div class='triptych'>{columns}</div>"
            f"<figcaption>{escape(example.name)}; Dice of the case {mean}</figcaption></figure>"
        )
    return f"<div class='examples'>{''.join(figures)}</div>"


def _legend(run: Run) -> str:
    return "<p class='legend'>" + " ".join(class_name(run, name) for name in run.class_names[1:]) + "</p>"
