"""One run as one HTML page that needs nothing else: no script, no file beside it, no request to anywhere."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.drawing.colors import DARK, LIGHT, class_color
from mamba_unet.drawing.figures import (
    Curves,
    chart,
    draw_histogram,
    draw_learning_rate,
    draw_loss,
    draw_validation,
    read_curves,
    segmentation_figure,
    to_png,
)
from mamba_unet.drawing.overlay import Example
from mamba_unet.evaluation.cases import (
    METRIC_TITLES,
    Evaluation,
    format_interval,
    format_statistic,
    notes,
    summary_rows,
)
from mamba_unet.evaluation.metrics import DISTANCE_METRICS
from mamba_unet.files import atomic_path, write_text
from mamba_unet.runs import RunFolder

if TYPE_CHECKING:
    from mamba_unet.data.prepared import PreparedDataset
    from mamba_unet.models.checkpoint import CheckpointMetadata

EXAMPLES = 4
EXTREMES = 4  # best and as many worst cases shown


@dataclass(frozen=True)
class Run:
    """What a run folder holds; what is absent is None or empty.

    Attributes:
        folder: that `train` wrote.
        recipe: recipe.yaml as text and as a mapping.
        split: split -> identifiers of its cases.
        versions, progress: as `train` wrote them.
        curves: of the logs.
        checkpoint: the metadata of best.safetensors.
        evaluation: the one reported, and where it lies.
        prepared: the data, or None and why not.
    """

    folder: Path
    recipe_text: str
    recipe: Mapping[str, Any]
    split: Mapping[str, Sequence[str]]
    versions: Mapping[str, Any]
    progress: Mapping[str, Any]
    curves: Curves
    checkpoint: "CheckpointMetadata | None"
    evaluation: Evaluation | None
    evaluation_dir: Path | None
    prepared: "PreparedDataset | None"
    why_no_data: str

    @property
    def class_names(self) -> Sequence[str]:
        for source in (self.evaluation, self.checkpoint):
            if source is not None:
                return source.class_names
        return ()

    @property
    def dataset(self) -> str:
        for name in (self.prepared and self.prepared.name, self.checkpoint and self.checkpoint.dataset):
            if name:
                return name
        return Path(self.recipe.get("data") or "unknown data").name

    @property
    def synthetic(self) -> bool:
        """Whether the data calls itself synthetic; without the data, whether it is named as our phantom is."""
        if self.prepared is not None:
            return "synthetic" in f"{self.prepared.name} {self.prepared.description}".lower()
        return "phantom" in self.dataset.lower() or "synthetic" in self.dataset.lower()


def write_report(
    run_dir: str | Path, evaluation_dir: str | Path | None = None, out: str | Path | None = None, *, seed: int = 0
) -> Path:
    """Write the report of a run.

    What a run has not got yet (an evaluation, its data) is missed in words, never silently.

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
    sections = [_header(run)]
    if run.evaluation is None:
        sections.append(section("Result", _missing("Nothing has been evaluated yet: run `mamba-unet evaluate`.")))
    else:
        figures = out.parent / "figures"
        sections += [_result(run), _segmentations(run, seed, figures), _image_dice(run, figures), _extremes(run)]
    sections.append(_training(run))
    if run.evaluation is not None:
        sections.append(_every_case(run))
    sections.append(_making(run))
    title = f"{run.recipe['model']['name']} on {run.dataset}"
    write_text(out, PAGE.format(title=escape(title), style=STYLE, body="\n".join(sections)))
    return out


