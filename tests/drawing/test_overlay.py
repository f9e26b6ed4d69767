"""Slices as pictures: grey and colour, tints and outlines."""

import numpy as np

from mamba_unet.drawing.colors import PALETTE, class_color
from mamba_unet.drawing.overlay import overlay, picture


def rgb(color):
    return [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def test_overlay_tints_inside_outlines_the_edge_and_leaves_the_background():
    label = np.zeros((10, 10), int)
    label[2:8, 2:8] = 2
    picture = overlay(np.full((10, 10), 0.5), label, height=100)
    assert picture.shape == (100, 100, 3) and picture.dtype == np.uint8
    assert picture[5, 5].tolist() == [128, 128, 128]
    assert picture[20, 50].tolist() == rgb(class_color(2))
    expected = 0.6 * 127.5 + 0.4 * np.array(rgb(class_color(2)))
    np.testing.assert_allclose(picture[50, 50], expected, atol=1)


def test_overlay_without_label_is_grey_and_keeps_the_proportions():
    image = np.tile([0.0, 1.0], (6, 3))
    picture = overlay(image, pixel_size=(3.0, 1.5), height=60)
    assert picture.shape == (60, 30, 3)
    assert picture[0, 0].tolist() == [0, 0, 0] and picture[0, -1].tolist() == [255, 255, 255]


def test_classes_have_colours_of_their_own():
    assert class_color(1) == PALETTE[0]
    assert len({class_color(index) for index in range(1, 255)}) == 254


def test_three_channels_are_shown_in_colour_and_others_by_the_first():
    image = np.random.default_rng(0).random((3, 4, 5, 6))
    assert picture(image, 2).shape == (5, 6, 3)
    np.testing.assert_array_equal(picture(image, 2)[..., 1], image[1, 2])
    for channels in (1, 2, 4):
        several = np.random.default_rng(0).random((channels, 4, 5, 6))
        np.testing.assert_array_equal(picture(several, 2), several[0, 2])
    np.testing.assert_array_equal(picture(image[0], 3), image[0, 3])


def test_overlay_keeps_the_colours_of_the_image():
    image = np.zeros((4, 4, 3))
    image[..., 0] = 1
    shown = overlay(image, np.zeros((4, 4), int), height=8)
    assert shown.shape == (8, 8, 3) and (shown == [255, 0, 0]).all()


def test_pixels_without_ground_truth_stay_as_they_are():
    label = np.full((4, 4), 255)
    assert (overlay(np.full((4, 4), 0.5), label, height=4) == 128).all()
