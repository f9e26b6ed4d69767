"""The contract that nnU-Net's training and prediction rely on; nnU-Net itself is run by test_trainers.py."""

import json
from itertools import pairwise

import pytest
import torch

from mamba_unet.nnunet import PlannedNetwork, architecture


@pytest.fixture(params=["mamba_unet", "mamba_unet_fine", "mamba_unet_no_scan", "mamba_unet_3d", "unet"])
def network(request):
    torch.manual_seed(0)
    return PlannedNetwork(2, 3, deep_supervision=True, network=request.param, size="nano")


def image(network, *size):
    return torch.randn(2, 2, *([5] if len(network.coarse[0]) == 3 else []), *size)


def test_deep_supervision_gives_outputs_from_fine_to_coarse_at_the_scales_it_names(network):
    for height, width in ((32, 32), (44, 56)):  # the second is padded inside
        x = image(network, height, width)
        sizes = [
            tuple(round(n * share) for n, share in zip(x.shape[2:], scale, strict=True)) for scale in network.scales
        ]
        assert [tuple(one.shape) for one in network(x)] == [(2, 3, *size) for size in sizes]
        assert sizes[0] == tuple(x.shape[2:]) and len(sizes) >= 3
        assert all(a >= b for two in pairwise(sizes) for a, b in zip(*two, strict=True))


def test_the_switch_leaves_the_logits_and_the_state_dict_as_they_are(network):
    x = image(network, 32, 32)
    network.eval()
    several, names = network(x), list(network.state_dict())
    network.decoder.deep_supervision = False
    assert torch.equal(network(x), several[0]) and torch.equal(network(x), network.network(x))
    assert list(network.state_dict()) == names


def test_every_coarse_output_trains_its_head_and_the_network(network):
    sum(one.square().mean() for one in network.eval()(image(network, 32, 32))[1:]).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.decoder.parameters())
    assert sum(parameter.grad is not None for parameter in network.network.parameters()) > 5


@pytest.mark.filterwarnings("ignore")
def test_torch_compile_can_follow_it():
    network = PlannedNetwork(1, 3, deep_supervision=True, network="mamba_unet_fine", size="nano").eval()
    x, compiled = torch.randn(1, 1, 32, 32), torch.compile(network, backend="eager")  # as nnU-Net does on a GPU
    for one, other in zip(network(x), compiled(x), strict=True):
        torch.testing.assert_close(one, other)
    network.decoder.deep_supervision = False
    torch.testing.assert_close(compiled(x), network(x))


def test_plans_hold_a_network_that_nnunet_can_build_from_their_json():
    entry = json.loads(json.dumps(architecture("mamba_unet_fine", "nano", d_state=2)))
    module, _, name = entry["network_class_name"].rpartition(".")
    assert getattr(__import__(module, fromlist=[name]), name) is PlannedNetwork
    built = PlannedNetwork(input_channels=1, num_classes=4, deep_supervision=False, **entry["arch_kwargs"])
    assert built.network.stem is not None
    assert built.network.layers[0].blocks[0].self_attention.d_state == 2
    # nnU-Net's scales are 1 over the product of the strides, the last one left out
    strides = [side for side, _ in entry["arch_kwargs"]["strides"]]
    assert [round(1 / scale) for scale, _ in built.scales] == [1, 2, 4, 8] and strides == [1, 2, 2, 2, 2]


def test_strides_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"expected \[\[1, 1\], \[4, 4\], \[2, 2\], \[2, 2\]\]"):
        PlannedNetwork(1, 4, size="nano", strides=[[1, 1], [2, 2], [2, 2]])


def test_a_baseline_of_plans_is_as_published():
    entry = architecture("attention_unet")
    assert entry["arch_kwargs"]["size"] is None and len(entry["arch_kwargs"]["strides"]) > 2
