import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from mamba_unet.drawing.colors import class_color
from mamba_unet.measures.preview import chosen_slices, preview_figure, save_preview, shown_frame, tiling

NAMES = ("background", "right ventricle", "myocardium", "left ventricle")


def test_every_slice_is_shown_where_they_are_few():
    assert chosen_slices(np.zeros((10, 4, 4))) == list(range(10))
    assert chosen_slices(np.zeros((24, 4, 4))) == list(range(24))


@pytest.mark.parametrize("first, last", [(40, 79), (0, 99), (50, 50), (0, 2), (97, 99), (10, 20)])
def test_of_many_slices_the_ends_and_those_around_the_segmentation_are_shown(first, last):
    label = np.zeros((100, 4, 4), np.uint8)
    label[first : last + 1, 1, 1] = 1
    numbers = chosen_slices(label)
    assert 23 <= len(set(numbers)) <= 24 and numbers == sorted(numbers)
    assert numbers[0] == 0 and numbers[-1] == 99
    assert {first, last} <= set(numbers)
    assert len(set(numbers) & set(range(first, last + 1))) >= min(last - first + 1, 21)


def test_slices_without_segmentation_are_chosen_evenly():
    assert set(np.diff(chosen_slices(np.zeros((93, 4, 4))))) == {4}


