"""A picture of a segmentation: its slices side by side, tinted and outlined, with a legend.

T frames, C channels, D H W array axes as stored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.drawing.colors import DARK, class_color
from mamba_unet.drawing.figures import plain, to_png
from mamba_unet.drawing.overlay import overlay, picture, upright
from mamba_unet.files import atomic_path
from mamba_unet.measures.cardiac import LV, find_phases, heart_structures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_SLICES = 24
DPI = 100  # of the figure; all sizes below are pixels
WIDEST, TALLEST = 1560, 1160  # the mosaic
NARROWEST = 640  # leaves room for the title
MARGIN, GAP, TITLE, LEGEND_LINE = 20, 3, 48, 24
SHOWN_PERCENTILES = (2, 98)


def save_preview(path: str | Path, figure: "Figure") -> None:
    """Write what `preview_figure` made to `path` (.png), atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_png(figure, DARK, dpi=DPI))


def preview_figure(
    image: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    spacing_mm: Sequence[float] | None = None,
    slice_axis: int = 0,
    orientation: str | None = None,
    name: str = "",
) -> "Figure":
    """A mosaic of at most 24 slices, as a matplotlib figure of 100 pixels per inch, about 1600 pixels wide.

    Of a cine the end-diastolic frame is shown if it can be found (see `cardiac.find_phases`), else the first. Of
    more than 24 slices, the first, the last, and evenly between them those in which something is segmented. Slices
    and frames count from 1.

    Args:
        image: (T, C, D, H, W), or (T, D, H, W) of one channel, in any unit: shown from its 2nd to its 98th
            percentile; three channels in colour, as they are; of other numbers of channels the first.
        labels: (T, D, H, W), class indices.
        class_names: [0] is the background.
        spacing_mm: of D, H, W, for the proportions of a pixel; square without.
        slice_axis: array axis (0 D, 1 H, 2 W) across which slices lie.
        orientation: nibabel's codes of D, H, W, "SPL": slices then stand as radiologists look at them (head or front
            on top, the patient's right on the left), with letters at the first. Without, as they are stored.
        name: of the case, for the title.

    Raises:
        ValueError: the shapes of image and labels differ.
    """
    shape = image.shape if image.ndim == 4 else (image.shape[0], *image.shape[2:])
    if shape != labels.shape:
        raise ValueError(f"image of shape {image.shape}, labels of {labels.shape}: expected the same (T, D, H, W)")
    frame = shown_frame(labels, class_names)
    image, label = image[frame], np.moveaxis(labels[frame], slice_axis, 0)  # label: (slices, rows, columns)
    image = np.moveaxis(image.reshape(-1, *shape[1:]), slice_axis + 1, 1)  # (C, slices, rows, columns)
    pixel_size, letters = np.delete(np.array(spacing_mm or (1, 1, 1), float), slice_axis), None
    if orientation is not None:
        order, steps, letters = upright(orientation[:slice_axis] + orientation[slice_axis + 1 :])
        label = label.transpose(0, order[0] + 1, order[1] + 1)[:, :: steps[0], :: steps[1]]
        image = image.transpose(0, 1, order[0] + 2, order[1] + 2)[:, :, :: steps[0], :: steps[1]]
        pixel_size = pixel_size[list(order)]

    numbers = chosen_slices(label)
    columns, height, width = tiling(len(numbers), np.array(label.shape[1:]) * pixel_size)
    pixels = np.stack([picture(image, number) for number in numbers])
    colour = pixels.ndim == 4  # shown as it is
    low, high = (0, max(1, np.nanmax(pixels))) if colour else np.nanpercentile(pixels, SHOWN_PERCENTILES)
    pixels = np.nan_to_num((pixels - low) / max(high - low, 1e-12)).clip(0, 1)
    tiles = [
        overlay(*_enlarged(shown, label[number], height, width), height=height)
        for shown, number in zip(pixels, numbers, strict=True)
    ]
    details = []
    if len(labels) > 1:
        details.append(f"frame {frame + 1} of {len(labels)}")
    if len(label) > 1:
        details.append(
            f"{len(label)} slices" if len(numbers) == len(label) else f"{len(numbers)} of {len(label)} slices"
        )
    texts = [str(number + 1) for number in numbers] if len(label) > 1 else [""]
    names = [
        (class_color(index), class_name if (label == index).any() else f"{class_name} (none)")
        for index, class_name in enumerate(class_names)
        if index
    ]
    return _draw(tiles, columns, (name, ", ".join(details)), texts, letters, names)


def shown_frame(labels: np.ndarray, class_names: Sequence[str]) -> int:
    """End-diastole of a cine (T, D, H, W) in which a left ventricle is labelled; else frame 0."""
    if len(labels) == 1:
        return 0
    try:
        index = list(class_names).index(heart_structures(class_names)[LV])
        return find_phases([int((label == index).sum()) for label in labels])[0]
    except ValueError:  # no heart, or none found
        return 0