def read_run(run_dir: str | Path, evaluation_dir: str | Path | None = None) -> Run:
    """Gather what a run folder holds.

    Raises:
        ValueError: `run_dir` is no run folder, or `evaluation_dir` no evaluation.
    """
    import yaml

    folder = RunFolder(run_dir)
    recipe_text = folder.read_recipe()
    recipe = yaml.safe_load(recipe_text)

    if evaluation_dir is None:
        evaluation_dir = next(iter(folder.evaluations.values()), None)
    elif not (Path(evaluation_dir) / "summary.json").is_file():
        raise ValueError(f"{evaluation_dir}: expected what `mamba-unet evaluate` writes, but summary.json is not there")

    checkpoint = None
    if folder.best.is_file():
        from mamba_unet.models.checkpoint import read_metadata

        checkpoint = read_metadata(folder.best)
    prepared, why_no_data = None, ""
    try:
        from mamba_unet.data.prepared import PreparedDataset

        prepared = PreparedDataset(recipe["data"])
    except ValueError as error:
        why_no_data = str(error)

    return Run(
        folder=folder.path,
        recipe_text=recipe_text,
        recipe=recipe,
        split=folder.read_split(),
        versions=folder.read_versions(),
        progress=folder.read_progress(),
        curves=read_curves(folder.metrics),
        checkpoint=checkpoint,
        evaluation=None if evaluation_dir is None else Evaluation.read(evaluation_dir),
        evaluation_dir=None if evaluation_dir is None else Path(evaluation_dir),
        prepared=prepared,
        why_no_data=why_no_data,
    )


def pick_cases(identifiers: Sequence[str], count: int, seed: int) -> list[str]:
    """Cases for a figure, drawn by a rule: it depends on their names and the seed, not on how well they came out."""
    names = sorted(identifiers)
    drawn = np.random.default_rng(seed).choice(len(names), size=min(count, len(names)), replace=False)
    return [names[i] for i in sorted(drawn)]


def _header(run: Run) -> str:
    model, dataset = run.recipe["model"]["name"], run.dataset
    facts = []
    if run.progress:
        done, planned, hours = (run.progress[key] for key in ("iteration", "iterations", "hours"))
        duration = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
        facts.append(f"{done:,} of {planned:,} iterations in {duration}")
    start = run.recipe.get("pretrained")
    facts.append(f"started from {Path(start).name}" if start else "started from random weights")
    if "train" in run.split:
        facts.append(f"trained on {_patients(run, run.split['train'])}")
    validation = run.checkpoint.validation if run.checkpoint else None
    if validation:
        facts.append(
            f"checkpoint of iteration {validation['iteration']:,}, chosen by its Dice on the validation patients "
            f"({validation['mean_foreground_dice']:.4f})"
        )
    text = f"<h1>{escape(model)} <span>on {escape(dataset)}</span></h1><p class='facts'>{escape('; '.join(facts))}.</p>"
    if run.synthetic:
        text += (
            "<p class='warning' role='note'><strong>Synthetic data.</strong> This network was trained and measured on "
            "synthetic images, not on patients. The numbers show that the software works; "
            "they say nothing about medical images.</p>"
        )
    return f"<header>{text}</header>"


def _result(run: Run) -> str:
    summary = run.evaluation.summary()
    unit = summary["distance_unit"]
    foreground = summary["foreground"]
    dice = foreground["dice"]
    cards = [("Mean foreground Dice", _number(dice["mean"], 4), f"95 % interval {format_interval(dice)}")]
    for metric in DISTANCE_METRICS:
        if metric in foreground:
            value = foreground[metric]
            infinite = f", {value['infinite']} infinite" if value["infinite"] else ""
            cards.append((f"Mean {METRIC_TITLES[metric]}", _number(value["mean"], 2), f"{unit}{infinite}"))
    cards.append(("Measured on", str(summary["cases"]), f"cases of {_count(summary['patients'], 'patient')}"))
    tiles = "".join(
        f"<div class='card'><small>{escape(name)}</small><strong>{escape(value)}</strong>"
        f"<small>{escape(note)}</small></div>"
        for name, value, note in cards
    )
    metrics = run.evaluation.metrics
    titles = [f"{METRIC_TITLES[m]} ({unit})" if m in DISTANCE_METRICS else METRIC_TITLES[m] for m in metrics]
    titles.insert(1, "Dice 95 % interval")
    rows = []
    for name, statistics in summary_rows(summary):
        cells = [_stacked(format_statistic(metric, statistics[metric])) for metric in metrics]
        cells.insert(1, format_interval(statistics["dice"]))
        rows.append([_class_name(run, name), *cells])
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes(summary))
    content = (
        f"<div class='cards'>{tiles}</div><div class='summary'>{html_table(['', *titles], rows)}</div><ul>{lines}</ul>"
    )
    return section(f"Result: {_split_name(run)}", content)