@pytest.mark.parametrize("count", [1, 2, 5, 10, 17, 24])
@pytest.mark.parametrize("size", [(256, 216), (100, 400), (900, 300)])
def test_tiles_fit_keep_proportions_and_leave_at_most_a_row_unfilled(count, size):
    columns, height, width = tiling(count, np.array(size))
    rows = -(-count // columns)
    assert columns * width <= 1560 and rows * height <= 1160
    assert height / width == pytest.approx(size[0] / size[1], rel=0.03)
    assert rows * columns - count < columns


def test_end_diastole_of_a_cine_is_shown_where_there_is_a_heart():
    cine = np.zeros((3, 2, 8, 8), np.uint8)
    cine[0, 0, 2:4, 2:4] = cine[1, 0, 1:6, 1:6] = cine[2, 0, 2, 2] = 3
    assert shown_frame(cine, NAMES) == 1
    assert shown_frame(cine, ("background", "a", "b", "c")) == 0
    assert shown_frame(cine * 0, NAMES) == 0


def tile_pixels(path, color: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the picture, legend left out, has a pixel of just this colour."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)[:-60]
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return np.nonzero((abs(pixels - wanted) <= 1).all(axis=-1))


@pytest.mark.parametrize(
    "orientation, top, left",
    # of the same corner, which has small indices in the array's rows and columns
    [(None, True, True), ("SPL", True, True), ("SAR", False, False), ("SAL", False, True), ("SLP", True, True)],
)
def test_a_structure_appears_in_its_corner_and_orientation_is_the_radiologists(tmp_path, orientation, top, left):
    image = np.random.default_rng(0).random((1, 1, 40, 50))
    labels = np.zeros(image.shape, np.uint8)
    labels[..., 4:10, 4:10] = 2
    save_preview(tmp_path / "a.png", preview_figure(image, labels, NAMES, (8, 1.5, 1.5), orientation=orientation))
    rows, columns = tile_pixels(tmp_path / "a.png", class_color(2))
    with Image.open(tmp_path / "a.png") as picture:
        width, height = picture.size
    assert rows.size > 100
    assert (rows.mean() < height / 2) == top and (columns.mean() < width / 2) == left


def test_planes_stand_with_the_head_on_top():
    image = np.zeros((1, 20, 6, 30))
    texts = [text.get_text() for text in preview_figure(image, image.astype(int), NAMES, None, 1, "SAR").axes[0].texts]
    assert texts == ["1", "S", "R"]
    figure = preview_figure(image, image.astype(int), NAMES, None, 2, "SAR")
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "S", "A"]


def test_a_picture_is_bounded_and_says_what_it_shows(tmp_path):
    image = np.random.default_rng(0).random((3, 60, 64, 64)).astype(np.float32)
    labels = np.zeros(image.shape, np.uint8)
    labels[1, 20:40, 10:30, 10:30] = 3
    save_preview(tmp_path / "a.png", preview_figure(image, labels, NAMES, (5, 1, 1), name="patient001_4d"))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width <= 1600 and picture.height <= 1400
    figure = preview_figure(image, labels, NAMES, (5, 1, 1), name="patient001_4d")
    assert [text.get_text() for text in figure.texts] == ["patient001_4d", "frame 2 of 3, 24 of 60 slices"]
    assert len(figure.axes) == 24 and figure.axes[0].texts[0].get_text() == "1"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["right ventricle (none)", "myocardium (none)", "left ventricle"]


def test_pixels_keep_their_proportions():
    image = np.zeros((1, 1, 50, 50))
    axes = preview_figure(image, image.astype(int), NAMES, (8, 2, 1)).axes[0]
    height, width, _ = axes.images[0].get_array().shape
    assert height / width == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("fill", [0.0, np.nan, -1000.0])
def test_an_image_without_contrast_is_still_drawn(tmp_path, fill):
    image = np.full((1, 2, 16, 16), fill, np.float32)
    if np.isnan(fill):
        image[0, 0, 0, 0] = 1
    save_preview(tmp_path / "a.png", preview_figure(image, np.zeros(image.shape, np.uint8), NAMES))
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_three_channels_are_shown_in_colour():
    image = np.zeros((1, 3, 2, 16, 16), np.float32)
    image[:, 0] = 1  # red
    labels = np.zeros((1, 2, 16, 16), np.uint8)
    tile = preview_figure(image, labels, NAMES).axes[0].images[0].get_array()
    assert tile[8, 8].tolist() == [255, 0, 0]
    image[0, :, 0, :8] = [[[0.0]], [[1.0]], [[0.0]]]  # rows green, in the first slice
    tile = preview_figure(image, labels, NAMES, orientation="SAR").axes[0].images[0].get_array()
    assert tile[2, 2].tolist() == [255, 0, 0] and tile[-2, 2].tolist() == [0, 255, 0], "turned as the label is"


def test_of_two_channels_the_first_is_shown():
    image = np.random.default_rng(0).random((1, 2, 1, 16, 16), np.float32)
    labels = np.zeros((1, 1, 16, 16), np.uint8)
    both, first = (preview_figure(array, labels, NAMES).axes[0].images[0].get_array() for array in (image, image[:, 0]))
    np.testing.assert_array_equal(both, first)


def test_images_and_labels_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"image of shape \(1, 2, 8, 8\), labels of \(1, 2, 8, 9\)"):
        preview_figure(np.zeros((1, 2, 8, 8)), np.zeros((1, 2, 8, 9), int), NAMES)


def test_a_real_ct_is_drawn_in_seconds(ct_dir, tmp_path):
    nib = pytest.importorskip("nibabel")
    image, labels = (np.asarray(nib.load(ct_dir / f"{name}.nii.gz").dataobj).T[None] for name in ("ct", "organs"))
    names = ("background", "aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "x")
    save_preview(tmp_path / "ct.png", preview_figure(image, labels, names, (3, 3, 3), orientation="SAR", name="ct"))
    liver, spleen = (tile_pixels(tmp_path / "ct.png", class_color(index))[1] for index in (5, 7))
    with Image.open(tmp_path / "ct.png") as picture:
        assert 1200 < picture.width <= 1600
        tile = picture.width / 5
    assert np.median(liver % tile) < tile / 2 < np.median(spleen % tile)  # the patient's right is on the left


def test_a_long_name_leaves_room_for_the_rest():
    image = np.zeros((1, 30, 64, 8))
    figure = preview_figure(image, image.astype(int), NAMES, name="$price_" * 60)
    name, details = figure.texts
    renderer = FigureCanvasAgg(figure).get_renderer()
    assert name.get_text().endswith("…")
    assert name.get_window_extent(renderer).x1 < details.get_window_extent(renderer).x0
