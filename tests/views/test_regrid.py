import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mamba_unet.views.labels import IGNORE
from mamba_unet.views.regrid import Regrid, back_taps


@pytest.fixture
def image():
    return np.random.default_rng(0).random((2, 7, 20, 18), dtype=np.float32)


def test_the_grid_of_another_voxel_size_covers_the_same_space():
    regrid = Regrid.to_spacing((10, 256, 216), (5.0, 1.5625, 1.5625), (10.0, 1.25, 1.25))
    assert regrid.target == (5, 320, 270) and regrid.apart
    assert not Regrid.to_spacing((10, 9, 8), (3, 1, 1), (2, 1, 1)).apart
    assert Regrid.to_spacing((5, 9, 9), (2, 1, 1), (4, 1, 1)).apart, "the grid's slices are apart"
    assert Regrid.to_spacing((5, 9, 9), (4, 1, 1), (2, 1, 1)).apart, "the image's are"
    assert Regrid.to_spacing((5, 9, 9), (2, 1, 1), (3, 1.2, 1.2)).target == (3, 8, 8), "to the nearest"
    assert Regrid.to_spacing((1, 4, 4), (1, 1, 1), (9, 1, 1)).target == (1, 4, 4)


def test_the_same_grid_changes_nothing(image):
    same = Regrid((7, 20, 18), (7, 20, 18))
    label = image[0]
    assert same.image(image) is image and same.label(label) is label and not same.changes


def test_images_are_read_cubically_along_all_axes_within_their_values(image):
    """Along an axis that grows torch's bicubic reading of any plane that holds the axis is the same."""
    finer = Regrid((7, 20, 18), (13, 20, 18)).image(image)
    planes = torch.from_numpy(image).permute(0, 3, 1, 2)  # C W D H
    expected = F.interpolate(planes, (13, 20), mode="bicubic", antialias=True).permute(0, 2, 3, 1).numpy()
    assert np.allclose(finer, np.clip(expected, image.min(), image.max()), atol=1e-2)
    coarse = Regrid((7, 20, 18), (3, 9, 8)).image(image)
    assert coarse.shape == (2, 3, 9, 8) and coarse.std() < 0.5 * image.std()  # averaged, not picked
    assert coarse.mean() == pytest.approx(image.mean(), abs=0.02)


@pytest.mark.parametrize("target", [(14, 40, 36), (9, 11, 10), (28, 33, 18)])
def test_a_ramp_stays_where_it_is(target):
    """Voxels are volumes: a linear image keeps its values at every place in space, away from the rim."""
    where = [(np.arange(n) + 0.5) / n for n in (28, 40, 36)]
    ramp = (where[0][:, None, None] + 2 * where[1][:, None] + 4 * where[2])[None].astype(np.float32)
    found = Regrid((28, 40, 36), target).image(ramp)[0]
    there = [(np.arange(n) + 0.5) / n for n in target]
    expected = there[0][:, None, None] + 2 * there[1][:, None] + 4 * there[2]
    inner = tuple(slice(n // 4, n - n // 4) for n in target)
    assert np.allclose(found[inner], expected[inner], atol=0.02)


def test_slices_that_are_far_apart_are_taken_not_mixed(image):
    regrid = Regrid((7, 20, 18), (14, 20, 18), apart=True)
    assert np.array_equal(regrid.image(image), image.repeat(2, axis=1))
    assert np.array_equal(regrid.label(image[0]), image[0].repeat(2, axis=0))


def test_a_label_takes_the_value_of_the_largest_share_and_no_other():
    label = np.zeros((6, 8, 8), np.uint8)
    label[:, :, 3:] = 2
    label[:, :, 6:] = IGNORE
    finer = Regrid(label.shape, (12, 16, 24)).label(label)
    assert finer.dtype == np.uint8 and np.array_equal(finer, np.broadcast_to(label[0, 0].repeat(3), (12, 16, 24)))
    coarse = Regrid(label.shape, (3, 4, 4)).label(label)
    assert set(np.unique(coarse)) <= {0, 2, IGNORE}
    assert np.array_equal(np.unique(Regrid(label.shape, (6, 8, 8)).label(label)), [0, 2, IGNORE])


@pytest.mark.parametrize("target", [(4, 20, 20), (3, 13, 17), (8, 60, 60)])
def test_scribbles_are_not_outvoted_by_what_is_not_marked(target):
    """A stroke stays a stroke, one voxel wide, of the class that lies there."""
    truth = np.zeros((6, 40, 40), np.uint8)
    truth[:, 10:30, 10:30] = 2
    scribble = np.full_like(truth, IGNORE)
    scribble[:, range(12, 28), range(12, 28)], scribble[:, range(1, 9), range(31, 39)] = 2, 0
    regrid = Regrid(scribble.shape, target)
    moved = regrid.label(scribble)
    assert np.array_equal(moved[moved != IGNORE], regrid.label(truth)[moved != IGNORE])
    for value in (0, 2):
        assert 0.4 < (moved == value).mean() / (scribble == value).mean() < 3.5


def test_slices_come_back_between_those_around_them():
    assert back_taps(3, 3) == [(0, 0, 0.0), (1, 1, 0.0), (2, 2, 0.0)]
    values = np.array([0.0, 1.0, 2.0])
    found = [(1 - share) * values[low] + share * values[high] for low, high, share in back_taps(3, 6)]
    assert np.allclose(found, [0, 0.25, 0.75, 1.25, 1.75, 2])
    assert [low for low, _, _ in back_taps(9, 3)] == [1, 4, 7]
