import numpy as np
import pytest
import torch

from mamba_unet import build_model
from mamba_unet.inference.scores import predict_array, run_tiles, score
from mamba_unet.views.patches import Patches
from mamba_unet.views.slices import Slices
from mamba_unet.views.windows import gaussian


class Ramp(torch.nn.Module):
    """Says class 1 towards the right of what it is shown, whatever that is: no mirror or turn leaves it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(-1, 1, x.shape[-1]).expand_as(x)
        return torch.cat([-ramp, ramp], dim=1) * self.weight


class Volume:
    """What `run_tiles` takes: (S, R, C) seen by one or several views."""

    failure = None

    def __init__(self, image, *views, classes=2):
        self.tiles = [view.tiles(image[None, None], classes, True) for view in views]
        self.network_seconds = 0.0


def run(members, image, view, tta=False, classes=2):
    """Labels (S, R, C) and probabilities (K, S, R, C)."""
    (done,) = run_tiles(members, [Volume(image, view, classes=classes)], 4, tta)
    return done.tiles[0].labels[0], done.tiles[0].scores[0]


def test_slices_go_through_the_network_in_batches_of_its_image_size(threshold):
    image = np.zeros((1, 5, 12, 10), np.float32)
    image[0, 3, 2:6, 4:8] = 1
    label = predict_array(threshold, image, Slices((24, 20)), 2, batch_size=2)
    assert threshold.sizes == [(2, 1, 24, 20), (2, 1, 24, 20), (1, 1, 24, 20)]
    assert label.dtype == np.uint8 and np.array_equal(label, image[0])


def test_a_volume_is_predicted_in_eval_mode_and_the_mode_is_restored(threshold):
    seen = []
    threshold.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    for training in (True, False):
        threshold.train(training)
        predict_array(threshold, np.zeros((1, 2, 8, 8), np.float32), Slices((8, 8)), 2)
        assert threshold.training is training
    assert seen and not any(seen)


@pytest.mark.parametrize("view", [Slices((8, 8)), Slices((8, 8), fit="crop"), Patches((4, 8, 8), None)])
def test_answers_of_several_networks_are_averaged_in_every_view(view):
    tiles = view.tiles(np.zeros((1, 1, 4, 12, 10), np.float32), 2, keep_scores=True)
    one, two = (torch.zeros(len(tiles), 2, *view.size) for _ in range(2))
    one[:, 1], two[:, 1] = 3.0, -1.0
    tiles.put(range(len(tiles)), torch.stack([one, two]))
    expected = torch.tensor([3.0, -1.0]).sigmoid().mean().item()
    assert np.allclose(tiles.scores[:, 1], expected, atol=1e-5)


def test_windows_of_a_slice_that_disagree_are_weighed_by_their_distance():
    tiles = Slices((8, 8), fit="crop").tiles(np.zeros((1, 1, 1, 8, 12), np.float32), 2, keep_scores=True)
    answers = torch.zeros(1, len(tiles), 2, 8, 8)
    answers[0, 0, 1] = 4.0
    tiles.put(range(len(tiles)), answers)
    weights = [gaussian((8, 8))[4][6 - column] for _, column in tiles.corners if 0 <= 6 - column < 8]
    assert len(weights) > 1
    expected = (torch.tensor(4.0).sigmoid().item() * weights[0] + 0.5 * sum(weights[1:])) / sum(weights)
    assert tiles.scores[0, 1, 0, 4, 6] == pytest.approx(expected, abs=1e-5)


def test_the_class_is_taken_after_the_logits_are_enlarged(threshold):
    """Between a pixel of 1 and one of 0 the contour lies where the enlarged logits cross zero, not at the pixel."""
    image = np.zeros((1, 8, 8), np.float32)
    image[0, :, :3] = 0.9
    label = predict_array(threshold, image.repeat(4, axis=1).repeat(4, axis=2)[None], Slices((8, 8)), 2)
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(image)[None], scale_factor=4, mode="bilinear")[0]
    assert np.array_equal(label, (enlarged > 0.5).numpy())


def test_slices_of_different_sizes_share_a_batch_and_each_gets_its_own_answer(threshold):
    rng = np.random.default_rng(0)
    images = [rng.random(shape, np.float32) for shape in ((2, 12, 10), (1, 7, 20), (1, 12, 10))]
    view = Slices((16, 16))
    together = list(run_tiles([threshold], [Volume(image, view) for image in images], 4))
    assert threshold.sizes == [(4, 1, 16, 16)]
    for image, done in zip(images, together, strict=True):
        label, probabilities = run([threshold], image, view)
        assert label.shape == image.shape and np.array_equal(done.tiles[0].labels[0], label)
        assert np.allclose(done.tiles[0].scores[0], probabilities)


def test_tta_changes_nothing_for_a_network_that_treats_all_directions_alike(threshold):
    image = np.random.default_rng(0).random((1, 14, 9), np.float32)
    plain, expected = run([threshold], image, Slices((14, 9)))
    label, probabilities = run([threshold], image, Slices((14, 9)), tta=True)
    assert np.array_equal(label, plain) and np.allclose(probabilities, expected, atol=1e-6)
    assert threshold.sizes[1:] == [(1, 1, 14, 9), (1, 1, 9, 14)] * 4


def test_tta_averages_eight_symmetries_and_so_a_preferred_direction_away():
    image = np.zeros((1, 8, 8), np.float32)
    label, probabilities = run([Ramp()], image, Slices((8, 8)))
    assert np.array_equal(label[0], np.tile([0] * 4 + [1] * 4, (8, 1))) and probabilities[1, 0, 0, -1] > 0.8
    _, averaged = run([Ramp()], image, Slices((8, 8)), tta=True)
    # of the eight symmetries the ramp points right, left, down and up in two each
    turned = [np.rot90(probabilities[1, 0], turns) for turns in range(4)]
    assert np.allclose(averaged[1, 0], np.mean(turned, axis=0), atol=1e-6)
    assert np.allclose(averaged[1], 0.5, atol=1e-6)


@pytest.mark.parametrize("tta", [False, True])
def test_an_ensemble_averages_probabilities_at_the_slices_size(tta):
    torch.manual_seed(0)
    models = [build_model("mamba_unet", num_classes=3, size="nano").eval() for _ in range(2)]
    image, view = np.random.default_rng(0).random((2, 20, 28), np.float32), Slices((16, 24))
    alone = [run([model], image, view, tta, classes=3)[1] for model in models]
    label, probabilities = run(models, image, view, tta, classes=3)
    assert np.allclose(probabilities, (alone[0] + alone[1]) / 2, atol=1e-6)
    assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(label, probabilities.argmax(axis=0))


@pytest.mark.parametrize("name", ["mamba_unet", "unet", "attention_unet", "swin_unet", "transunet"])
def test_every_network_takes_turned_tiles_of_an_image_size_that_is_not_square(name):
    model = build_model(name, size="nano").eval()
    answers = score([model], torch.rand(2, 1, 32, 48), tta=True)
    assert answers.shape == (8, 2, 4, 32, 48)


def test_tta_of_a_patch_averages_its_mirrors_along_three_axes():
    tile = torch.rand(1, 1, 3, 4, 5)
    answers = score([Ramp()], tile, tta=True)
    assert answers.shape == (8, 1, 2, 3, 4, 5) and len({tuple(one.flatten().tolist()) for one in answers}) == 2
    assert torch.allclose(answers.mean(dim=0), torch.zeros(1, 2, 3, 4, 5), atol=1e-6)
    same = score([torch.nn.Conv3d(1, 2, 1)], tile, tta=True)
    assert torch.allclose(same, same[:1].expand_as(same), atol=1e-6)
