"""Strides and kernels of a network for volumes. The expected ones were worked out by nnU-Net's rule by hand."""

import pytest

from mamba_unet.models.levels import image_levels, scales, volume_levels

FLAT, EVEN, STAY = (1, 2, 2), (2, 2, 2), (1, 1, 1)


@pytest.mark.parametrize(
    ("spacing", "patch_size", "strides"),
    [
        pytest.param((5, 1.5625, 1.5625), (20, 256, 224), [FLAT, EVEN, EVEN, FLAT, FLAT], id="nnU-Net's plan of ACDC"),
        pytest.param((8, 1.5, 1.5), (10, 224, 224), [FLAT, FLAT, EVEN, FLAT, FLAT], id="ten slices are halved once"),
        pytest.param((8, 1.5, 1.5), (10, 96, 96), [FLAT, FLAT, EVEN, FLAT, STAY], id="a small patch stays 6 x 6"),
        pytest.param((1, 1, 1), (128, 128, 128), [EVEN] * 5, id="cubes"),
        pytest.param((1, 1, 1), (16, 128, 128), [EVEN, EVEN, FLAT, FLAT, FLAT], id="cubes, few slices"),
        pytest.param((1, 1, 1), (4, 4, 8), [STAY] * 5, id="one axis alone, too short"),
        pytest.param((1, 1, 1), (4, 4, 12), [(1, 1, 2), STAY], id="one axis alone"),
        pytest.param((1, 1, 3), (96, 96, 96), [(2, 2, 1), EVEN], id="thick along another axis"),
        pytest.param(None, None, [FLAT, FLAT, EVEN, EVEN, EVEN], id="nothing known"),
    ],
)
def test_axes_are_halved_once_they_are_about_as_coarse_as_the_others(spacing, patch_size, strides):
    levels = volume_levels(1 + len(strides), spacing, patch_size)
    assert [level.stride for level in levels] == [STAY, *strides]


def test_a_kernel_reaches_over_slices_once_they_are_near():
    levels = volume_levels(4, (8, 1.5, 1.5))
    assert [level.kernel for level in levels] == [(1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert all(
        level.kernel[axis] == 3
        for patch in ((64, 8, 8), (64, 64, 4))
        for level in volume_levels(6, (8, 1, 1), patch)
        for axis in range(3)
        if level.stride[axis] == 2
    ), "no voxel is passed over"


def test_scales_are_what_the_strides_multiply_up_to():
    assert scales(volume_levels(4, (8, 1.5, 1.5))) == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]
    assert scales(image_levels(3)) == [(1, 1), (2, 2), (4, 4)]


@pytest.mark.parametrize("bad", [{"spacing": (1, 1)}, {"spacing": (0, 1, 1)}, {"patch_size": (16, -1, 16)}])
def test_what_is_no_spacing_or_size_is_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be three positive numbers, of D, H and W"):
        volume_levels(3, **bad)
