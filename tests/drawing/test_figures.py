"""Figures: what is read from the logs, and what the pictures show."""

import io
from itertools import pairwise

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from PIL import Image

from mamba_unet.drawing.colors import DARK, LIGHT, class_color
from mamba_unet.drawing.examples import Example
from mamba_unet.drawing.figures import (
    chart,
    dice_histograms,
    dice_limits,
    draw_histogram,
    draw_learning_rate,
    draw_loss,
    draw_validation,
    plot_curves,
    read_curves,
    segmentation_figure,
    to_png,
)


def write_log(folder, version, text):
    path = folder / "logs" / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


@pytest.fixture
def logs(tmp_path):
    """A run that was resumed twice, its ninth and tenth version."""
    first = "epoch,step,lr,train/loss,val/dice,val/dice/wall,val/dice/ventricle\n"
    return [
        write_log(tmp_path, 9, first + "0,9,0.01,1.0,,,\n0,19,0.009,0.8,,,\n0,19,,,0.5,0.4,0.6\n0,29,0.008,9.0,,,\n"),
        write_log(tmp_path, 10, first + "0,29,0.008,0.6,,,\n0,39,0.007,0.5,,,\n0,39,,,0.7,0.6,0.8\n"),
    ]


def png_size(source):
    with Image.open(source) as image:
        assert image.format == "PNG"
        return image.size


def rgb(color):
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def test_later_version_replaces_the_same_steps(logs):
    curves = read_curves(reversed(logs))
    assert {name: list(zip(*map(np.ndarray.tolist, points), strict=True)) for name, points in curves.items()} == {
        "lr": [(9, 0.01), (19, 0.009), (29, 0.008), (39, 0.007)],
        "train/loss": [(9, 1.0), (19, 0.8), (29, 0.6), (39, 0.5)],
        "val/dice": [(19, 0.5), (39, 0.7)],
        "val/dice/wall": [(19, 0.4), (39, 0.6)],
        "val/dice/ventricle": [(19, 0.6), (39, 0.8)],
    }


def test_line_cut_short_by_a_kill_is_skipped(tmp_path):
    for cut in ("0,0.00", "0,0.001,19,9.1e-", "0,0.001,1"):
        log = write_log(tmp_path / str(len(cut)), 0, "epoch,lr,step,train/loss\n0,0.01,9,1.0\n" + cut)
        assert {name: values.tolist() for name, (_, values) in read_curves([log]).items()} == {
            "lr": [0.01],
            "train/loss": [1.0],
        }


def test_curves_are_written_as_a_png_without_pyplot_figures(logs, tmp_path):
    plot_curves(logs, tmp_path / "curves.png", ["background", "ventricle", "wall"])
    assert png_size(tmp_path / "curves.png") == (840, 960)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["curves.png"]
    assert not Gcf.get_all_fig_managers()


def test_curves_of_a_run_that_logged_nothing_yet_are_empty(tmp_path):
    plot_curves([write_log(tmp_path, 0, "epoch,step\n")], tmp_path / "curves.png")
    assert png_size(tmp_path / "curves.png") == (840, 960)


def test_class_keeps_its_colour_whatever_the_order_of_the_log(logs):
    axes = chart(draw_validation, read_curves(logs), class_names=["background", "ventricle", "wall"]).axes[0]
    colors = {line.get_label(): line.get_color() for line in axes.get_lines()}
    assert (colors["ventricle"], colors["wall"]) == (class_color(1), class_color(2))
    assert "best 0.700" in axes.get_title("left")


def test_names_are_drawn_as_they_are():
    curves = {f"val/dice/{name}": (np.arange(2), np.ones(2)) for name in ("$x_$ y", "_artefact")}
    figure = chart(draw_validation, curves)
    to_png(figure)
    drawn = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert drawn == [r"\$x_\$ y", " _artefact"]
    example = Example("pat$a_$b, slice 1", np.zeros((8, 8)), {"$x_$": np.zeros((8, 8), int)})
    to_png(segmentation_figure([example], ["background", "cost $x_$ y"]))


