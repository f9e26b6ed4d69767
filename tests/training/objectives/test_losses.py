import math
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from mamba_unet.training.objectives import losses
from mamba_unet.training.objectives.losses import segmentation_loss, soft_dice_loss
from mamba_unet.views.labels import IGNORE


def test_a_sure_and_right_prediction_costs_nothing():
    label = torch.tensor([[[0, 1], [2, 1]]])
    logits = 100.0 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1)
    found = segmentation_loss(logits, label)
    assert found["loss"].item() == pytest.approx(0, abs=1e-5)


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
    found = segmentation_loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.long))
    assert found["cross_entropy"].item() == pytest.approx(math.log(4))
    assert found["loss"] == 0.5 * (found["cross_entropy"] + found["dice_loss"])


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.zeros(2, 2, 400, 400, dtype=torch.float16)
    label = torch.zeros(2, 400, 400, dtype=torch.long)
    assert segmentation_loss(logits, label)["loss"].isfinite()


def test_ignored_pixels_are_left_out_of_both_parts():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 4, 6), torch.randint(3, (2, 4, 6))
    half = label.clone()
    half[..., 3:] = IGNORE
    expected = segmentation_loss(logits[..., :3].contiguous(), label[..., :3].contiguous())
    found = segmentation_loss(logits, half)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
    logits.requires_grad_()
    segmentation_loss(logits, half)["loss"].backward()
    assert (logits.grad[..., 3:] == 0).all() and (logits.grad[..., :3] != 0).any()


def test_a_batch_without_any_label_gives_a_loss_and_gradients_of_zero():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    found = segmentation_loss(logits, torch.full((1, 4, 4), IGNORE))
    found["loss"].backward()
    assert all(value == 0 for value in found.values()) and (logits.grad == 0).all()


def test_where_nothing_is_ignored_the_numbers_are_those_without_it_bit_for_bit():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 4, 31, 17, requires_grad=True), torch.randint(4, (2, 31, 17))
    probability, target = logits.softmax(1), F.one_hot(label, 4).movedim(-1, 1).float()
    total = probability.square().sum((0, 2, 3)) + target.sum((0, 2, 3))
    dice = 1 - ((2 * (probability * target).sum((0, 2, 3)) + 1e-5) / (total + 1e-5)).mean()
    plain = 0.5 * (F.cross_entropy(logits, label) + dice)
    loss = segmentation_loss(logits, label)["loss"]
    assert torch.equal(loss, plain)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, plain)]
    assert torch.equal(*gradients)


@pytest.fixture
def two_processes(monkeypatch):
    """Runs a function on two inputs as two processes would, in threads that add up tensors together."""
    barrier, given = threading.Barrier(2, timeout=60), {}

    def all_reduce(x):
        given[threading.get_ident()] = x.clone()
        barrier.wait()
        x.copy_(sum(given.values()))
        barrier.wait()

    def run(function, *inputs):
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(function, inputs))

    monkeypatch.setattr(losses.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(losses.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(losses.dist, "all_reduce", all_reduce)
    return run


@pytest.mark.parametrize("ignored", [0, 30, 96, 191, 192])
def test_two_processes_have_the_loss_and_the_gradient_of_one_with_both_batches(two_processes, monkeypatch, ignored):
    torch.manual_seed(0)
    logits, label = torch.randn(4, 3, 6, 8, requires_grad=True), torch.randint(3, (4, 6, 8))
    label.view(-1)[:ignored] = (
        IGNORE  # of the first process, at 96 all that it has; at 191 one pixel is left, at 192 none
    )
    with monkeypatch.context() as alone:
        alone.setattr(losses.dist, "is_initialized", lambda: False)
        joint = segmentation_loss(logits, label)
        (expected,) = torch.autograd.grad(joint["loss"], logits)

    def process(part: slice) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        mine = logits.detach()[part].requires_grad_()
        found = segmentation_loss(mine, label[part])
        return {name: value.detach() for name, value in found.items()}, torch.autograd.grad(found["loss"], mine)[0]

    (first, gradient), (second, other) = two_processes(process, slice(2), slice(2, 4))
    for name in joint:
        torch.testing.assert_close((first[name] + second[name]) / 2, joint[name].detach())
    torch.testing.assert_close(torch.cat([gradient, other]) / 2, expected)  # gradients are averaged


def test_one_labelled_pixel_counts():
    label = torch.full((1, 4, 4), IGNORE)
    label[0, 0, 0] = 1
    assert segmentation_loss(torch.zeros(1, 2, 4, 4), label)["cross_entropy"].item() == pytest.approx(math.log(2))
