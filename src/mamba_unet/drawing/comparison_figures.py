"""Figures of several networks side by side: patient by patient, difference by difference, training by training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.drawing.colors import LIGHT, PALETTE, Theme
from mamba_unet.drawing.figures import dice_limits, finish_axes, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3  # panels side by side
MOST_INSIDE = 6  # names of a legend among the curves; more stand below them
DASHES = ("-", "--", ":", "-.")  # tell networks of one colour


@dataclass(frozen=True)
class Difference:
    """What a paired test found of one network against the reference.

    Attributes:
        network: its name.
        median: of the differences.
        interval: 95 %, or None where there is none.
    """

    network: str
    median: float
    interval: tuple[float, float] | None

    @property
    def excludes_zero(self) -> bool:
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def paired_scatter(
    values: Mapping[str, Mapping[str, float]], reference: str, metric: str, theme: Theme = LIGHT
) -> "Figure":
    """A panel per network: a point per patient, the reference's value to the right and the network's upwards.

    Above the diagonal the network has the larger value.

    Args:
        values: network -> patient -> value; patients whose value is undefined or infinite are left out.
        reference: one of the networks.
        metric: title of the values.
        theme: of the page.
    """
    from matplotlib.figure import Figure

    others = [name for name in values if name != reference]
    columns = min(COLUMNS, len(others))
    rows = -(-len(others) // columns)
    figure = Figure(figsize=(3.2 * columns, 3.0 * rows), layout="constrained")
    limits = dice_limits([np.array(list(patients.values())) for patients in values.values()])
    for position, name in enumerate(others):
        axes = new_axes(figure, (rows, columns, position + 1), theme)
        patients = [patient for patient in values[reference] if patient in values[name]]
        pairs = np.array([(values[reference][patient], values[name][patient]) for patient in patients]).reshape(-1, 2)
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        axes.plot(limits, limits, color=theme.grid, linewidth=1.2)
        axes.plot(*pairs.T, "o", color=theme.line, markersize=5, alpha=0.8, markeredgewidth=0)
        above = int((pairs[:, 1] > pairs[:, 0]).sum())
        finish_axes(axes, theme, name, plain(reference) if position + columns >= len(others) else "")
        axes.text(
            0.03, 0.97, f"higher in {above} of {len(pairs)} patients", transform=axes.transAxes, va="top", fontsize=8,
            color=theme.text,
        )  # fmt: skip
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        if position % columns == 0:
            axes.set_ylabel(metric, color=theme.text)
    return figure


def forest(differences: Sequence[Difference], reference: str, metric: str, theme: Theme = LIGHT) -> "Figure":
    """A row per network: the median difference to the reference and its interval, beside a line at zero.

    A filled mark is an interval without zero, a hollow one touches it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 1.1 + 0.42 * len(differences)), layout="constrained")
    axes = new_axes(figure, (1, 1, 1), theme)
    axes.axvline(0, color=theme.text, linewidth=1)
    for row, difference in enumerate(differences):
        color = theme.line
        if difference.interval is not None:
            axes.plot(difference.interval, (row, row), color=color, linewidth=2, solid_capstyle="round")
        face = color if difference.excludes_zero else theme.background
        axes.plot(difference.median, row, "o", color=color, markerfacecolor=face, markersize=8, markeredgewidth=2)
    axes.set_yticks(range(len(differences)), [plain(difference.network) for difference in differences])
    axes.set_ylim(len(differences) - 0.5, -0.5)
    finish_axes(axes, theme, f"Against {reference}", f"median difference in {metric}, and its 95 % interval")
    return figure


def validation_curves(curves: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], theme: Theme = LIGHT) -> "Figure":
    """Validation Dice of all trainings over the share of their iterations: a colour per network, a line per training.

    Where there are more networks than colours, dashes tell those of one colour.

    Args:
        curves: network -> (steps, values) of each training.
        theme: of the page.
    """
    from matplotlib.figure import Figure

    is_long = len(curves) > MOST_INSIDE
    longest = max((len(plain(name)) for name in curves), default=0)
    columns = max(1, int(7.2 / (0.6 + 0.065 * longest)))  # of a legend below: a swatch, and inches a letter
    figure = Figure(figsize=(7.2, 3.8 + is_long * 0.18 * -(-len(curves) // columns)), layout="constrained")
    axes = new_axes(figure, (1, 1, 1), theme)
    palette = [theme.text, *PALETTE]
    for number, (name, trainings) in enumerate(curves.items()):
        for which, (steps, values) in enumerate(trainings):
            share = 100 * (steps + 1) / (steps[-1] + 1)
            axes.plot(
                share, values, marker=".", linestyle=DASHES[number // len(palette) % len(DASHES)],
                color=palette[number % len(palette)], linewidth=1.4, markersize=4,
                label=plain(name) if which == 0 else None,
            )  # fmt: skip
    finish_axes(axes, theme, "Dice on the validation patients", "% of the training", legend=not is_long)
    if is_long:
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=8, labelcolor=theme.text)
    axes.set_xlim(0, 100)
    axes.set_ylim(*dice_limits([values for trainings in curves.values() for _, values in trainings]))
    return figure
