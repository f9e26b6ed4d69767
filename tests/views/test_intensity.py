import numpy as np
import pytest

from mamba_unet.views.intensity import MINMAX, ZSCORE, intensity_rule, normalise_intensity, percentiles, window


def test_minmax_takes_the_volume_as_a_whole():
    image = np.array([[[10, 20]], [[30, 50]]], np.int16)
    result = normalise_intensity(image, {"method": "minmax"})
    assert result.dtype == np.float32
    assert np.array_equal(result, np.float32([[[0, 0.25]], [[0.5, 1]]]))


def test_window_scales_and_clips():
    image = np.array([-1000.0, -125, 75, 275, 3000])
    assert np.array_equal(normalise_intensity(image, window(-125, 275)), np.float32([0, 0, 0.5, 1, 1]))


def test_scaling_twice_changes_nothing():
    image = normalise_intensity(np.random.default_rng(0).normal(size=(2, 5, 5)), MINMAX)
    assert np.array_equal(normalise_intensity(image, MINMAX), image)


def test_constant_image_becomes_one_value():
    assert not normalise_intensity(np.full((1, 2, 2), 7), MINMAX).any()
    assert (normalise_intensity(np.full((1, 2, 2), 7), ZSCORE) == 0.5).all()


def test_z_scores_are_brought_around_one_half():
    image = np.random.default_rng(0).normal(-300, 40, (3, 20, 20))
    expected = 0.5 + (image - image.mean()) / image.std() / 6
    assert np.allclose(normalise_intensity(image, ZSCORE), expected, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused(bad):
    image = np.array([0, 1, bad])
    with pytest.raises(ValueError, match=r"NaN or infinite values.* in 1 of 3 voxels; .*np\.where") as error:
        normalise_intensity(image, window(0, 1))
    remedy = str(error.value).split("as ")[-1].split(" does")[0]
    assert np.array_equal(normalise_intensity(eval(remedy, {"np": np, "array": image}), window(0, 1)), [0, 1, 0])


@pytest.mark.parametrize(
    "rule",
    [
        {"method": "zscore", "low": 3},
        {"method": "window", "low": 3, "high": 3},
        {"method": "window", "low": 3},
        {"method": "minmax", "low": 3},
        {},
    ],
)
def test_unknown_rules_are_refused(rule):
    with pytest.raises(ValueError, match="unknown intensity rule"):
        intensity_rule(rule)


def test_a_rule_has_one_spelling():
    assert repr(intensity_rule({"method": "window", "low": -125, "high": 275})) == repr(window(-125.0, 275.0))


def test_an_image_of_few_bright_voxels_is_not_made_black_by_its_percentiles():
    image = np.zeros(1000)
    image[:3] = 1, 2, 4
    assert np.array_equal(normalise_intensity(image, percentiles())[:4], np.float32([0.25, 0.5, 1, 0]))
    assert not normalise_intensity(np.full(9, 7.0), percentiles()).any()
