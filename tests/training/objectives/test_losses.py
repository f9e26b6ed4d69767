import math

import pytest
import torch

from mamba_unet.training.objectives.losses import segmentation_loss, soft_dice_loss


def test_a_sure_and_right_prediction_costs_nothing():
    label = torch.tensor([[[0, 1], [2, 1]]])
    logits = 100.0 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1)
    losses = segmentation_loss(logits, label)
    assert losses["loss"].item() == pytest.approx(0, abs=1e-5)


def test_dice_of_a_uniform_prediction_by_hand():
    # two classes at p = 1/2 over four pixels, three of class 0: per class 2 * n / 2 / (4 / 4 + n)
    label = torch.tensor([[[0, 0], [0, 1]]])
    expected = 1 - (2 * 1.5 / (1 + 3) + 2 * 0.5 / (1 + 1)) / 2
    assert soft_dice_loss(torch.zeros(1, 2, 2, 2), label).item() == pytest.approx(expected, abs=1e-5)


def test_dice_sums_run_over_the_whole_batch():
    # two images of one pixel, class 0 and class 1, given 0.8 and 0.6 of their class
    label = torch.tensor([[[0]], [[1]]])
    probability = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    joint = 1 - (2 * 0.8 / (0.8**2 + 0.4**2 + 1) + 2 * 0.6 / (0.2**2 + 0.6**2 + 1)) / 2
    alone = 1 - (2 * 0.8 / (0.8**2 + 1) + 0 + 0 + 2 * 0.6 / (0.6**2 + 1)) / 4
    loss = soft_dice_loss(probability.log()[..., None, None], label).item()
    assert loss == pytest.approx(joint, abs=1e-5) and abs(loss - alone) > 0.1


def test_the_loss_is_half_of_cross_entropy_and_dice():
    losses = segmentation_loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    assert losses["cross_entropy"].item() == pytest.approx(math.log(4))
    assert losses["loss"] == 0.5 * (losses["cross_entropy"] + losses["dice_loss"])


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.zeros(2, 2, 400, 400, dtype=torch.float16)
    label = torch.zeros(2, 400, 400, dtype=torch.long)
    assert segmentation_loss(logits, label)["loss"].isfinite()
