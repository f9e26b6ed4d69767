import dataclasses

import numpy as np
import pytest

from mamba_unet.views.labels import IGNORE
from mamba_unet.views.nnunet_augment import (
    NnunetAugmentation,
    change_intensities,
    sample_nnunet,
    warp,
    warp_patch,
)
from mamba_unet.views.patches import Patches
from mamba_unet.views.slices import Slices

INTENSITIES = ("brightness", "contrast", "resolution", "gamma", "gamma_inverted")
NOTHING = NnunetAugmentation(0.0, 1.0, (False, False), (0,), 0, (0,), (1,), (1,), (1,), (1,), (1,))


@pytest.fixture
def image():
    return np.random.default_rng(0).random((1, 12, 9), dtype=np.float32)


@pytest.fixture
def label():
    return np.random.default_rng(1).integers(0, 4, (12, 9)).astype(np.uint8)


def changed(**values):
    return dataclasses.replace(NOTHING, **values)


def test_without_a_change_the_window_is_cut_out_and_filled(image, label):
    warped, truth = warp(image, label, (-1, 2), (14, 9), NOTHING, outside=IGNORE)
    np.testing.assert_allclose(warped[:, 1:13, :7], image[..., 2:], atol=1e-6)
    assert np.array_equal(truth[1:13, :7], label[:, 2:])
    for array, fill in ((warped[0], 0), (truth, IGNORE)):
        assert (array[0] == fill).all() and (array[13] == fill).all() and (array[:, 7:] == fill).all()
    assert warped.dtype == np.float32 and truth.dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"flips": (True, False)}, lambda x: x[..., ::-1, :]),
        ({"flips": (False, True)}, lambda x: x[..., ::-1]),
        ({"angle_degrees": 90.0}, lambda x: np.rot90(x, 1, (-2, -1))),
        ({"angle_degrees": -90.0, "flips": (True, True)}, lambda x: np.rot90(x, 1, (-2, -1))),
    ],
)
def test_mirrors_and_quarter_turns_are_exact_and_the_same_for_image_and_label(image, label, values, expected):
    image, label = image[:, :9], label[:9]
    warped, truth = warp(image, label, (0, 0), (9, 9), changed(**values), 0)
    np.testing.assert_allclose(warped, expected(image), atol=1e-5)
    assert np.array_equal(truth, expected(label))


def test_zoom_two_shows_the_middle_twice_as_large():
    label = np.zeros((16, 16), np.uint8)
    label[6:10, 5:11] = 1
    image, truth = warp(label[None].astype(np.float32), label, (0, 0), (16, 16), changed(zoom=2.0), 0)
    assert truth[4:12, 2:14].all() and truth.sum() == 4 * label.sum()
    assert image.sum() == pytest.approx(4 * label.sum(), rel=0.01)


def test_each_intensity_change_does_what_it_says(image):
    image = np.repeat(np.repeat(image, 8, axis=1), 8, axis=2)

    def change(**values):
        return change_intensities(image, changed(**values))

    assert np.array_equal(change(), image)
    assert change(noise=(0.5,), noise_seed=3).std() == pytest.approx(image.std() * 1.25**0.5, rel=0.02)
    assert np.array_equal(change(noise=(0.5,), noise_seed=3), change(noise=(0.5,), noise_seed=3))
    noisy = {"noise": (0.5, 0.5), "blur": (0, 0), **dict.fromkeys(INTENSITIES, (1, 1)), "noise_seed": 3}
    both = change_intensities(np.concatenate([image, image]), changed(**noisy))
    assert not np.allclose(both[0], both[1]), "each channel has a noise of its own"
    assert np.abs(np.diff(change(blur=(1.0,)))).max() < 0.5 * np.abs(np.diff(image)).max()
    np.testing.assert_allclose(change(brightness=(0.8,)), 0.8 * image, rtol=1e-6)
    assert change(contrast=(0.8,)).std() == pytest.approx(0.8 * image.std(), rel=1e-3)
    high = change(contrast=(1.25,))
    assert high.min() >= image.min() and high.max() <= image.max()
    assert change(resolution=(0.5,)).mean() == pytest.approx(image.mean(), abs=0.02)
    for name in ("gamma", "gamma_inverted"):
        values = change(**{name: (1.4,)})
        assert not np.allclose(values, image)
        assert (values.mean(), values.std()) == (pytest.approx(image.mean(), 1e-3), pytest.approx(image.std(), 1e-3))
        assert np.array_equal(values.ravel().argsort(kind="stable"), image.ravel().argsort(kind="stable"))


