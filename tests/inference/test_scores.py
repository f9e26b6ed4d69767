import numpy as np
import pytest
import torch

from mamba_unet import build_model
from mamba_unet.inference.scores import Member, predict_volume, segment_slices


class Ramp(torch.nn.Module):
    """Says class 1 towards the right of what it is shown, whatever that is: no mirror or turn leaves it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(x.shape))
        ramp = torch.linspace(-1, 1, x.shape[-1]).expand_as(x)
        return torch.cat([-ramp, ramp], dim=1) * self.weight


def test_slices_go_through_the_network_in_batches_of_its_image_size(threshold):
    image = np.zeros((5, 12, 10), np.float32)
    image[3, 2:6, 4:8] = 1
    label = predict_volume(threshold, image, (24, 20), batch_size=2)
    assert threshold.sizes == [(2, 1, 24, 20), (2, 1, 24, 20), (1, 1, 24, 20)]
    assert label.dtype == np.uint8 and np.array_equal(label, image)


def test_a_volume_is_predicted_in_eval_mode_and_the_mode_is_restored(threshold):
    for training in (True, False):
        threshold.train(training)
        predict_volume(threshold, np.zeros((2, 8, 8), np.float32), (8, 8))
        assert threshold.training is training


def test_the_class_is_taken_after_the_logits_are_enlarged(threshold):
    """Between a pixel of 1 and one of 0 the contour lies where the enlarged logits cross zero, not at the pixel."""
    image = np.zeros((1, 8, 8), np.float32)
    image[0, :, :3] = 0.9
    label = predict_volume(threshold, image.repeat(4, axis=1).repeat(4, axis=2), (8, 8))
    enlarged = torch.nn.functional.interpolate(torch.from_numpy(image)[None], scale_factor=4, mode="bilinear")[0]
    assert np.array_equal(label, (enlarged > 0.5).numpy())


def test_slices_of_different_sizes_share_a_batch_and_each_gets_its_own_answer(threshold):
    rng = np.random.default_rng(0)
    slices = [rng.random(shape, np.float32) for shape in ((12, 10), (12, 10), (7, 20), (12, 10))]
    together = segment_slices([Member(threshold, (16, 16))], slices, probabilities=True)
    assert threshold.sizes == [(4, 1, 16, 16)]
    for image, (label, probabilities) in zip(slices, together, strict=True):
        ((alone, same),) = segment_slices([Member(threshold, (16, 16))], [image], probabilities=True)
        assert label.shape == image.shape and np.array_equal(label, alone) and np.allclose(probabilities, same)


def test_tta_changes_nothing_for_a_network_that_treats_all_directions_alike(threshold):
    image = np.random.default_rng(0).random((14, 9), np.float32)
    members = [Member(threshold, (14, 9))]
    ((plain, expected),) = segment_slices(members, [image], probabilities=True)
    ((label, probabilities),) = segment_slices(members, [image], tta=True, probabilities=True)
    assert np.array_equal(label, plain) and np.allclose(probabilities, expected, atol=1e-6)
    assert threshold.sizes[1:] == [(1, 1, 14, 9), (1, 1, 9, 14)] * 4


def test_tta_averages_eight_views_and_so_a_preferred_direction_away():
    image = np.zeros((8, 8), np.float32)
    ((label, probabilities),) = segment_slices([Member(Ramp(), (8, 8))], [image], probabilities=True)
    assert np.array_equal(label, np.tile([0] * 4 + [1] * 4, (8, 1))) and probabilities[1, 0, -1] > 0.8
    ((_, averaged),) = segment_slices([Member(Ramp(), (8, 8))], [image], tta=True, probabilities=True)
    # of the eight views the ramp points right, left, down and up in two each
    views = [np.rot90(probabilities[1], turns) for turns in range(4)]
    assert np.allclose(averaged[1], np.mean(views, axis=0), atol=1e-6)
    assert np.allclose(averaged[1], 0.5, atol=1e-6)


@pytest.mark.parametrize("tta", [False, True])
def test_an_ensemble_averages_probabilities_at_the_slices_size(tta):
    torch.manual_seed(0)
    models = [build_model("mamba_unet", num_classes=3, size="nano").eval() for _ in range(2)]
    members = [Member(model, size) for model, size in zip(models, ((32, 32), (16, 24)), strict=True)]
    images = list(np.random.default_rng(0).random((2, 20, 28), np.float32))
    alone = [segment_slices([member], images, tta, probabilities=True) for member in members]
    both = segment_slices(members, images, tta, probabilities=True)
    for index, (label, probabilities) in enumerate(both):
        by_hand = (alone[0][index][1] + alone[1][index][1]) / 2
        assert np.allclose(probabilities, by_hand, atol=1e-6)
        assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-5)
        assert np.array_equal(label, probabilities.argmax(axis=0))
        assert np.array_equal(label, segment_slices(members, images, tta)[index][0])


@pytest.mark.parametrize("name", ["mamba_unet", "unet", "attention_unet", "swin_unet", "transunet"])
def test_every_network_takes_turned_slices_of_an_image_size_that_is_not_square(name):
    model = build_model(name, size="nano").eval()
    image = np.random.default_rng(0).random((20, 28), np.float32)
    ((label, _),) = segment_slices([Member(model, (32, 48))], [image], tta=True)
    assert label.shape == image.shape