def _training(run: Run) -> str:
    if not run.curves:
        return section("Training", _missing("No logs of the training are in the run folder."))
    charts = (
        (draw_loss, "Training loss over the iterations"),
        (partial(draw_validation, class_names=run.class_names), "Validation Dice over the iterations"),
        (draw_learning_rate, "Learning rate over the iterations"),
    )
    pictures = "".join(_chart(draw, run.curves, alt) for draw, alt in charts)
    return section("Training", f"<div class='charts'>{pictures}</div>")


def _segmentations(run: Run, seed: int, figures: Path) -> str:
    shown = _with_pictures(run)
    if isinstance(shown, str):
        return section("Segmentations", _missing(shown))
    examples = [_example(run, name, most_wrong=False) for name in pick_cases(shown, EXAMPLES, seed)]
    _write_figure(figures / "segmentations.png", segmentation_figure(examples, run.class_names))
    how = (
        f"{len(examples)} of {_count(len(shown), 'case')}, drawn by lot (seed {seed}); the slice with the largest "
        "labelled area, cut to the surroundings of what is labelled."
    )
    return section("Segmentations", f"<p>{how}</p>{_legend(run)}{_examples(run, examples)}")


def _image_dice(run: Run, figures: Path) -> str:
    values = run.evaluation.image_dice()
    if not values.size:
        return section("Image by image", _missing("No image holds any structure."))
    data = {run.recipe["model"]["name"]: values}
    _write_figure(figures / "image_dice.png", chart(draw_histogram, data))
    low, median, high = np.percentile(values, [25, 50, 75])
    text = (
        f"<p>{len(values)} images (slices) that hold a structure or were given one. Their median Dice is "
        f"{median:.3f}; the middle half lies between {low:.3f} and {high:.3f}, and "
        f"{np.count_nonzero(values < 0.5)} are below 0.5.</p>"
    )
    picture = _chart(draw_histogram, data, "Histogram of the Dice of each image")
    return section("Image by image", f"<div class='charts'>{picture}<div>{text}</div></div>")


