"""Voxel sizes, positions and turns, against answers that can be computed by hand."""

from itertools import permutations, product

import numpy as np
import pytest

from mamba_unet.volumes.geometry import Turn, misplacement, singular, through_plane, voxel_size_mm
from mamba_unet.volumes.volume import Volume

STEPS = np.diag([2.0, 3.0, 5.0])  # of X, Y, Z in mm
TURNED = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


def affine_of(axes: np.ndarray, origin=(7.0, -8.0, 9.0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    return affine


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_sizes_of_right_angled_axes_are_their_lengths_however_they_lie(order):
    affine = affine_of(TURNED @ STEPS[:, order])
    assert voxel_size_mm(affine) == tuple(STEPS.sum(0)[list(order)][::-1])


@pytest.mark.parametrize(("leaning", "towards"), list(permutations(range(3), 2)))
def test_an_axis_that_leans_counts_by_the_distance_of_its_planes(leaning, towards):
    """A tilt within one plane: the two axes at right angles keep their lengths, the volume is the determinant."""
    axes = STEPS.copy()
    axes[:, leaning] += 0.25 * STEPS[:, towards]
    sizes = voxel_size_mm(affine_of(TURNED @ axes))
    assert np.prod(sizes) == pytest.approx(30, abs=1e-4)
    (upright,) = {0, 1, 2} - {leaning, towards}
    lengths = np.linalg.norm(axes, axis=0)
    assert sizes[2 - upright] == pytest.approx(lengths[upright], abs=1e-6)
    kept = [axis for axis in (leaning, towards) if sizes[2 - axis] == pytest.approx(lengths[axis], abs=1e-6)]
    assert len(kept) == 1  # the other one is shorter than its length by the cosine of the tilt


def test_voxels_of_microns_lean_as_large_ones_do():
    axes = 1e-2 * STEPS
    axes[:, 1] += 0.5 * axes[:, 0]
    assert np.prod(voxel_size_mm(affine_of(axes))) == pytest.approx(30e-6, rel=1e-4)


def test_where_all_axes_lean_the_product_is_the_volume_of_a_voxel():
    axes = STEPS.copy()
    axes[:, 1] += 0.5 * STEPS[:, 0]
    axes[:, 2] += 0.3 * STEPS[:, 0] + 0.4 * STEPS[:, 1]
    for order in permutations(range(3)):
        mirrored = axes[:, order] * [1, -1, 1]
        assert np.prod(voxel_size_mm(affine_of(mirrored))) == pytest.approx(30, abs=1e-4)


def test_an_angle_of_rounding_is_a_right_one_and_a_size_is_told_to_the_nanometre():
    axes = STEPS.copy()
    axes[0, 1] = 0.9e-3 * 3
    assert voxel_size_mm(affine_of(axes))[1] == pytest.approx(3 * (1 + 0.9e-3**2) ** 0.5, abs=5e-7)  # its length
    axes[0, 1] = 1.2e-3 * 3
    assert voxel_size_mm(affine_of(axes))[1] == 3  # the distance of its planes
    assert voxel_size_mm(affine_of(np.diag([1.0000004, 1.0000006, 1]))) == (1, 1.000001, 1)


def test_an_axis_without_length_gives_a_size_of_zero():
    assert voxel_size_mm(affine_of(np.diag([2.0, 0, 5]))) == (5, 0, 2)


def test_an_affine_is_singular_that_loses_a_direction_or_a_number():
    assert not singular(affine_of(STEPS)) and not singular(affine_of(1e-6 * STEPS))
    assert singular(affine_of(np.diag([1.0, 0, 1]))) and singular(affine_of(np.ones((3, 3))))
    assert singular(affine_of(STEPS, (0, np.nan, 0)))
    thin = np.array([[1, 1, 0], [0, 2e-9, 0], [0, 0, 1]])
    assert not singular(affine_of(thin)) and singular(affine_of(thin * [1, 1, 1] - np.diag([0, 1.5e-9, 0])))


@pytest.mark.parametrize(
    ("spacing", "axis"), [((7.5, 5, 2), 0), ((2, 7.4, 5), None), ((1, 1, 1.5), 2), ((3, 3, 1), None)]
)
def test_slices_lie_across_an_axis_whose_step_is_half_as_long_again(spacing, axis):
    assert through_plane(spacing) == axis


@pytest.fixture
def volume() -> Volume:
    return Volume("a", np.zeros((1, 1, 4, 5, 6)), affine_of(TURNED @ STEPS))


def moved(volume: Volume, change: np.ndarray) -> Volume:
    """The same with its voxels (X, Y, Z) at `change` of where they are."""
    return Volume("b", volume.array, volume.affine @ change)


def test_a_shift_is_told_in_voxels_of_the_image(volume):
    assert misplacement(volume, volume) == pytest.approx(0, abs=1e-12)
    for axis, step in product(range(3), (0.25, -2)):
        shift = np.zeros(3)
        shift[axis] = step
        assert misplacement(volume, moved(volume, affine_of(np.eye(3), shift))) == pytest.approx(abs(step))


@pytest.mark.parametrize(("axis", "last"), [(0, 5), (1, 4), (2, 3)])
def test_another_size_shows_at_the_last_voxel(volume, axis, last):
    stretch = np.eye(4)
    stretch[axis, axis] = 1.1
    assert misplacement(volume, moved(volume, stretch)) == pytest.approx(0.1 * last)


@pytest.mark.parametrize(("axis", "last"), [(0, 5), (1, 4), (2, 3)])
def test_another_size_shows_at_the_first_voxel_where_the_last_ones_meet(volume, axis, last):
    stretch = np.eye(4)
    stretch[axis, axis], stretch[axis, 3] = 1.1, -0.1 * last
    assert misplacement(volume, moved(volume, stretch)) == pytest.approx(0.1 * last)


def test_what_has_no_affine_is_not_misplaced(volume):
    anywhere = Volume("b", volume.array)
    assert misplacement(volume, anywhere) == misplacement(anywhere, volume) == 0


@pytest.mark.parametrize("there", ["SPL", "IAR", "LSP", "ARS", "PIL", "RAI"])
def test_a_turned_array_lies_where_it_lay(volume, there):
    """Every voxel, by the affine of the turned array, is where the affine of the first one has it."""
    turn = Turn.between(volume.orientation, there)
    places = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"))  # (3, D, H, W)
    turned = turn.apply(places)
    affine = turn.affine(volume.affine, volume.shape)
    assert Volume("b", turned[:1, None], affine).orientation == there
    new = np.stack(np.meshgrid(*map(np.arange, turned.shape[1:]), indexing="ij"))

    def positions(indices: np.ndarray, by: np.ndarray) -> np.ndarray:
        flat = indices.reshape(3, -1)[::-1]  # X, Y, Z
        return by[:3, :3] @ flat + by[:3, 3:]

    np.testing.assert_allclose(positions(new, affine), positions(turned, volume.affine))
    assert np.array_equal(turn.undo(turned), places)


def test_a_turn_of_nothing_changes_nothing(volume):
    array = np.arange(24).reshape(2, 3, 4)
    assert np.array_equal(Turn().apply(array), array)
    assert np.array_equal(Turn().affine(volume.affine, volume.shape), volume.affine)
