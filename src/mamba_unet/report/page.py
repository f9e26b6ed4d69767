"""One run as one HTML page that needs nothing else: no file beside it, no request to anywhere."""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.drawing.figures import (
    chart,
    draw_histogram,
    draw_learning_rate,
    draw_loss,
    draw_validation,
    to_png,
)
from mamba_unet.drawing.html import bullets, page, section, themed_figure, warning
from mamba_unet.evaluation.metrics import DISTANCE_METRICS, METRIC_TITLES
from mamba_unet.evaluation.summary import format_interval
from mamba_unet.files import atomic_path, write_text
from mamba_unet.report.cases import class_name, every_case, extremes, missing, pseudo_labels, segmentations
from mamba_unet.report.run import Run, read_run
from mamba_unet.runs import RunFolder
from mamba_unet.tables import Html, Table, number
from mamba_unet.words import duration

OTHER = (
    "This evaluation is of other weights, or on other data, than those of this run: `mamba-unet evaluate` "
    "measures its best checkpoint."
)
SYNTHETIC = (
    "This network was trained and measured on synthetic images, not on patients. The numbers show that the software "
    "works; they say nothing about medical images."
)


def write_report(
    run_dir: str | Path, evaluation_dir: str | Path | None = None, out: str | Path | None = None, *, seed: int = 0
) -> Path:
    """Write the report of a run. Where the run has no evaluation or no data yet, the page says so.

    Args:
        run_dir: folder that `mamba-unet train` wrote.
        evaluation_dir: folder that `mamba-unet evaluate` wrote; None takes `evaluation_test` in the run, else the
            first `evaluation_*` there.
        out: None takes `report.html` in the run. Figures 4 and 6 are also written as PNG files to `figures/` beside it.
        seed: of the choice of the cases in Figure 4, which depends on their names alone.

    Returns:
        The page.

    Raises:
        ValueError: `run_dir` is no run folder, or `evaluation_dir` no evaluation.
    """
    run = read_run(run_dir, evaluation_dir)
    out = Path(out) if out is not None else RunFolder(run.folder).report
    sections, linked = [_header(run)], set[str]()
    if run.evaluation is None:
        sections.append(section("Result", missing("Nothing has been evaluated yet: run `mamba-unet evaluate`.")))
    else:
        figures = out.parent / "figures"
        shown, figure = segmentations(run, seed)
        if figure is not None:
            _write_figure(figures / "segmentations.png", figure)
        best_and_worst, linked = extremes(run)
        sections += [_result(run), shown, _image_dice(run, figures), best_and_worst]
    sections += [_training(run), pseudo_labels(run)]
    if run.evaluation is not None:
        sections.append(every_case(run, linked))
    sections.append(_making(run))
    write_text(out, page(f"{run.model} on {run.dataset}", "\n".join(sections)))
    return out


def _header(run: Run) -> str:
    facts = []
    if run.progress:
        done, planned, hours = (run.progress[key] for key in ("iteration", "iterations", "hours"))
        of = "" if run.progress.get("out_of_time") else f" of {planned:,}"
        facts.append(f"{done:,}{of} iterations in {duration(3600 * hours)}")
    start = run.recipe.get("pretrained")
    facts.append(f"started from {Path(start).name}" if start else "started from random weights")
    if "train" in run.split:
        facts.append(_learned_from(run))
    if (objective := run.recipe.get("objective", "supervised")) != "supervised":
        facts.append(f"objective {objective}")
    for name, dice in run.progress.get("best_validation_dice_of_others", {}).items():
        facts.append(f"trained beside {name}, whose best validation Dice is {number(dice, 4)}")
    validation = run.checkpoint.validation if run.checkpoint else None
    if validation:
        facts.append(
            f"checkpoint of iteration {validation['iteration']:,}, chosen by its Dice on the validation patients "
            f"({validation['mean_foreground_dice']:.4f})"
        )
    title = f"<h1>{escape(run.model)} <span>on {escape(run.dataset)}</span></h1>"
    text = f"{title}<p class='facts'>{escape('; '.join(facts))}.</p>"
    text += "" if run.is_current else warning(OTHER, "Not this checkpoint.")
    return f"<header>{text}{warning(SYNTHETIC, 'Synthetic data.') if run.synthetic else ''}</header>"


