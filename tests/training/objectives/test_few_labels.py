"""Each loss of few labels and scribbles on arrays whose answer a person can compute."""

import copy
import math

import pytest
import torch
from torch import nn

from mamba_unet.models.registry import build_model
from mamba_unet.training.objectives.averaged import Averaged
from mamba_unet.training.objectives.build import build_objective, member_names
from mamba_unet.training.objectives.contrast import PixelContrast
from mamba_unet.training.objectives.cross_pseudo import CrossPseudo
from mamba_unet.training.objectives.losses import soft_dice_loss
from mamba_unet.training.objectives.mean_teacher import MeanTeacher
from mamba_unet.training.objectives.members import share_encoder
from mamba_unet.training.objectives.ramp import Ramp
from mamba_unet.training.objectives.regularisers import entropy_loss, mumford_shah_loss, probability_distance
from mamba_unet.training.objectives.scribble import MixedPseudoLabels, PartialCrossEntropy
from mamba_unet.training.optimizer import build_optimizer
from mamba_unet.training.recipe import OptimizerRecipe, load_recipe
from mamba_unet.views.labels import IGNORE

SPACES = [(2, 4), (2, 2, 2)]


class Constant(nn.Module):
    """Says the same probabilities of every pixel."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, x):
        return self.logits.view(1, -1, *[1] * (x.ndim - 2)).expand(len(x), -1, *x.shape[2:])


def batch(space, label, count=2, name="a/0"):
    return {"image": torch.zeros(count, 1, *space), "label": torch.full((count, *space), label), "name": [name] * count}


def test_the_ramp_by_hand():
    ramp = Ramp(0.1, 0.8)
    assert ramp(0) == pytest.approx(0.1 * math.exp(-5)) and ramp(0.4) == pytest.approx(0.1 * math.exp(-1.25))
    assert ramp(0.8) == ramp(1) == 0.1 and Ramp(0.5, 0)(0) == 0.5


@pytest.mark.parametrize("space", SPACES)
def test_losses_without_labels_by_hand(space):
    pixels = torch.ones(3, 1, *space)
    logits = Constant(0.25, 0.75)(pixels)
    assert entropy_loss(logits).item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert probability_distance(logits, torch.full_like(logits, 0.5)).item() == pytest.approx(0.25**2)
    # a constant image has no spread within a class, constant probabilities no border
    assert mumford_shah_loss(pixels, logits).item() == pytest.approx(0, abs=1e-6)
    # two halves along the last axis, of intensity 0 and 1, in classes of their own: nothing within, borders twice
    image = torch.zeros(1, 1, *space)
    image[..., space[-1] // 2 :] = 1
    sure = torch.cat([1 - image, image], dim=1) * 100
    border = image.numel() // space[-1] * 2  # pixels along it, for two classes
    assert mumford_shah_loss(image, sure).item() == pytest.approx(border / image.numel(), abs=1e-5)
    # one class of everything: the variance of 0 and 1, which is 1 / 4
    one = torch.cat([torch.full_like(image, 100), torch.zeros_like(image)], dim=1)
    assert mumford_shah_loss(image, one).item() == pytest.approx(0.25, abs=1e-5)


@pytest.mark.parametrize("loss", [entropy_loss, lambda x: mumford_shah_loss(torch.arange(8.0).view(1, 1, 2, 4), x)])
def test_gradients_of_losses_without_labels(loss):
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    shift = 1e-2 * torch.randn_like(logits)
    with torch.no_grad():
        numeric = loss(logits + shift) - loss(logits - shift)
    assert numeric.item() == pytest.approx(2 * (gradient * shift).sum().item(), rel=0.02, abs=1e-5)


def test_the_contrast_by_hand():
    first, second = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
    a, b = (vector.view(1, 2, 1, 1).expand(1, 2, 2, 2) for vector in (first, second))
    pooled = PixelContrast(2, "pooled")
    assert pooled(a, b).item() == pytest.approx(0.2**2) and pooled(a, 5 * a).item() == pytest.approx(0)
    pixel = PixelContrast(2, "pixel")
    with torch.no_grad():  # both projectors: the logits themselves
        for projector in pixel.projectors:
            for layer in (projector[0], projector[2]):
                layer.weight.zero_()
                layer.bias.zero_()
                layer.weight.fill_diagonal_(1)
    assert pixel(a, b).item() == pytest.approx(0.2**2)
    # pooled, two pixels that swap their answers are the same image; pixel by pixel they are not
    swapped = torch.stack([torch.stack([first, second]), torch.stack([second, first])]).permute(0, 2, 1)  # (2, K, S)
    assert pooled(swapped[:1], swapped[1:]).item() == pytest.approx(0)
    assert pixel(swapped[:1], swapped[1:]).item() == pytest.approx(0.2**2)


@pytest.mark.parametrize("space", SPACES)
def test_the_mean_teacher_by_hand(space):
    objective = MeanTeacher(Constant(0.5, 0.5), 5, Ramp(0.1, 0))
    assert objective.streams == {"labelled": 2, "unlabelled": 3}
    with torch.no_grad():
        objective.teacher.logits.copy_(torch.tensor([0.75, 0.25]).log())
    said = objective({"labelled": batch(space, 0), "unlabelled": batch(space, IGNORE, 3)}, 0, 0.0)
    assert said["consistency"].item() == pytest.approx(0.25**2)
    # every pixel is class 0 at p = 1/2: 1 - (2 * 1/2 / (1/4 + 1) + 0) / 2
    assert said["supervised"].item() == pytest.approx(0.5 * (math.log(2) + 1 - 0.8 / 2), abs=1e-4)
    assert said["loss"].item() == pytest.approx(said["supervised"].item() + 0.1 * 0.25**2)
    said["loss"].backward()
    assert objective.teacher.logits.grad is None and objective.student.logits.grad.abs().sum() > 0


def test_the_teacher_becomes_the_student_at_first_and_then_follows_by_the_published_rule():
    objective = MeanTeacher(Constant(0.5, 0.5), 4, Ramp(0.1, 0))
    student, expected = objective.student.logits, None
    for step in range(1, 250):
        with torch.no_grad():
            student.add_(1)
        objective.after_step(step)
        kept = min(1 - 1 / step, 0.99)
        expected = student.detach().clone() if step == 1 else kept * expected + (1 - kept) * student.detach()
        torch.testing.assert_close(objective.teacher.logits.detach(), expected)


def test_the_teachers_noise_is_the_samples_own_and_is_cut_off():
    objective, image = MeanTeacher(Constant(0.5, 0.5), 4, Ramp(0.1, 0)), torch.zeros(2, 1, 64, 64)
    noise = objective._noise(image, ["a/0", "b/0"], 7)
    assert noise.abs().max() == pytest.approx(0.2) and noise.std() == pytest.approx(0.1, rel=0.1)
    torch.testing.assert_close(objective._noise(image[:1], ["b/0"], 7)[0], noise[1])
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(objective._noise(image, ["a/0", "b/0"], 8), noise)


@pytest.mark.parametrize(
    ("learned", "contrast"), [("ce_dice", None), ("ce", None), ("dice", PixelContrast(2, "pooled"))]
)
def test_cross_pseudo_labels_by_hand(learned, contrast):
    members = {"a": Constant(0.75, 0.25), "b": Constant(0.25, 0.75)}
    objective = CrossPseudo(members, "b", 4, Ramp(0.1, 0), learned, contrast)
    said = objective({"labelled": batch((2, 2), 0), "unlabelled": batch((2, 2), IGNORE)}, 0, 0.0)
    # each gives the other's class 1/4: the loss of either is cross-entropy ln 4 and Dice 1 - 2 / 4 / (1/16 + 1) / 2
    dice = 1 - 0.5 / (1 + 1 / 16) / 2
    each = {"ce_dice": 0.5 * (math.log(4) + dice), "ce": math.log(4), "dice": dice}[learned]
    assert said["pseudo"].item() == pytest.approx(2 * each, abs=1e-4)
    expected = said["supervised"].item() + 0.1 * 2 * each
    if contrast is not None:
        logits = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log()
        a, b = logits / logits.norm(dim=1, keepdim=True)
        assert said["contrast"].item() == pytest.approx((a - b).square().mean().item())
        expected += said["contrast"].item()  # half of it for each network
    assert said["loss"].item() == pytest.approx(expected, abs=1e-4)
    assert objective.network is objective.networks["b"] is members["b"] and list(objective.networks) == ["b", "a"]


def test_a_scribble_counts_where_it_is_and_nowhere_else():
    network = Constant(0.75, 0.25)
    objective = PartialCrossEntropy({"n": network}, "n", 2, entropy=0.5)
    labelled = batch((2, 2), IGNORE)
    labelled["label"][0, 0, 0], labelled["label"][0, 0, 1] = 0, 1
    said = objective({"labelled": labelled}, 0, 0.0)
    assert said["cross_entropy"].item() == pytest.approx(-0.5 * (math.log(0.75) + math.log(0.25)))
    assert said["loss"].item() == pytest.approx(said["cross_entropy"].item() + 0.5 * said["entropy"].item())
    labelled["label"][:] = IGNORE
    assert objective({"labelled": labelled}, 0, 0.0)["cross_entropy"] == 0


@pytest.mark.parametrize("count", [2, 3])
def test_the_mixture_by_hand(count):
    members = {"a": Constant(0.9, 0.1), "b": Constant(0.2, 0.8), "c": Constant(0.3, 0.7)}
    members = dict(list(members.items())[:count])
    objective = MixedPseudoLabels(members, "a", 2, Ramp(0.5, 0), seed=3)
    labelled, answers = batch((2, 2), IGNORE), set()
    for step in range(20):
        shares = objective.shares(step)
        assert len(shares) == count and sum(shares) == pytest.approx(1) and min(shares) >= 0
        of_first = sum(s * m.logits.softmax(0)[0].item() for s, m in zip(shares, members.values(), strict=True))
        answer = torch.full((2, 2, 2), 0 if of_first > 0.5 else 1)
        expected = sum(soft_dice_loss(m(labelled["image"]), answer).item() for m in members.values())
        said = objective({"labelled": labelled}, step, 0.0)
        assert said["pseudo"].item() == pytest.approx(expected)
        assert said["loss"].item() == pytest.approx(0.5 * expected)
        answers.add(answer[0, 0, 0].item())
    assert answers == {0, 1}, "the shares decide"


def test_a_pseudo_label_must_beat_the_background_by_a_margin_that_falls():
    members = {"a": Constant(0.2, 0.8), "b": Constant(0.2, 0.8)}  # 0.6 ahead of the background, whatever the mixture
    labelled = batch((2, 2), IGNORE)

    def learned(background: float, done: float) -> float:
        return MixedPseudoLabels(members, "a", 2, Ramp(0.5, 0), background=background)({"labelled": labelled}, 0, done)[
            "pseudo"
        ].item()

    zeros = torch.zeros(2, 2, 2, dtype=torch.int64)
    as_background, as_first = (2 * soft_dice_loss(members["a"](labelled["image"]), zeros + n).item() for n in (0, 1))
    assert as_background != pytest.approx(as_first)
    for background, done, expected in (
        (0.0, 0.0, as_first),
        (0.5, 0.0, as_background),
        (0.5, 0.19, as_background),  # the margin is 0.62
        (0.5, 0.21, as_first),  # 0.58
        (0.5, 0.9, as_first),
    ):
        assert learned(background, done) == pytest.approx(expected)


def test_wrong_numbers_of_networks_are_refused_and_two_decoders_share_their_encoder():
    with pytest.raises(ValueError, match="between two networks, got a"):
        CrossPseudo({"a": Constant(1.0)}, "a", 4, Ramp(0, 0))
    with pytest.raises(ValueError, match="two or three networks, got a"):
        MixedPseudoLabels({"a": Constant(1.0)}, "a", 4, Ramp(0, 0))
    for name in ("unet", "mamba_unet", "mamba_unet_fine", "swin_unet", "transunet"):
        first, second = (build_model(name, size="nano") for _ in range(2))
        alone = sum(p.numel() for p in first.parameters())
        share_encoder(first, second)
        both = {id(p): p.numel() for network in (first, second) for p in network.parameters()}
        assert alone < sum(both.values()) < 1.8 * alone
    with pytest.raises(ValueError, match="no encoder apart"):
        share_encoder(*(build_model("attention_unet", size="nano") for _ in range(2)))


def test_both_networks_learn_alike():
    """Two equal networks stay equal, through the optimiser and the averages too."""
    torch.manual_seed(0)
    network = build_model("unet", size="nano", dropout=[0.0] * 5)
    pair = CrossPseudo({"a": network, "b": copy.deepcopy(network)}, "a", 4, Ramp(0.1, 0), contrast=None)
    objective = Averaged(pair, 0.9)
    optimizer, _ = build_optimizer(objective, OptimizerRecipe("adamw"), 5)
    streams = {"labelled": batch((16, 16), 1), "unlabelled": batch((16, 16), IGNORE)}
    for part in streams.values():
        part["image"] = torch.randn(2, 1, 16, 16)
    before = copy.deepcopy(network.state_dict())
    for step in range(3):
        optimizer.zero_grad()
        objective(streams, step, 0.0)["loss"].backward()
        optimizer.step()
        objective.after_step(step + 1)
    for networks in (pair.networks, objective.networks):
        a, b = (one.state_dict() for one in networks.values())
        assert all(torch.allclose(value, b[name], atol=1e-6) for name, value in a.items())
    after = network.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items() if "weight" in name)


def halves(labelled: float = 0.0) -> dict:
    one = batch((2, 2), 0)
    unlabelled = {**batch((2, 2), IGNORE), "image": torch.ones(2, 1, 2, 2)}
    return {"labelled": {**one, "image": one["image"] + labelled}, "unlabelled": unlabelled}


def test_a_report_shows_what_is_taken_for_labels():
    """Of mixtures the middle one, with the background ahead at first; of marks alone nothing."""
    members = {"a": nn.Conv2d(1, 2, 1), "b": nn.Conv2d(1, 2, 1)}
    for member, foreground in zip(members.values(), (2.0, -0.5), strict=True):
        nn.init.zeros_(member.weight)
        member.bias.data = torch.tensor([0.0, foreground])
    image = torch.zeros(1, 1, 2, 2)
    shown = [
        MixedPseudoLabels(members, "a", 2, Ramp(1, 0), background=0.5).labellers(done)["even mixture"](image).argmax(1)
        for done in (0.0, 0.25, 0.5)
    ]
    assert [int(one.unique()) for one in shown] == [0, 0, 1]  # of 0.63: margins 1, 0.5 and 0
    assert PartialCrossEntropy(members, "a", 2).labellers(0.5) == {}
    assert list(CrossPseudo(members, "a", 4, Ramp(1, 0)).labellers(0.5)) == ["a", "b"]


def test_pseudo_labels_are_of_the_images_without_labels():
    torch.manual_seed(0)
    objective = CrossPseudo({name: nn.Conv2d(1, 2, 1) for name in "ab"}, "a", 4, Ramp(1, 0))
    before, after = objective(halves(), 0, 0.0), objective(halves(3.0), 0, 0.0)
    assert torch.equal(before["pseudo"], after["pseudo"]) and not torch.equal(before["supervised"], after["supervised"])


def test_the_teacher_sees_another_noise_in_every_step():
    torch.manual_seed(0)
    objective = MeanTeacher(nn.Conv2d(1, 2, 1), 4, Ramp(1, 0))
    first, second = (objective(halves(), step, 0.0) for step in (0, 1))
    assert first["consistency"] > 0 and first["consistency"] != second["consistency"]
    assert torch.equal(first["supervised"], second["supervised"])


@pytest.mark.parametrize(
    ("recipe", "weight", "share"),
    [
        ("acdc_few_mean_teacher", 0.1, 1),
        ("acdc_few_cps", 0.1, 1),
        ("acdc_few_semi_mamba_unet", 0.1, 1),
        ("acdc_few_mixed", 0.5, 0),
        ("acdc_few_weak_mamba_unet", 1, 0),
    ],
)
def test_what_is_learned_without_labels_has_the_published_weight(recipe, weight, share):
    made = load_recipe(recipe)
    networks = [build_model("mamba_unet", size="nano") for _ in member_names(made)]
    objective = build_objective(made, networks, 4).objective  # within the average of its weights
    assert (objective.weight.weight, objective.weight.share) == (weight, share)
    if made.objective == "mixed":
        assert objective.background == made.few_labels.background == 0.3
