import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mamba_unet.views.labels import IGNORE
from mamba_unet.views.patch_tiles import PatchTiles
from mamba_unet.views.patches import Patches
from mamba_unet.views.view import view_from_json
from mamba_unet.views.windows import cut, gaussian

SHAPE = (9, 20, 14)


@pytest.fixture
def case():
    """(C, D, H, W) and its label, which a voxel's brightness tells."""
    image = np.random.default_rng(0).random((2, *SHAPE), dtype=np.float32)
    return image, (image[0] > 0.5).astype(np.uint8)


def test_a_view_comes_back_from_json_and_refuses_what_it_does_not_know():
    for view in (Patches((16, 64, 48), (8, 1.5, 1.5), "background", 0.5), Patches((4, 4, 4), None), Patches()):
        assert view_from_json(view.to_json()) == view
    with pytest.raises(ValueError, match="unknown keys"):
        view_from_json({**Patches().to_json(), "fit": "crop"})
    for wrong in ({"size": (3, 3)}, {"size": None}, {"spacing_mm": (1, 0, 1)}, {"outside": "x"}, {"foreground": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Patches(**wrong)


def test_a_plan_fills_only_what_is_left_to_it():
    assert Patches().needs_plan and not Patches((1, 2, 3), None).needs_plan
    assert Patches().planned((4, 5, 6), (1, 1, 1)) == Patches((4, 5, 6), (1, 1, 1))
    assert Patches((1, 2, 3), "plan").planned((4, 5, 6), None) == Patches((1, 2, 3), None)
    assert Patches("plan", (2, 2, 2)).planned((4, 5, 6), (1, 1, 1)) == Patches((4, 5, 6), (2, 2, 2))


@pytest.mark.parametrize("size", [(4, 8, 6), (12, 24, 16), (3, 40, 5)])
def test_a_patch_has_the_size_of_the_view_and_its_label_moves_with_it(case, size):
    image, label = case
    view = Patches(size, None)
    for seed in range(30):
        patch, truth = view.draw(image, label, 0, np.random.default_rng(seed))
        assert patch.shape == (2, *size) and truth.shape == size and patch.dtype == np.float32
        known = truth != IGNORE
        assert np.array_equal(patch[0][known] > 0.5, truth[known] == 1) and not patch[:, ~known].any()
        assert known.sum() == np.prod(np.minimum(size, SHAPE))
        again = view.draw(image, label, 0, np.random.default_rng(seed), marks=view.marks(label))
        assert np.array_equal(patch, again[0]) and np.array_equal(truth, again[1])


def test_every_class_of_a_case_is_drawn_around_as_often_whatever_its_size():
    label = np.zeros((30, 60, 60), np.uint8)
    label[2, 3, 4], label[20:25, 30:50, 30:50], label[29] = 1, 2, IGNORE
    image, view = label[None].astype(np.float32), Patches((6, 10, 10), None, foreground=1)
    drawn = [view.draw(image, label, 0, np.random.default_rng(seed))[1] for seed in range(200)]
    assert 70 < sum((truth == 1).any() for truth in drawn) < 130
    assert all(((truth == 1) | (truth == 2)).any() for truth in drawn)
    assert view.count(label.shape) == 1
    empty = np.zeros_like(label)
    assert view.draw(image, empty, 0, np.random.default_rng(0))[1].shape == (6, 10, 10)


def scores_of(tiles: PatchTiles) -> torch.Tensor:
    """A network's answers: what a patch shows, and not where it lies."""
    shown = torch.from_numpy(np.stack([tiles[number] for number in range(len(tiles))]))[:, :1]
    return torch.cat([1 - shown, 2 * shown, 4 * shown**2 - 1], dim=1)[None]


def whole(array: np.ndarray, size, shape) -> np.ndarray:
    """The probabilities by the whole volume's sums at once, (K, D', H', W')."""
    tiles = PatchTiles(array, size, 3)
    total, weights = np.zeros((3, *array.shape[2:])), np.zeros(array.shape[2:])
    for corner, answer in zip(tiles.corners, scores_of(tiles)[0].softmax(dim=1).numpy(), strict=True):
        back = tuple(-start for start in corner)
        total += cut(answer * gaussian(size), back, array.shape[2:], 0)
        weights += cut(gaussian(size), back, array.shape[2:], 0)
    tensor = torch.from_numpy(total / weights)[None].float()
    return F.interpolate(tensor, shape, mode="trilinear", align_corners=False)[0].numpy()


@pytest.mark.parametrize("size", [(4, 8, 6), (16, 8, 24), (3, 20, 5)])
@pytest.mark.parametrize("shape", [SHAPE, (18, 20, 14), (5, 33, 9), (27, 10, 28), (1, 20, 14)])
def test_a_slab_gives_what_the_whole_volume_would_on_any_grid(case, size, shape):
    array = case[0][None]
    expected = whole(array, size, shape)
    for batch in (1, 5):
        tiles = PatchTiles(array, size, 3, keep_scores=True, shape=shape)
        answers = scores_of(tiles)
        for first in range(0, len(tiles), batch):
            numbers = range(first, min(first + batch, len(tiles)))
            tiles.put(numbers, answers[:, numbers.start : numbers.stop])
        assert not tiles.waiting and tiles.labels.shape == (1, *shape)
        assert np.allclose(tiles.scores[0], expected, atol=1e-5)
        assert np.array_equal(tiles.labels, tiles.scores.argmax(axis=1))


def test_no_more_slices_are_held_than_a_layer_of_patches_reaches(case):
    array = np.random.default_rng(0).random((2, 1, 60, 12, 12), dtype=np.float32)  # two frames
    tiles = PatchTiles(array, (8, 8, 8), 3, shape=(30, 24, 24))
    answers, most = scores_of(tiles), 0
    for number in range(len(tiles)):
        tiles.put(range(number, number + 1), answers[:, number : number + 1])
        most = max(most, len(tiles._open))
    assert most == 8 and not tiles._open and not tiles.waiting
    alone = PatchTiles(array[1:], (8, 8, 8), 3, shape=(30, 24, 24))
    alone.put(range(len(alone)), scores_of(alone))
    assert np.array_equal(tiles.labels[1], alone.labels[0])


def test_a_box_in_one_octant_comes_back_in_it_through_another_grid_and_patches():
    """In each of the eight octants of an asymmetric volume, resampled there and back."""
    view = Patches((8, 16, 16), (2.0, 1.5, 1.0))
    for corner in itertools.product((0, 1), repeat=3):
        label = np.zeros((24, 30, 40), np.uint8)
        box = tuple(slice(side // 8, 3 * side // 8) for side in label.shape)
        octant = tuple(slice(None, None, -1 if far else 1) for far in corner)
        label[octant][box] = 1
        regrid = view.grid(label.shape, (3.0, 1.0, 1.2))
        assert regrid.target == (36, 20, 48)
        tiles = view.tiles(regrid.image(label[None].astype(np.float32))[None], 2, shape=label.shape)
        shown = torch.from_numpy(np.stack([tiles[number] for number in range(len(tiles))]))
        tiles.put(range(len(tiles)), 20 * torch.cat([0.5 - shown, shown - 0.5], dim=1)[None])
        assert (tiles.labels[0] != label).sum() < 0.15 * label.sum(), corner
        assert not (tiles.labels[0] != label)[octant][tuple(slice(side // 2, None) for side in label.shape)].any()
