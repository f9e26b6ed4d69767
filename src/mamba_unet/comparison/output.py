"""A comparison on disk.

table.md .tex .csv     mean and deviation of each metric over trainings; in .md and .tex also the Dice of every class
                       and what the networks differ in
significance.md .csv   paired tests per patient against the reference
figures/               segmentations.png (Figures 4 and 5), image_dice.png (Figure 6)
comparison.json        all of it, with every value per training and patient
comparison.html        all of it to look at; one file that needs nothing else
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from mamba_unet.comparison.result import SYNTHETIC, Comparison
from mamba_unet.drawing.figures import dice_histograms, segmentation_figure, to_png
from mamba_unet.drawing.tables import Table, statistics_csv
from mamba_unet.files import atomic_path, to_csv, write_json, write_text
from mamba_unet.report.page import PAGE, STYLE, data_uri, html_table, section

EXAMPLES_SEED = 0

WIDE = ".wide { width: 100%; border-radius: .4rem } u { text-underline-offset: .2em }"


def write_comparison(comparison: Comparison, out: str | Path) -> None:
    """Write every table, figure and the page, each whole or not at all."""
    out = Path(out)
    title = f"{len(comparison.entries)} networks on {comparison.prepared.name}"
    results, classes, networks = comparison.results(), comparison.classes(), comparison.networks()
    result_notes, network_notes = comparison.result_notes(), comparison.network_notes()
    write_text(
        out / "table.md",
        f"# {title}\n\n{results.markdown()}\n{classes.markdown()}\n{_bullets(result_notes)}\n"
        f"## The networks\n\n{networks.markdown()}\n{_bullets(network_notes)}",
    )
    comments = "".join(f"% {note}\n" for note in [*result_notes, *network_notes])
    write_text(out / "table.tex", f"{comments}{results.latex()}\n{classes.latex()}\n{networks.latex()}")
    write_text(out / "table.csv", statistics_csv(comparison.columns, comparison.statistics))

    examples = comparison.examples(EXAMPLES_SEED)
    figures = {
        "segmentations": to_png(segmentation_figure(examples, comparison.prepared.class_names)),
        "image_dice": to_png(dice_histograms(comparison.image_dice())),
    }
    for name, png in figures.items():
        with atomic_path(out / "figures" / f"{name}.png") as temporary:
            temporary.write_bytes(png)

    parts = [
        section("Result", _block(results, []) + "<h3>Dice of every class</h3>" + _block(classes, result_notes)),
        section("The networks", _block(networks, network_notes)),
    ]
    if comparison.tests:
        tests, test_notes = comparison.significance(), comparison.significance_notes()
        write_text(out / "significance.md", f"# {title}: paired tests\n\n{tests.markdown()}\n{_bullets(test_notes)}")
        write_text(out / "significance.csv", to_csv(comparison.tests))
        parts.insert(1, section("Is the difference there?", _block(tests, test_notes)))
    shown = (
        f"{len(examples)} of {len(comparison.evaluation.cases)} cases, drawn by lot (seed {EXAMPLES_SEED}); the slice "
        "with the largest labelled area, cut to the surroundings of what is labelled; each network's first training."
    )
    images = {
        "segmentations": ("Segmentations", shown),
        "image_dice": ("Image by image", "Every image, every training."),
    }
    for name, (heading, text) in images.items():
        picture = f"<img class='wide' src='{data_uri(figures[name])}' alt='{heading}, every network'>"
        parts.append(section(heading, f"<p>{text}</p>{picture}"))
    warning = f"<p class='warning' role='note'>{escape(SYNTHETIC)}</p>" if comparison.synthetic else ""
    body = "\n".join([f"<header><h1>{escape(title)}</h1>{warning}</header>", *parts])
    write_text(out / "comparison.html", PAGE.format(title=escape(title), style=STYLE + WIDE, body=body))
    write_json(out / "comparison.json", comparison.to_json())


def _bullets(notes: Sequence[str]) -> str:
    return "".join(f"- {note}\n" for note in notes)


def _block(table: Table, notes: Sequence[str]) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return html_table(table.titles, table.html_rows()) + (f"<ul>{lines}</ul>" if lines else "")