def chosen_slices(label: np.ndarray) -> list[int]:
    """Which of the slices of (slices, rows, columns) to show, in their order."""
    last = len(label) - 1
    if last < MOST_SLICES:
        return list(range(last + 1))
    marked = np.flatnonzero(label.any(axis=(1, 2)))
    first, final = (int(marked[0]), int(marked[-1])) if marked.size else (0, last)
    between = MOST_SLICES - (first > 0) - (final < last)
    if final - first + 1 < between:  # the neighbours of what is small
        between = MOST_SLICES - 2
        first = min(max((first + final + 1 - between) // 2, 0), last + 1 - between)
        final = first + between - 1
    return sorted({0, last, *np.linspace(first, final, between).round().astype(int).tolist()})


def tiling(count: int, size: np.ndarray) -> tuple[int, int, int]:
    """Columns of a mosaic, and height and width of its tiles in pixels: as large as fits, few positions left empty.

    Args:
        count: tiles.
        size: height and width of a slice, in any unit.
    """
    best = (0.0, 1, 1, 1)
    for columns in range(1, count + 1):
        rows = -(-count // columns)
        room = np.array([(TALLEST - (rows - 1) * GAP) / rows, (WIDEST - (columns - 1) * GAP) / columns])
        height, width = np.maximum(size * (room / size).min(), 1).astype(int).tolist()
        best = max(best, (height * width * (count / (rows * columns)) ** 2, columns, height, width))
    return best[1:]


def _enlarged(image: np.ndarray, label: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The image, grey or in colour, smoothly; the label with its own pixels."""
    from PIL import Image

    channels = [
        Image.fromarray(channel.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        for channel in (np.moveaxis(image, -1, 0) if image.ndim == 3 else [image])
    ]
    smooth = np.stack(channels, axis=-1) if image.ndim == 3 else np.asarray(channels[0])
    rows, columns = label.shape
    nearest = np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)
    return smooth, label[nearest]


def _draw(
    tiles: Sequence[np.ndarray],
    columns: int,
    titles: tuple[str, str],
    texts: Sequence[str],
    letters: tuple[str, str] | None,
    names: Sequence[tuple[str, str]],
) -> "Figure":
    """Title, mosaic and legend, one above the other.

    Args:
        tiles: (height, width, 3) uint8, all of one size.
        titles: at the left and at the right.
        texts: one per tile, in its corner.
        letters: of the directions at the top and at the left of the first tile.
        names: colour and text of the legend.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke

    height, width, _ = tiles[0].shape
    rows = -(-len(tiles) // columns)
    mosaic_height, mosaic_width = rows * (height + GAP) - GAP, columns * (width + GAP) - GAP
    full_width = max(mosaic_width, NARROWEST) + 2 * MARGIN
    entry = 48 + 8 * max((len(text) for _, text in names), default=0)  # a swatch, and about 8 pixels a letter
    per_line = max(1, (full_width - 2 * MARGIN) // entry)
    lines = -(-len(names) // per_line)
    full_height = TITLE + mosaic_height + MARGIN + lines * LEGEND_LINE
    figure = Figure(figsize=(full_width / DPI, full_height / DPI), dpi=DPI)
    middle = 1 - TITLE / 2 / full_height
    name, details = titles
    room = (full_width - 3 * MARGIN - 9 * len(details)) // 13  # letters are about 13 and 9 pixels wide
    figure.text(
        MARGIN / full_width, middle, plain(name, room), color=DARK.text, fontsize=14, weight="bold", va="center"
    )
    figure.text(1 - MARGIN / full_width, middle, details, color=DARK.text, fontsize=11, ha="right", va="center")
    stroke = [withStroke(linewidth=2.5, foreground="black")]
    for position, (tile, text) in enumerate(zip(tiles, texts, strict=True)):
        left = (full_width - mosaic_width) / 2 + position % columns * (width + GAP)
        top = TITLE + position // columns * (height + GAP)
        axes = figure.add_axes(
            (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
        )
        axes.set_axis_off()
        axes.imshow(tile, aspect="auto", interpolation="none")
        marks = [(6 / width, 1 - 6 / height, text, "left", "top")]
        if letters is not None and position == 0:
            marks.append((0.5, 1 - 6 / height, letters[0], "center", "top"))
            marks.append((6 / width, 0.5, letters[1], "left", "center"))
        for x, y, mark, ha, va in marks:
            where = {"transform": axes.transAxes, "ha": ha, "va": va}
            axes.text(x, y, mark, color="white", fontsize=10, path_effects=stroke, **where)
    if names:
        handles = [Patch(color=color, label=plain(text, room)) for color, text in names]
        figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(MARGIN / full_width, MARGIN / 2 / full_height),
            ncols=per_line,
            frameon=False,
            labelcolor=DARK.text,
            fontsize=11,
            borderaxespad=0,
            handlelength=1,
            handleheight=1,
        )
    return figure