def _learned_from(run: Run) -> str:
    """Whose labels or scribbles, and whose images without."""
    if not run.annotation:
        return f"trained on {_patients(run, run.split['train'])}"
    labelled, unlabelled = (run.annotation[f"{kind}_cases"] for kind in ("labelled", "unlabelled"))
    text = f"trained on {_patients(run, labelled)}"
    if run.annotation["annotation"] == "scribble":
        text += f", by scribbles on {100 * run.annotation['marked']:.2g} % of their pixels"
    count = len(run.annotation["unlabelled_patients"])
    return text + (f", and on images of {_count(count, 'patient')} without labels" if unlabelled else "")


def _result(run: Run) -> str:
    summary = run.evaluation.summary()
    foreground = summary["foreground"]
    dice = foreground["dice"]
    cards = [("Mean foreground Dice", number(dice["mean"], 4), f"95 % interval {format_interval(dice)}")]
    for metric in DISTANCE_METRICS:
        if metric in foreground:
            value = foreground[metric]
            infinite = f", {value['infinite']} infinite" if value["infinite"] else ""
            cards.append(
                (f"Mean {METRIC_TITLES[metric]}", number(value["mean"], 2), f"{summary['distance_unit']}{infinite}")
            )
    cards.append(("Measured on", str(summary["cases"]), f"cases of {_count(summary['patients'], 'patient')}"))
    tiles = "".join(
        f"<div class='card'><small>{escape(name)}</small><strong>{escape(value)}</strong>"
        f"<small>{escape(note)}</small></div>"
        for name, value, note in cards
    )
    (table,) = run.evaluation.tables()
    rows = [[class_name(run, name), *cells] for name, *cells in table.rows]
    table = Table(table.titles, rows).html("summary")
    return section(
        f"Result: {run.split_title}", f"<div class='cards'>{tiles}</div>{table}{bullets(run.evaluation.notes())}"
    )


def _training(run: Run) -> str:
    if not run.curves:
        return section("Training", missing("No logs of the training are in the run folder."))
    charts = (
        (draw_loss, "Training loss over the iterations"),
        (partial(draw_validation, class_names=run.class_names), "Validation Dice over the iterations"),
        (draw_learning_rate, "Learning rate over the iterations"),
    )
    pictures = "".join(themed_figure(partial(chart, draw, run.curves), alt) for draw, alt in charts)
    return section("Training", f"<div class='charts'>{pictures}</div>")


def _image_dice(run: Run, figures: Path) -> str:
    values = run.evaluation.image_dice()
    if not values.size:
        return section("Image by image", missing("No image holds any structure."))
    draw = partial(chart, draw_histogram, {run.model: values})
    _write_figure(figures / "image_dice.png", draw())
    low, median, high = np.percentile(values, [25, 50, 75])
    text = (
        f"<p>{len(values)} images (slices) in which the label or the prediction has a structure. Their median Dice is "
        f"{median:.3f}; the middle half lies between {low:.3f} and {high:.3f}, and "
        f"{np.count_nonzero(values < 0.5)} are below 0.5.</p>"
    )
    picture = themed_figure(draw, "Histogram of the Dice of each image")
    return section("Image by image", f"<div class='charts'>{picture}<div>{text}</div></div>")


def _making(run: Run) -> str:
    parts = [f"<details><summary>Recipe</summary><pre>{escape(run.recipe_text)}</pre></details>"]
    for name, cases in run.split.items():
        listed = ", ".join(run.patients(cases) or cases)
        parts.append(
            f"<details><summary>Split {escape(name)}: {escape(_patients(run, cases))}</summary>"
            f"<p>{escape(listed)}</p></details>"
        )
    if run.annotation and run.annotation["unlabelled_cases"]:
        patients = run.annotation["labelled_patients"]
        parts.append(
            f"<details><summary>With labels: {_count(len(patients), 'patient')} of the split train</summary>"
            f"<p>{escape(', '.join(patients))}</p></details>"
        )
    versions = [[name, _plain(value)] for name, value in run.versions.items()]
    if run.checkpoint:
        versions.append(["data fingerprint", Html(f"<code>{escape(run.checkpoint.fingerprint)}</code>")])
    if versions:
        table = Table(["", ""], versions).html()
        parts.append(f"<details><summary>Versions and machine</summary>{table}</details>")
    return section("How it was made", "".join(parts))


def _write_figure(path: Path, figure) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_png(figure))


def _patients(run: Run, cases: Sequence[str]) -> str:
    names = run.patients(cases)
    return f"{_count(len(names), 'patient')} ({_count(len(cases), 'case')})" if names else _count(len(cases), "case")


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