def test_a_channel_that_is_constant_stays_finite():
    how = changed(noise=(0.3,), blur=(1.0,), contrast=(1.2,), resolution=(0.5,), gamma_inverted=(0.7,), gamma=(1.5,))
    assert np.isfinite(change_intensities(np.full((1, 16, 16), 0.5, np.float32), how)).all()


def test_each_change_comes_as_often_as_nnunets():
    rng = np.random.default_rng(0)
    drawn = [sample_nnunet(rng, 1, (224, 224)) for _ in range(6000)]

    def share(happened):
        return pytest.approx(np.mean([happened(one) for one in drawn]), abs=0.02)

    assert share(lambda one: one.angle_degrees != 0) == 0.2 and share(lambda one: one.zoom != 1) == 0.2
    assert share(lambda one: one.flips[0]) == 0.5 and share(lambda one: one.flips[1]) == 0.5
    assert share(lambda one: one.noise[0] > 0) == 0.1 and share(lambda one: one.blur[0] > 0) == 0.1
    assert share(lambda one: one.brightness[0] != 1) == 0.15 and share(lambda one: one.contrast[0] != 1) == 0.15
    assert share(lambda one: one.resolution[0] != 1) == 0.125
    assert share(lambda one: one.gamma_inverted[0] != 1) == 0.1 and share(lambda one: one.gamma[0] != 1) == 0.3
    assert 0.7 <= min(one.zoom for one in drawn) < 0.75 and 1.35 < max(one.zoom for one in drawn) <= 1.4
    assert max(abs(one.angle_degrees) for one in drawn) > 170
    long = [sample_nnunet(rng, 1, (100, 200)) for _ in range(500)]
    assert 10 < max(abs(one.angle_degrees) for one in long) <= 15


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_a_sample_of_several_channels_is_decided_by_its_generator_alone(fit):
    rng = np.random.default_rng(0)
    image = rng.random((2, 3, 30, 20), dtype=np.float32)
    label = rng.integers(0, 3, (3, 30, 20)).astype(np.uint8)
    view = Slices((24, 24), fit=fit, image="smooth", outside="ignore")
    seen = []
    for seed in range(30):
        one, two = (view.draw(image, label, 1, np.random.default_rng(seed), "nnunet") for _ in range(2))
        assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
        assert one[0].shape == (2, 24, 24) and one[0].dtype == np.float32 and np.isfinite(one[0]).all()
        assert one[1].shape == (24, 24) and set(np.unique(one[1])) <= {0, 1, 2, IGNORE}
        seen.append(one[0].sum())
    assert len(set(seen)) > 10


PATCH = (7, 9, 9)


def turned(**values):
    return changed(**{"flips": (False, False, False), **values})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"flips": (True, False, True)}, lambda x: x[..., ::-1, :, ::-1]),
        ({"angle_degrees": 90.0}, lambda x: np.rot90(x, 1, (-2, -1))),
        ({"angle_degrees": 90.0, "flips": (True, True, False)}, lambda x: np.rot90(x, 1, (-2, -1))[..., ::-1, ::-1, :]),
        ({"tilts_degrees": (90.0, 0.0)}, lambda x: np.rot90(x, 1, (-3, -1))),
        ({"tilts_degrees": (0.0, -90.0)}, lambda x: np.rot90(x, -1, (-3, -2))),
    ],
)
def test_a_patch_is_turned_about_three_axes_exactly_and_its_label_with_it(values, expected):
    rng = np.random.default_rng(0)
    image, label = rng.random((2, 9, 9, 9), dtype=np.float32), rng.integers(0, 4, (9, 9, 9)).astype(np.uint8)
    warped, truth = warp_patch(image, label, (0, 0, 0), (9, 9, 9), turned(**values), 0)
    np.testing.assert_allclose(warped, expected(image), atol=1e-4)
    assert np.array_equal(truth, expected(label)) and truth.flags.c_contiguous


