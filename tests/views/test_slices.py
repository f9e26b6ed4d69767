import numpy as np
import pytest

from mamba_unet.views.labels import IGNORE
from mamba_unet.views.slices import Slices
from mamba_unet.views.view import view_from_json


@pytest.fixture
def case():
    """(C, S, R, C) and its label, which a pixel's colour tells."""
    image = np.random.default_rng(0).random((2, 3, 40, 30)).astype(np.float32)
    return image, (image[0] > 0.5).astype(np.uint8)


def test_a_view_comes_back_from_json_and_refuses_what_it_does_not_know():
    view = Slices((32, 48), fit="crop", image="smooth", outside="ignore", foreground=0.5)
    assert view_from_json(view.to_json()) == view
    with pytest.raises(ValueError, match="kind 'cubes'"):
        view_from_json({"kind": "cubes", "size": [1, 2, 3]})
    with pytest.raises(ValueError, match="unknown keys"):
        view_from_json({**view.to_json(), "colour": 1})
    for wrong in ({"size": (0, 3)}, {"fit": "stretch"}, {"image": "cubic"}, {"outside": "x"}, {"foreground": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Slices(**wrong)


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize("image_rule", ["nearest", "smooth"])
def test_a_sample_has_the_size_of_the_view_and_its_label_moves_with_it(case, fit, image_rule):
    image, label = case
    view = Slices((24, 36), fit=fit, image=image_rule, outside="ignore")
    for seed in range(20):
        drawn, truth = view.draw(image, label, seed % 3, np.random.default_rng(seed), augment="paper")
        assert drawn.shape == (2, 24, 36) and truth.shape == (24, 36) and drawn.dtype == np.float32
        known = truth != IGNORE
        if fit == "crop" or image_rule == "nearest":  # pixels are taken, not mixed
            assert np.array_equal(drawn[0][known] > 0.5, truth[known] == 1)


def test_what_comes_from_outside_is_background_or_has_no_ground_truth(case):
    image, label = case
    for outside, value in (("background", 0), ("ignore", IGNORE)):
        _, truth = Slices((60, 60), fit="crop", outside=outside).draw(image, label, 0, np.random.default_rng(0))
        assert (truth == value).sum() >= 60 * 60 - 40 * 30
        assert truth[0, 0] == value


def test_windows_are_drawn_around_the_foreground():
    label = np.zeros((1, 200, 200), np.uint8)
    label[0, 150:153, 20:23] = 1
    image = label[None].astype(np.float32)

    def share(foreground):
        view, rng = Slices((32, 32), fit="crop", foreground=foreground), np.random.default_rng(0)
        return np.mean([view.draw(image, label, 0, rng)[1].any() for _ in range(200)])

    assert share(1.0) == 1 and share(0.0) < 0.2


def test_smooth_images_average_the_area_of_a_pixel():
    image = np.zeros((1, 1, 8, 8), np.float32)
    image[..., ::2] = 1
    drawn, _ = Slices((4, 4), image="smooth").draw(image, np.zeros((1, 8, 8), np.uint8), 0, np.random.default_rng(0))
    assert np.allclose(drawn[:, :, 1:-1], 0.5, atol=0.1)


@pytest.mark.parametrize("shape", [(40, 30), (16, 16), (9, 50), (17, 16)])
def test_windows_cover_a_slice_and_their_answers_come_back_to_their_pixels(shape):
    import torch

    volume = np.random.default_rng(0).random((2, 1, 3, *shape)).astype(np.float32)
    tiles = Slices((16, 16), fit="crop").tiles(volume, 2, keep_scores=True)
    for number in range(len(tiles)):
        seen = torch.from_numpy(tiles[number])[None]
        tiles.put(range(number, number + 1), torch.cat([0.5 - seen, seen - 0.5], dim=1)[None])
    assert tiles.waiting == 0 and np.array_equal(tiles.labels, volume[:, 0] > 0.5)
    expected = 1 / (1 + np.exp(-2 * (volume[:, 0] - 0.5)))
    assert np.allclose(tiles.scores[:, 1], expected, atol=1e-5) and np.allclose(tiles.scores.sum(axis=1), 1, atol=1e-5)


def test_the_ceiling_that_nearest_neighbour_sets_is_not_there_for_crops():
    """A perfect network: its answer is the label that the view shows it."""
    import torch

    label = np.zeros((1, 1, 1, 64, 64), np.float32)
    yy, xx = np.mgrid[:64, :64]
    label[0, 0, 0] = (yy - 30) ** 2 + (xx - 33) ** 2 < 20**2

    def dice(view):
        tiles = view.tiles(label, 2)
        for number in range(len(tiles)):
            seen = torch.from_numpy(tiles[number])[None]
            tiles.put(range(number, number + 1), 20 * torch.cat([0.5 - seen, seen - 0.5], dim=1)[None])
        found = tiles.labels[0, 0] == 1
        truth = label[0, 0, 0] == 1
        return 2 * (found & truth).sum() / (found.sum() + truth.sum())

    assert dice(Slices((24, 24), fit="crop")) == 1
    assert dice(Slices((24, 24))) < 0.99


@pytest.mark.parametrize("augment", ["paper", "nnunet"])
def test_windows_lie_around_foreground_and_not_around_what_has_no_label(augment):
    label = np.full((1, 100, 100), IGNORE, np.uint8)
    label[0, 68:74, 18:24], label[0, :10] = 1, 0
    view, image = Slices((16, 16), fit="crop", foreground=1.0), np.zeros((1, 1, 100, 100), np.float32)
    found = [(view.draw(image, label, 0, np.random.default_rng(seed), augment)[1] == 1).any() for seed in range(30)]
    assert np.mean(found) > 0.8