def _extremes(run: Run) -> str:
    dice = {case: value for case, value in run.evaluation.per_case().items() if np.isfinite(value)}
    order = sorted(dice, key=lambda case: (-dice[case], case))
    count = min(EXTREMES, len(order) // 2)
    if not count:
        return ""
    shown = _with_pictures(run)
    parts = []
    for title, cases, most_wrong, which in (
        ("Best", order[:count], False, "the slice with the largest labelled area"),
        ("Worst", order[: -count - 1 : -1], True, "the slice with the most wrongly labelled pixels"),
    ):
        if isinstance(shown, str):
            content = "<ul>" + "".join(f"<li>{escape(case)}: Dice {dice[case]:.3f}</li>" for case in cases) + "</ul>"
        else:
            pictured = [_example(run, case, most_wrong=most_wrong) for case in cases if case in shown]
            content = f"<p>Of each case {which}.</p>{_examples(run, pictured)}"
        parts.append(f"<h3>{title}</h3>{content}")
    legend = "" if isinstance(shown, str) else _legend(run)
    return section("Best and worst cases", legend + "".join(parts))


def _every_case(run: Run) -> str:
    evaluation, names = run.evaluation, run.class_names[1:]
    metrics = [metric for metric in ("dice", "hd95") if metric in evaluation.metrics]
    by_case: dict[str, list[dict[str, Any]]] = {case: [] for case in evaluation.cases}
    for row in evaluation.rows:
        by_case[row["case"]].append(row)
    titles = ["Case", "Mean Dice"]
    for metric in metrics:
        unit = f" ({evaluation.distance_unit})" if metric == "hd95" and evaluation.distance_unit != "mixed" else ""
        titles += [f"{METRIC_TITLES[metric]}{unit} {name}" for name in names]
    rows = []
    for case, mean in evaluation.per_case().items():
        cells = [escape(case), _number(mean, 3)]
        for metric in metrics:
            for row in by_case[case]:
                unit = f" {row['distance_unit']}" if metric == "hd95" and evaluation.distance_unit == "mixed" else ""
                cells.append(_number(row[metric], 3 if metric == "dice" else 2) + unit)
        rows.append(cells)
    text = "<p>All eight metrics of each case are in <code>metrics_per_case.csv</code> beside this evaluation.</p>"
    return section("Every case", text + html_table(titles, rows))


def _making(run: Run) -> str:
    parts = [f"<details><summary>Recipe</summary><pre>{escape(run.recipe_text)}</pre></details>"]
    for name, cases in run.split.items():
        listed = ", ".join(_patient_names(run, cases) or cases)
        parts.append(
            f"<details><summary>Split {escape(name)}: {escape(_patients(run, cases))}</summary>"
            f"<p>{escape(listed)}</p></details>"
        )
    versions = [[escape(name), escape(_plain(value))] for name, value in run.versions.items()]
    if run.checkpoint:
        versions.append(["data fingerprint", f"<code>{escape(run.checkpoint.fingerprint)}</code>"])
    if versions:
        parts.append(f"<details><summary>Versions and machine</summary>{html_table(['', ''], versions)}</details>")
    return section("How it was made", "".join(parts))


def _with_pictures(run: Run) -> list[str] | str:
    """Evaluated cases whose image, label and prediction are all at hand; in words why there are none."""
    if run.prepared is None:
        return f"No pictures: the images are not at hand ({run.why_no_data})."
    if not (run.evaluation_dir / "predictions").is_dir():
        return "No pictures: the evaluation kept no predictions; run `mamba-unet evaluate` again."
    known = set(run.prepared.identifiers)
    cases = [
        case
        for case in run.evaluation.cases
        if case in known
        and _prediction_path(run, case).is_file()
        and _prediction(run, case).shape == run.prepared.shape(case)
    ]
    return cases or f"No pictures: the evaluated cases are not those in {run.prepared.folder}."


def _prediction_path(run: Run, case: str) -> Path:
    return run.evaluation_dir / "predictions" / f"{case}.npz"


def _prediction(run: Run, case: str) -> np.ndarray:
    with np.load(_prediction_path(run, case)) as file:
        return file["label"]


def _example(run: Run, identifier: str, *, most_wrong: bool) -> Example:
    """The slice with the largest labelled area, or the one with the most wrongly labelled pixels."""
    case, prediction = run.prepared.case(identifier), _prediction(run, identifier)
    counted = prediction != case.label if most_wrong else case.label > 0
    number = int(counted.sum(axis=(1, 2)).argmax())
    return Example(
        f"{identifier}, slice {number}",
        case.image[number],
        {"truth": case.label[number], "prediction": prediction[number]},
        case.spacing_mm[1:] if case.spacing_mm else (1, 1),
    ).cropped()


def _examples(run: Run, examples: Sequence[Example]) -> str:
    dice = run.evaluation.per_case()
    figures = []
    for example in examples:
        columns = "".join(
            f"<span><img src='{data_uri(_encode(picture))}' alt='{escape(example.name)}: {escape(name)}'>"
            f"<small>{escape(name)}</small></span>"
            for name, picture in zip(("image", *example.labels), example.pictures(), strict=True)
        )
        mean = _number(dice[example.name.rpartition(", ")[0]], 3)
        figures.append(
            f"<figure><div class='triptych'>{columns}</div>"
            f"<figcaption>{escape(example.name)}; Dice of the case {mean}</figcaption></figure>"
        )
    return f"<div class='examples'>{''.join(figures)}</div>"


def _encode(picture: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _chart(draw, data: Any, alt: str) -> str:
    """A chart in both themes; the browser shows the one that fits."""
    light, dark = (data_uri(to_png(chart(draw, data, theme), theme)) for theme in (LIGHT, DARK))
    return (
        f"<picture><source srcset='{dark}' media='(prefers-color-scheme: dark)'>"
        f"<img src='{light}' alt='{escape(alt)}'></picture>"
    )


def _write_figure(path: Path, figure) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_png(figure))


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _missing(text: str) -> str:
    return f"<p class='missing'>{escape(text)}</p>"


def html_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways on its own; `titles` are escaped here, the cells of `rows` are HTML already."""
    head = "".join(f"<th scope='col'>{escape(title)}</th>" for title in titles)
    body = "".join(
        f"<tr><th scope='row'>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows
    )
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _legend(run: Run) -> str:
    return "<p class='legend'>" + " ".join(_class_name(run, name) for name in run.class_names[1:]) + "</p>"


def _class_name(run: Run, name: str) -> str:
    """The class's name after a swatch of its colour; any other name as it is."""
    if name not in run.class_names:
        return escape(name)
    color = class_color(run.class_names.index(name))
    return f"<span class='class'><i style='background:{color}'></i>{escape(name)}</span>"


def _split_name(run: Run) -> str:
    name = run.evaluation_dir.name
    return f"{name.removeprefix('evaluation_')} cases" if name.startswith("evaluation_") else name


def _patient_names(run: Run, cases: Sequence[str]) -> list[str]:
    if run.prepared is None:
        return []
    members = set(cases)
    return [patient for patient, theirs in run.prepared.patients.items() if members & set(theirs)]


def _patients(run: Run, cases: Sequence[str]) -> str:
    names = _patient_names(run, cases)
    return f"{_count(len(names), 'patient')} ({_count(len(cases), 'case')})" if names else _count(len(cases), "case")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _number(value: float | None, decimals: int) -> str:
    """A number, "inf", or "-" for what is undefined."""
    return "-" if value is None or np.isnan(value) else f"{value:.{decimals}f}"


def _stacked(text: str) -> str:
    """The deviation of "0.9281 ± 0.043" on a line of its own, which keeps a wide table narrow."""
    mean, sign, rest = text.partition(" ± ")
    return f"{mean}<small>± {rest}</small>" if sign else text


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
<footer>Written by mamba-unet. Research software: not for diagnosis or treatment.</footer>
</main>
</body>
</html>
"""

STYLE = """
:root { --page: #f4f6f9; --panel: #fff; --text: #1f2430; --quiet: #5b6472; --line: #d9dde5; --accent: #0072b2;
  --warn: #7a3300; --warn-back: #ffe9d6; --stripe: #f7f8fb }
@media (prefers-color-scheme: dark) { :root { --page: #0e1015; --panel: #171a21; --text: #e4e7ee; --quiet: #9aa3b2;
  --line: #343a46; --accent: #56b4e9; --warn: #ffd2a8; --warn-back: #43280f; --stripe: #1c2029 } }
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
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .4rem .55rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
thead th { color: var(--quiet); font-weight: 500; vertical-align: bottom; white-space: normal }
tbody th, thead th:first-child { position: sticky; left: 0; background: var(--panel); text-align: left }
tbody th { font-weight: 500 }
.summary tr:last-child { font-weight: 600 }
ul { padding-left: 1.2rem; margin: 1rem 0 0; font-size: .9rem }
.class { white-space: nowrap; margin-right: .75rem }
.class i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: .2em }
.charts { display: grid; align-items: center; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)) }
.charts img { width: 100%; max-width: 34rem; display: block }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1.25rem }
figure { margin: 0 }
.triptych { display: grid; grid-template-columns: repeat(3, 1fr); gap: .25rem }
.triptych img { width: 100%; display: block; border-radius: .3rem }
.triptych small { font-size: .8rem }
figcaption { font-size: .9rem; overflow-wrap: anywhere }
details { border-top: 1px solid var(--line); padding: .5rem 0 }
summary { cursor: pointer; font-weight: 500 }
pre { overflow-x: auto; padding: .75rem; border-radius: .4rem; background: var(--stripe); font-size: .85rem }
details p, code { overflow-wrap: anywhere }
footer { margin-top: 1.5rem; font-size: .85rem }
"""
