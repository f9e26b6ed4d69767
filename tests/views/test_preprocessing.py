import numpy as np
import pytest

from mamba_unet.views.intensity import COLOUR, MINMAX, window
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.volume import Volume


def test_it_comes_back_from_json_under_a_format_number():
    preprocessing = Preprocessing((MINMAX, window(-125, 275)), "SPL", Slices((32, 48)))
    said = preprocessing.to_json()
    assert said["format"] == 1 and Preprocessing.from_json(said) == preprocessing and preprocessing.channels == 2
    with pytest.raises(ValueError, match="format 7, this version reads 1"):
        Preprocessing.from_json({**said, "format": 7})


def test_what_differs_is_named():
    ours, theirs = Preprocessing((MINMAX,)), Preprocessing((window(0, 9),), "SPL")
    ours.require_same(theirs, "a", "b", ())
    with pytest.raises(ValueError, match=r"a and b prepare images in different ways \(intensity: .*minmax.*window"):
        ours.require_same(theirs, "a", "b", ("intensity",))
    with pytest.raises(ValueError, match="a has 1 channel, b has 2: a network reads"):
        ours.require_same(Preprocessing((MINMAX, MINMAX)), "a", "b", ("intensity",))
    with pytest.raises(ValueError, match="orientation: None and SPL"):
        ours.require_same(theirs, "a", "b", ("intensity", "orientation"))


def test_every_channel_is_scaled_by_its_own_rule():
    image = np.stack([np.full((1, 2, 2), 5.0), np.arange(4.0).reshape(1, 2, 2)])
    scaled = Preprocessing((window(0, 10), MINMAX)).scale_frame(image)
    assert scaled.dtype == np.float32 and (scaled[0] == 0.5).all()
    assert np.allclose(scaled[1].ravel(), [0, 1 / 3, 2 / 3, 1])


def test_channels_are_fitted_without_a_guess(caplog):
    grey = Volume.from_array(np.arange(12.0).reshape(3, 4))
    colour = Volume.from_array(np.random.default_rng(0).random((3, 4, 3)), channel_axis=-1)
    frames = Volume.from_array(np.random.default_rng(0).random((4, 2, 3, 4)))
    one, three, four = Preprocessing((MINMAX,)), Preprocessing((COLOUR,) * 3), Preprocessing((MINMAX,) * 4)
    assert one.fit_channels(grey) is grey and three.fit_channels(colour) is colour and not caplog.records
    assert three.fit_channels(grey).channels == 3 and "a grey image for a network of three channels" in caplog.text
    assert np.array_equal(four.fit_channels(frames).array[0], frames.grey) and four.fit_channels(frames).frames == 1
    with pytest.raises(UnreadableError, match="a colour image, and the network takes 1 channel; convert it to grey"):
        one.fit_channels(colour)
    with pytest.raises(UnreadableError, match="1 channel, and the network takes 4 channels; give one file per channel"):
        four.fit_channels(grey)


def test_only_a_window_that_would_leave_nothing_of_an_image_is_passed_over():
    volume = Volume.from_array(np.random.default_rng(0).random((2, 8, 8)).astype(np.float32))
    assert Preprocessing((window(-125, 275),)).is_scaled(volume)
    assert not Preprocessing((window(0, 5),)).is_scaled(volume)
