"""Figures of several networks: what they show, read back from the axes."""

import numpy as np
import pytest

from mamba_unet.drawing.comparison_figures import Difference, forest, paired_scatter, validation_curves
from mamba_unet.drawing.figures import to_png


def test_a_point_per_patient_whose_two_values_are_finite():
    values = {
        "unet": {"p1": 0.80, "p2": 0.70, "p3": 0.90, "p4": np.nan},
        "mamba": {"p1": 0.85, "p2": 0.60, "p3": np.inf, "p4": 0.9},
    }
    (axes,) = paired_scatter(values, "unet", "Dice").axes
    _, points = axes.lines
    np.testing.assert_array_equal(points.get_xydata(), [[0.80, 0.85], [0.70, 0.60]])
    assert axes.texts[0].get_text() == "higher in 1 of 2 patients"
    assert axes.get_title(loc="left") == "mamba" and axes.get_xlabel() == "unet"


@pytest.mark.parametrize(("interval", "filled"), [((0.01, 0.05), True), ((-0.05, -0.01), True), ((0.0, 0.05), False)])
def test_a_mark_is_filled_where_the_interval_excludes_zero(interval, filled):
    (axes,) = forest([Difference("unet", 0.02, interval)], "mamba", "Dice").axes
    _, line, mark = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), interval)
    assert (mark.get_markerfacecolor() == mark.get_color()) == filled
    assert axes.get_yticklabels()[0].get_text() == "unet"


def test_a_difference_without_an_interval_is_a_hollow_mark_alone():
    (axes,) = forest([Difference("unet", 0.02, None)], "mamba", "Dice").axes
    _, mark = axes.lines
    assert mark.get_markerfacecolor() != mark.get_color()


def test_every_training_is_a_line_over_its_share_and_every_network_a_name():
    curves = {
        "mamba": [(np.array([9, 19]), np.array([0.5, 0.6])), (np.array([9, 19]), np.array([0.4, 0.7]))],
        "unet": [(np.array([99, 199]), np.array([0.5, 0.8]))],
    }
    (axes,) = validation_curves(curves).axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[50, 100]] * 3
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mamba", "unet"]
    assert axes.lines[0].get_color() == axes.lines[1].get_color() != axes.lines[2].get_color()


def test_many_networks_are_told_apart_and_named_below_the_curves():
    curves = {f"network {number}, of a long name": [(np.array([0, 1]), np.array([0.2, 0.5]))] for number in range(28)}
    figure = validation_curves(curves)
    to_png(figure)  # else matplotlib warns that nothing is left of the axes, which is an error here
    (axes,), (legend,) = figure.axes, figure.legends
    assert axes.get_legend() is None and [text.get_text() for text in legend.get_texts()] == list(curves)
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == len(curves)
