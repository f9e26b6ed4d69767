import collections

import numpy as np
import pytest
import torch
from scipy import ndimage

from mamba_unet.views.augment import Augmentation, sample_augmentation
from mamba_unet.views.resample import resample


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((31, 24), dtype=np.float32) + 1


def test_identity_at_native_size_returns_the_slice(image):
    label = (image > 1.5).astype(np.uint8)
    for augmentation in (Augmentation(), Augmentation(angle_degrees=0.0)):
        new_image, new_label = (resample(array, image.shape, augmentation) for array in (image, label))
        assert np.array_equal(new_image, image) and np.array_equal(new_label, label)
        assert new_image.dtype == np.float32 and new_label.dtype == np.uint8


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_turns_and_flips_equal_numpys_at_native_size(image, turns, axis):
    expected = np.rot90(image, turns)
    expected = expected if axis is None else np.flip(expected, axis)
    result = resample(image, expected.shape, Augmentation(turns, axis))
    assert np.array_equal(result, expected)
    assert result.flags.c_contiguous


@pytest.mark.parametrize("size", [(224, 224), (17, 50), (62, 48), (10, 8), (1, 1)])
def test_resizing_is_torchs_nearest_exact(image, size):
    result = resample(image, size)
    expected = torch.nn.functional.interpolate(torch.from_numpy(image)[None, None], size, mode="nearest-exact")
    assert np.array_equal(result, expected[0, 0].numpy())


@pytest.mark.parametrize("angle", [-20, -7, 3, 20])
def test_rotation_is_scipys_nearest_rotation(image, angle):
    result = resample(image, image.shape, Augmentation(angle_degrees=angle))
    expected = ndimage.rotate(image, angle, order=0, reshape=False, prefilter=False)
    # scipy takes a point half a pixel outside as outside, we do not: pixels on the rim may differ
    assert (result == expected)[2:-2, 2:-2].mean() > 0.98
    assert result[0, 0] == 0  # what comes from outside is background


def test_rotation_by_a_right_angle_equals_a_quarter_turn():
    image = np.arange(1, 82, dtype=np.float32).reshape(9, 9)
    result = resample(image, (9, 9), Augmentation(angle_degrees=90))
    assert np.array_equal(result, np.rot90(image))


def test_image_and_label_move_together(image):
    label = np.round(10 * image).astype(np.uint8)
    result, moved = (resample(array, (40, 40), Augmentation(1, 0, 13)) for array in (image, label))
    assert np.array_equal(np.round(10 * result).astype(np.uint8), moved)


def test_turn_and_rotation_compose_into_one_resampling(image):
    both = resample(image, (24, 31), Augmentation(1, 1, 12))
    turned = resample(image, (24, 31), Augmentation(1, 1))
    after = resample(turned, (24, 31), Augmentation(angle_degrees=12))
    assert np.array_equal(both, after)


def test_sampling_follows_the_recipe():
    rng = np.random.default_rng(0)
    drawn = [sample_augmentation(rng) for _ in range(8000)]
    kinds = collections.Counter(
        "turn" if a.flip_axis is not None else "rotate" if a.angle_degrees else "none" for a in drawn
    )
    assert kinds["turn"] / 8000 == pytest.approx(0.5, abs=0.02)
    assert kinds["rotate"] / 8000 == pytest.approx(0.25 * 40 / 41, abs=0.02)
    angles = {a.angle_degrees for a in drawn}
    assert angles == set(range(-20, 21))
    assert {(a.quarter_turns, a.flip_axis) for a in drawn if a.flip_axis is not None} == {
        (turns, axis) for turns in range(4) for axis in range(2)
    }
    assert all(a.quarter_turns == 0 for a in drawn if a.angle_degrees)