def test_long_names_stay_inside_the_figure():
    names = ["background", *(f"left ventricular blood pool {number}" for number in range(4))]
    networks = ["acdc_mamba_unet_fine_no_scan", "acdc_mamba_unet_fine_dwconv", "acdc_few_weak_mamba_unet"]
    example = Example("a, slice 1", np.zeros((8, 8)), dict.fromkeys(networks, np.zeros((8, 8), int)))
    figure = segmentation_figure([example], names)
    to_png(figure, dpi=100)
    width = figure.bbox.width
    boxes = [figure.legends[0].get_window_extent(), *(axes.title.get_window_extent() for axes in figure.axes)]
    assert all(0 <= box.x0 and box.x1 <= width for box in boxes)
    titles = boxes[1:]
    assert all(left.x1 < right.x0 for left, right in pairwise(titles))


@pytest.mark.parametrize(
    ("curves", "limits"),
    [
        ([[0.82, 0.9], [0.87, float("nan")]], (0.8, 0.95)),
        ([[0.0, 0.5], [1.0]], (0, 1)),
        ([[0.8], [0.85]], (0.75, 0.9)),  # nothing lies on the edge
        ([], (0, 1)),
        ([[float("nan")]], (0, 1)),
    ],
)
def test_the_axis_of_the_validation_holds_the_values_and_little_more(curves, limits):
    assert dice_limits([np.array(values) for values in curves]) == pytest.approx(limits)


def test_validation_is_drawn_on_the_axis_of_its_values(logs):
    assert chart(draw_validation, read_curves(logs)).axes[0].get_ylim() == pytest.approx((0.35, 0.85))


def test_running_mean_of_the_loss_lies_over_the_values_it_averages():
    steps = np.arange(200)
    axes = chart(draw_loss, {"train/loss": (steps, steps / 200)}).axes[0]
    values, mean = axes.get_lines()
    assert len(values.get_xdata()) == 200 and 190 < len(mean.get_xdata()) < 200
    assert np.abs(mean.get_xdata() / 200 - mean.get_ydata()).max() < 0.005


def test_learning_rate_chart_shows_the_logged_values(logs):
    line = chart(draw_learning_rate, read_curves(logs)).axes[0].get_lines()[0]
    assert line.get_ydata().tolist() == [0.01, 0.009, 0.008, 0.007]


def test_histogram_counts_every_image_once():
    axes = chart(draw_histogram, {"ours": np.array([0.0, 0.91, 0.93, 1.0])}).axes[0]
    heights = [patch.get_height() for patch in axes.patches]
    assert (sum(heights), heights[0], heights[18], heights[19]) == (4, 1, 2, 1)


def test_segmentation_figure_has_a_column_per_label_map_and_a_legend_of_the_classes():
    label = np.eye(8, dtype=int)
    labels = {"ground truth": label, "prediction": label}
    examples = [Example(name, np.zeros((8, 8)), labels) for name in ("a/3", "b/1")]
    figure = segmentation_figure(examples, ["background", "ventricle"])
    assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "ground truth", "prediction"]
    assert len(figure.axes) == 6
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ventricle"]


def test_many_examples_stand_two_in_a_row_so_that_the_figure_is_wider_than_tall():
    label = np.eye(8, dtype=int)
    examples = [Example(f"{n}, slice 1", np.zeros((8, 8)), {"truth": label, "prediction": label}) for n in range(3)]
    figure = segmentation_figure(examples, ["background", "ventricle"])
    width, height = figure.get_size_inches()
    assert width > 2 * height
    assert [axes.get_title() for axes in figure.axes] == ["image", "truth", "prediction"] * 2 + [""] * 3
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["0\nslice 1", "1\nslice 1", "2\nslice 1"]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_chart_takes_the_colours_of_its_theme(theme):
    with Image.open(io.BytesIO(to_png(chart(draw_learning_rate, {}, theme), theme))) as image:
        assert list(image.convert("RGB").getpixel((0, 0))) == rgb(theme.background)


def test_every_network_has_a_panel_of_shares_on_the_same_axes():
    values = {"a": np.array([0.1, 0.9, 0.9, 0.9]), "b": np.array([0.5]), "c": np.array([]), "d": np.array([0.7, 0.8])}
    figure = dice_histograms(values)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(values)
    heights = [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes]
    assert heights == pytest.approx([100, 100, 0, 100])
    assert len({axes.get_ylim() for axes in figure.axes}) == 1
    assert (
        "median 0.900" in figure.axes[0].texts[0].get_text() and "25% below 0.5" in figure.axes[0].texts[0].get_text()
    )
    assert png_size(io.BytesIO(to_png(figure)))[0] > 500