@pytest.mark.parametrize("corner", [(0, 0, 0), (5, 11, -3), (-2, 20, 8)])
def test_only_the_box_around_a_patch_is_read_and_it_is_enough(corner):
    """The patch of a volume is the patch of the same volume with much more around it, moved."""
    rng = np.random.default_rng(0)
    image, label = rng.random((1, 12, 25, 16), dtype=np.float32), rng.integers(1, 4, (12, 25, 16)).astype(np.uint8)
    around = [(0, 0), (9, 5), (4, 8), (7, 6)]
    padded, marked = np.pad(image, around), np.pad(label, around[1:], constant_values=IGNORE)
    how = turned(angle_degrees=20.0, tilts_degrees=(-10.0, 25.0), zoom=0.8, flips=(False, True, False))
    patch, truth = warp_patch(image, label, corner, PATCH, how, IGNORE)
    moved = tuple(start + before for start, (before, _) in zip(corner, around[1:], strict=True))
    again, known = warp_patch(padded, marked, moved, PATCH, how, IGNORE)
    np.testing.assert_allclose(patch, again, atol=1e-4)
    assert np.mean(truth != known) < 0.01  # a rim may round to either side
    assert (truth != IGNORE).any()


def test_a_flat_patch_is_changed_within_its_slices_as_nnunets_dummy_2d():
    drawn = [sample_nnunet(np.random.default_rng(seed), 1, (16, 256, 224)) for seed in range(400)]
    assert all(one.within_slices and one.tilts_degrees == (0, 0) and len(one.flips) == 3 for one in drawn)
    assert max(abs(one.angle_degrees) for one in drawn) > 150
    solid = [sample_nnunet(np.random.default_rng(seed), 1, (64, 96, 96)) for seed in range(400)]
    assert not any(one.within_slices for one in solid)
    assert 20 < max(abs(one.angle_degrees) for one in solid) <= 30 and any(one.tilts_degrees[1] for one in solid)

    stack = np.random.default_rng(0).random((1, 4, 24, 24), dtype=np.float32)
    how = turned(angle_degrees=33.0, zoom=1.3, blur=(0.8,), resolution=(0.6,), within_slices=True)
    label = (stack[0] > 0.5).astype(np.uint8)
    patch, truth = warp_patch(stack, label, (0, 0, 0), stack.shape[1:], how, 0)
    patch = change_intensities(patch, how)
    for number in range(4):  # a slice knows nothing of the others
        alone = stack[:, number : number + 1], label[number : number + 1]
        one, mark = warp_patch(*alone, (0, 0, 0), (1, 24, 24), how, 0)
        np.testing.assert_allclose(change_intensities(one, how)[:, 0], patch[:, number], atol=1e-5)
        assert np.array_equal(mark[0], truth[number])


@pytest.mark.parametrize("size", [(4, 24, 24), (16, 20, 24)])
def test_a_patch_is_decided_by_its_generator_alone(size):
    rng = np.random.default_rng(0)
    image, label = rng.random((2, 9, 30, 20), dtype=np.float32), rng.integers(0, 3, (9, 30, 20)).astype(np.uint8)
    view, seen = Patches(size, None), []
    for seed in range(25):
        one, two = (view.draw(image, label, 0, np.random.default_rng(seed), "nnunet") for _ in range(2))
        assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
        assert one[0].shape == (2, *size) and one[0].dtype == np.float32 and np.isfinite(one[0]).all()
        assert one[1].shape == size and set(np.unique(one[1])) <= {0, 1, 2, IGNORE}
        seen.append(one[0].sum())
    assert len(set(seen)) > 10


def test_a_flat_patch_turns_by_any_angle_whatever_its_sides():
    """As nnU-Net's second version has it; 15 degrees are for long slices alone."""
    drawn = [sample_nnunet(np.random.default_rng(seed), 1, (8, 128, 64)) for seed in range(300)]
    assert all(one.within_slices for one in drawn) and max(abs(one.angle_degrees) for one in drawn) > 150
