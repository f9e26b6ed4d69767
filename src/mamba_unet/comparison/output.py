"""A comparison on disk.

table.md .tex .csv     mean and deviation of each metric over trainings; in .md and .tex also the Dice of every class
                       and what the networks differ in
significance.md .csv   paired tests per patient against the reference
figures/               segmentations.png (Figures 4 and 5), image_dice.png (Figure 6), as on a light page; patients.png,
                       differences.png and training.png: patient by patient, the paired tests, the validation curves
comparison.json        all of it, with every value per training and patient
comparison.html        all of it to look at, on a light or dark page; one file that needs nothing else
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from mamba_unet.comparison.columns import statistics_csv
from mamba_unet.comparison.result import SYNTHETIC, Comparison
from mamba_unet.drawing.comparison_figures import Difference, forest, paired_scatter, validation_curves
from mamba_unet.drawing.figures import dice_histograms, segmentation_figure, to_png
from mamba_unet.drawing.html import bullets, page, section, themed_figure, warning
from mamba_unet.files import STALE_S, atomic_path, remove_temporaries, to_csv, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES_SEED = 0
SIGNIFICANCE = ("significance.md", "significance.csv")
FIGURES = ("differences", "patients", "training", "segmentations", "image_dice")


def write_comparison(comparison: Comparison, out: str | Path) -> None:
    """Write every table, figure and the page, each whole or not at all."""
    out, title = Path(out), comparison.title
    for folder in (out, out / "figures"):
        remove_temporaries(folder, STALE_S)
    results, classes, networks = comparison.results(), comparison.classes(), comparison.networks()
    result_notes, network_notes = comparison.result_notes(), comparison.network_notes()
    write_text(
        out / "table.md",
        f"# {title}\n\n{results.markdown()}\n{classes.markdown()}\n{_markdown_list(result_notes)}\n"
        f"## The networks\n\n{networks.markdown()}\n{_markdown_list(network_notes)}",
    )
    comments = "".join(f"% {note}\n" for note in [*result_notes, *network_notes])
    write_text(out / "table.tex", f"{comments}{results.latex()}\n{classes.latex()}\n{networks.latex()}")
    write_text(out / "table.csv", statistics_csv(comparison.columns, comparison.statistics))

    parts = [
        section("Result", f"{results.html()}<h3>Dice of every class</h3>{classes.html()}{bullets(result_notes)}"),
        section("The networks", networks.html() + bullets(network_notes)),
    ]
    if comparison.tests:
        tests, test_notes = comparison.significance(), comparison.significance_notes()
        text = f"# {title}: paired tests\n\n{tests.markdown()}\n{_markdown_list(test_notes)}"
        for name, content in zip(SIGNIFICANCE, (text, to_csv(comparison.tests)), strict=True):
            write_text(out / name, content)
        parts.insert(1, section("Is there a difference?", tests.html() + bullets(test_notes)))
    else:
        for name in SIGNIFICANCE:  # of an earlier comparison
            (out / name).unlink(missing_ok=True)

    drawn = []
    for name, heading, text, draw in _figures(comparison):
        with atomic_path(out / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(to_png(draw()))
        drawn.append(name)
        picture = themed_figure(draw, f"{heading}, every network", css="wide")
        parts.append(section(heading, f"<p>{text}</p><div class='scroll' tabindex='0'>{picture}</div>"))
    for name in FIGURES:
        if name not in drawn:
            (out / "figures" / f"{name}.png").unlink(missing_ok=True)
    header = f"<header><h1>{escape(title)}</h1>{warning(SYNTHETIC) if comparison.synthetic else ''}</header>"
    write_text(out / "comparison.html", page(title, "\n".join([header, *parts])))
    write_json(out / "comparison.json", comparison.to_json())


def _figures(comparison: Comparison) -> "Iterator[tuple[str, str, str, Callable[..., Figure]]]":
    """Name of the file, heading, text and drawing of each figure that there is something for."""
    values = {name: entry.per_patient("dice") for name, entry in comparison.entries.items()}
    tests = [test for test in comparison.tests if test["metric"] == "dice"]
    differences = [
        Difference(test["network"], test["median_difference"], test["interval"])
        for test in tests
        if test["median_difference"] is not None
    ]
    reference = comparison.reference
    if differences:
        text = "Right of the line the network is better. A hollow mark: the interval touches zero."
        yield "differences", "The differences", text, partial(forest, differences, reference, "Dice")
    if tests:
        text = f"A point per patient: above the line the network is better than {escape(reference)}."
        yield "patients", "Patient by patient", text, partial(paired_scatter, values, reference, "mean foreground Dice")
    curves = {name: entry.curves for name, entry in comparison.entries.items() if entry.curves}
    if curves:
        text = "Every training. The checkpoint with the highest value is the one that was measured."
        yield "training", "Training", text, partial(validation_curves, curves)
    examples = comparison.examples(EXAMPLES_SEED)
    text = (
        f"{len(examples)} of {len(comparison.evaluation.cases)} cases, drawn at random (seed {EXAMPLES_SEED}). Of each "
        "the slice with the largest labelled area, cut to the surroundings of what is labelled; of each network its "
        "first training."
    )
    yield "segmentations", "Segmentations", text, partial(segmentation_figure, examples, comparison.class_names)
    draw = partial(dice_histograms, comparison.image_dice())
    yield "image_dice", "Image by image", "Every image, every training.", draw


def _markdown_list(notes: Sequence[str]) -> str:
    return "".join(f"- {note}\n" for note in notes)
