import itertools

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mamba_unet.views.windows import cut, gaussian, place_window, starts


@pytest.mark.parametrize("side", range(1, 40))
def test_windows_cover_an_axis_and_share_half_or_more_with_their_neighbours(side):
    found = starts(side, 8)
    assert {pixel for start in found for pixel in range(start, start + 8)} >= set(range(side))
    assert all(0 < after - before <= 4 for before, after in itertools.pairwise(found))


def test_a_window_is_filled_outside_and_exact_inside():
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    window = cut(array, (-1, 2, 1), (3, 4, 2), -7)
    assert np.array_equal(window[:, 1:, :2], array[:, :2, 2:4, 1:3])
    assert (window[:, 0] == -7).all() and (window[:, :, 2:] == -7).all() and window.flags.c_contiguous


def test_weights_are_those_of_every_axis_and_largest_in_the_middle():
    weights = gaussian((5, 9, 7))
    assert weights.shape == (5, 9, 7) and weights.max() == weights[2, 4, 3] == 1
    assert np.array_equal(weights, weights[::-1, ::-1, ::-1]) and weights.min() > 0


def test_weights_are_a_bell_of_an_eighth_of_the_side():
    """As nnU-Net's: a point, blurred."""
    point = np.zeros((33, 17))
    point[16, 8] = 1
    bell = gaussian_filter(point, [33 / 8, 17 / 8], mode="constant")
    assert np.allclose(gaussian((33, 17)), bell / bell.max(), atol=2e-3)


def test_a_window_around_a_voxel_holds_it_and_stays_inside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        sides = rng.integers(3, 20, 3)
        centre = tuple(int(rng.integers(side)) for side in sides)
        corner = place_window(sides, (6, 6, 6), centre, rng)
        for start, at, side in zip(corner, centre, sides, strict=True):
            assert start <= at < start + 6 or side < 6
            assert 0 <= start <= side - 6 if side >= 6 else start <= 0 and start + 6 >= side
