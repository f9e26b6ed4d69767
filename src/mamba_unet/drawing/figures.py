"""The figures: training curves, coloured label maps (the paper's Figure 4) and the histogram of image-by-image Dice
(its Figure 6). Matplotlib figures are objects of their own; nothing here touches pyplot's global state.

H W pixels of one slice.
"""

import csv
import io
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.drawing.colors import LIGHT, PALETTE, Theme, class_color
from mamba_unet.drawing.examples import Example
from mamba_unet.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 40  # letters of a name in a legend or title
Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]  # column -> (steps, values)


def read_curves(metrics_csv_paths: Iterable[str | Path]) -> Curves:
    """Read Lightning's CSV logs of one run.

    Args:
        metrics_csv_paths: logs/version_*/metrics.csv; a resumed run has several, and a later version's values replace
            an earlier one's at the same steps.

    Returns:
        column -> (steps, values), in the order of the steps; columns with no value are left out.
    """
    curves: dict[str, dict[int, float]] = {}

    def version(path: Path) -> tuple[int, ...]:  # version_10 comes after version_2
        return tuple(int(number) for number in re.findall(r"\d+", path.parent.name))

    for path in sorted((Path(path) for path in metrics_csv_paths), key=version):
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # the last line was cut short if the run was killed
        for row in csv.DictReader(io.StringIO(whole)):
            for column, text in row.items():
                if column not in ("step", "epoch") and text:
                    curves.setdefault(column, {})[int(row["step"])] = float(text)
    return {
        column: (np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for column, points in curves.items()
    }


def plot_curves(metrics_csv_paths: Iterable[str | Path], out_png: str | Path, class_names: Sequence[str] = ()) -> None:
    """Draw loss, validation Dice and learning rate of a run, one above the other, into a PNG file.

    Args:
        metrics_csv_paths: logs/version_*/metrics.csv.
        out_png: written atomically.
        class_names: [0] is the background; gives each class its colour of the other figures, for the logs' columns
            are in alphabetical order.
    """
    from matplotlib.figure import Figure

    curves = read_curves(metrics_csv_paths)
    figure = Figure(figsize=(7, 8), layout="constrained")
    draw_loss(new_axes(figure, (3, 1, 1), LIGHT), curves, LIGHT)
    draw_validation(new_axes(figure, (3, 1, 2), LIGHT), curves, LIGHT, class_names)
    draw_learning_rate(new_axes(figure, (3, 1, 3), LIGHT), curves, LIGHT)
    with atomic_path(out_png) as temporary:
        temporary.write_bytes(to_png(figure, LIGHT, dpi=120))


def draw_loss(axes: "Axes", curves: Curves, theme: Theme) -> None:
    """Training loss and all its parts: each value pale, the running mean strong."""
    colors = {"train/loss": theme.text, "train/cross_entropy": theme.line, "train/dice_loss": theme.accent}
    others = [column for column in curves if column.startswith("train/") and column not in colors]
    free = [color for column, color in colors.items() if column not in curves]
    colors |= dict(zip(others, itertools.cycle([*free, *PALETTE[1:]]), strict=False))
    for column, color in colors.items():
        if column in curves:
            steps, values = curves[column]
            window = max(1, len(values) // 50)
            mean = np.convolve(values, np.ones(window) / window, mode="valid")
            centre = slice((window - 1) // 2, (window - 1) // 2 + len(mean))
            axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
            axes.plot(steps[centre], mean, color=color, linewidth=1.6, label=column.split("/")[1].replace("_", " "))
    finish_axes(axes, theme, "Training loss", "iteration", legend=True)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def draw_validation(axes: "Axes", curves: Curves, theme: Theme, class_names: Sequence[str] = ()) -> None:
    """Validation Dice: the mean strong with its best marked, each class in its own colour."""
    prefix = "val/dice/"
    names = class_names[1:] or [column.removeprefix(prefix) for column in curves if column.startswith(prefix)]
    for index, name in enumerate(names, start=1):
        if prefix + name in curves:
            axes.plot(*curves[prefix + name], color=class_color(index), linewidth=1.4, label=plain(name))
    for column, (steps, values) in curves.items():  # networks beside the one that is chosen
        if column.startswith("val_") and column.endswith("/dice"):
            name = column.removeprefix("val_").removesuffix("/dice")
            axes.plot(steps, values, color=theme.text, linewidth=1, linestyle="--", label=plain(f"mean, {name}"))
    title = "Dice on the validation patients"
    if "val/dice" in curves and np.isfinite(curves["val/dice"][1]).any():
        steps, values = curves["val/dice"]
        best = int(np.nanargmax(values))
        axes.plot(steps, values, color=theme.text, linewidth=2, label="mean")
        axes.plot(steps[best], values[best], "o", color=theme.text, markersize=6)
        title += f": best {values[best]:.3f}"
    finish_axes(axes, theme, title, "iteration", legend=True)
    axes.set_xlim(left=0)
    shown = [values for column, (_, values) in curves.items() if re.match(r"val/dice|val_.*/dice$", column)]
    axes.set_ylim(*dice_limits(shown))


def dice_limits(curves: Sequence[np.ndarray]) -> tuple[float, float]:
    """The part of the axis from 0 to 1 that holds all values, in whole steps of 0.05, so that close curves part."""
    values = np.concatenate([*curves, np.empty(0)])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.floor(20 * values.min() - 0.1) / 20, np.ceil(20 * values.max() + 0.1) / 20
    return max(0.0, float(low)), min(1.0, float(high))


def draw_learning_rate(axes: "Axes", curves: Curves, theme: Theme) -> None:
    if "lr" in curves:
        axes.plot(*curves["lr"], color=theme.line, linewidth=1.6)
    finish_axes(axes, theme, "Learning rate", "iteration")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def draw_histogram(axes: "Axes", image_dice: Mapping[str, np.ndarray], theme: Theme) -> None:
    """Figure 6: how many images (slices) reach which mean foreground Dice.

    Args:
        image_dice: name of the network -> one Dice per image.
    """
    edges = np.linspace(0, 1, 21)
    axes.hist(
        [np.asarray(values) for values in image_dice.values()],
        bins=edges,
        color=[theme.line, *PALETTE[1:]][: len(image_dice)],
        label=[plain(name) for name in image_dice],
    )
    finish_axes(axes, theme, "Image-by-image Dice", "mean foreground Dice of an image", legend=len(image_dice) > 1)
    axes.set_ylabel("images", color=theme.text)
    axes.set_xlim(0, 1)


def dice_histograms(image_dice: Mapping[str, np.ndarray], theme: Theme = LIGHT) -> "Figure":
    """Figure 6 of several networks: a panel each, all on the same axes, the median marked.

    Args:
        image_dice: name of the network -> one Dice per image. Shares are drawn, not counts, so that networks that were
            trained more often than others compare.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(image_dice))
    rows = -(-len(image_dice) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
    first = None
    for position, (name, values) in enumerate(image_dice.items()):
        axes = new_axes(figure, (rows, columns, position + 1), theme, sharey=first)
        first = first or axes
        if len(values):
            median = np.median(values)
            share = np.full(len(values), 100 / len(values))
            axes.hist(values, bins=np.linspace(0, 1, 21), weights=share, color=theme.line)
            axes.axvline(median, color=theme.accent, linewidth=1.4)
            note = f"median {median:.3f}\n{np.mean(values < 0.5):.0%} below 0.5\n{len(values):,} images"
            backdrop = {"facecolor": theme.background, "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
            axes.text(0.03, 0.95, note, transform=axes.transAxes, va="top", fontsize=8, color=theme.text, bbox=backdrop)
        finish_axes(
            axes, theme, name, "mean foreground Dice of an image" if position + columns >= len(image_dice) else ""
        )
        axes.set_xlim(0, 1)
        if position % columns == 0:
            axes.set_ylabel("% of images", color=theme.text)
    return figure


def chart(draw: Callable[..., None], data: Any, theme: Theme = LIGHT, **options: Any) -> "Figure":
    """One of the `draw_...` charts on a figure of its own, sized to stay legible on a phone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    draw(new_axes(figure, (1, 1, 1), theme), data, theme, **options)
    return figure


def segmentation_figure(examples: Sequence[Example], class_names: Sequence[str], theme: Theme = LIGHT) -> "Figure":
    """Figures 4 and 5: of each example its image and then a column per label map, with a legend of the classes.

    A row holds one example; where they are many and narrow it holds two, so that the figure is not a tower.

    Args:
        examples: all with the same columns.
        class_names: [0] is the background.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = ["image", *examples[0].labels]
    beside, inches = (2, 1.8) if len(examples) > 2 and len(columns) <= 3 else (1, 2.2)
    rows = -(-len(examples) // beside)
    figure = Figure(figsize=(inches * len(columns) * beside, inches * rows + 0.6), layout="constrained")
    for number, example in enumerate(examples):
        row, first = number // beside, number % beside * len(columns) + 1
        for column, (name, picture) in enumerate(zip(columns, example.pictures(), strict=True)):
            axes = figure.add_subplot(rows, len(columns) * beside, row * len(columns) * beside + first + column)
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if row == 0:
                lines = textwrap.wrap(name.replace("_", "_ "), 24)
                title = "\n".join(plain(line.replace("_ ", "_")) for line in lines[:3])
                axes.set_title(title, color=theme.text, fontsize=11 if len(name) <= 16 else 8)
            if column == 0:
                axes.set_ylabel("\n".join(map(plain, example.name.split(", "))), color=theme.text, fontsize=8)
    handles = [Patch(color=class_color(i), label=plain(name)) for i, name in enumerate(class_names) if i]
    longest = min(LONGEST, max((len(name) for name in class_names[1:]), default=0))
    fit = int(figure.get_figwidth() * 100 / (60 + 8 * longest))  # a swatch, and about 8 hundredths of an inch a letter
    ncols = min(4, max(1, fit))
    figure.legend(handles=handles, loc="outside lower center", ncols=ncols, frameon=False, labelcolor=theme.text)
    return figure


def plain(name: str, most: int = LONGEST) -> str:
    """A name that matplotlib draws as it is: "$" begins no formula, "_" in front hides it from no legend; cut off after
    so many letters."""
    name = (name if len(name) <= most else f"{name[: most - 1]}…").replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def to_png(figure: "Figure", theme: Theme = LIGHT, dpi: int = 160) -> bytes:
    """The figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.set_facecolor(theme.background)
    figure.savefig(stream, format="png", dpi=dpi)
    return stream.getvalue()


def new_axes(figure: "Figure", position: tuple[int, int, int], theme: Theme, sharey: "Axes | None" = None) -> "Axes":
    """Axes at (rows, columns, number) of a figure, in the colours of a theme."""
    axes = figure.add_subplot(*position, sharey=sharey)
    axes.set_facecolor(theme.background)
    axes.grid(color=theme.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.grid)
    axes.tick_params(colors=theme.text, length=0, pad=6)
    return axes


def finish_axes(axes: "Axes", theme: Theme, title: str, xlabel: str, legend: bool = False) -> None:
    """What axes get at last: their title, the name of their x axis, a legend."""
    axes.set_title(plain(title, 60), color=theme.text, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(xlabel, color=theme.text)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, labelcolor=theme.text, fontsize=9)
