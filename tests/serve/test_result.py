"""What is shown of a volume with channels, and where one looks first."""

import nibabel as nib
import numpy as np
import pytest

from mamba_unet.inference import Segmentation
from mamba_unet.serve.result import IMAGE, _focus, write_image, write_result
from mamba_unet.volumes.volume import Volume


def shown(folder, predictor, array, affine=None):
    facts = write_image(folder, Volume("a", array, affine), predictor, "z")
    return facts, nib.load(folder / IMAGE)


@pytest.mark.parametrize("dtype, scale", [(np.uint8, 1), (np.uint16, 257), (np.float32, 1 / 255)])
def test_three_channels_of_a_picture_are_its_colours(tmp_path, predictor, dtype, scale):
    colors = np.random.default_rng(0).integers(0, 256, (1, 3, 1, 5, 7))
    colors[0, 0, 0, 0, 0] = 255
    facts, image = shown(tmp_path, predictor, (colors * scale).astype(dtype))
    assert facts["color"] and facts["windows"] == [] and facts["shape"] == (7, 5, 1)
    stored = np.asarray(image.dataobj)
    for channel, name in enumerate("RGB"):
        assert abs(stored[name][..., 0].T.astype(int) - colors[0, channel, 0]).max() <= 1


def test_of_several_modalities_the_first_is_shown(tmp_path, predictor):
    array = np.arange(2 * 4 * 2 * 3 * 5, dtype=np.int16).reshape(2, 4, 2, 3, 5)
    facts, image = shown(tmp_path, predictor, array, np.eye(4))
    assert not facts["color"] and facts["frames"] == 2
    assert np.array_equal(np.asarray(image.dataobj).T, array[:, 0])
    three = np.zeros((1, 3, 2, 3, 5), np.int16)  # sequences of an MR, say
    assert not shown(tmp_path, predictor, three, np.eye(4))[0]["color"]


def test_one_looks_first_at_the_middle_of_the_segmented_slices():
    label = np.zeros((9, 10, 10), np.uint8)
    assert _focus(label, 0) is None
    label[2, :, :] = 1  # the fullest
    label[3, 5, 5] = label[4, 2:5, 6:9] = label[5, 5, 5] = label[6, 5, 5] = 1
    assert _focus(label, 0) == [7, 3, 4]


def test_in_what_an_image_does_not_fit_and_what_its_file_says_is_told(tmp_path):
    label = np.zeros((1, 2, 3, 4), np.uint8)
    volume = Volume("a", label[:, None].astype(np.float32), np.eye(4), (1.0, 1.0, 1.0), notes=("a slice is missing",))
    given = Segmentation(volume, label, volume.array, ["background", "heart"], 0, misfits=["pixels are 9 mm"])
    told = write_result(tmp_path, given)
    assert told["misfits"] == ["pixels are 9 mm"] and told["notes"] == ["a slice is missing"]
