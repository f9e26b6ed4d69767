"""The contract that nnU-Net's training and prediction rely on; nnU-Net itself is run by test_trainers.py."""

import json

import pytest
import torch

from mamba_unet.nnunet import PlannedNetwork, architecture


@pytest.fixture(params=["mamba_unet", "mamba_unet_fine", "mamba_unet_no_scan", "swin_unet"])
def network(request):
    torch.manual_seed(0)
    return PlannedNetwork(2, 3, deep_supervision=True, network=request.param, size="nano")


def test_deep_supervision_gives_outputs_from_fine_to_coarse_at_the_scales_it_names(network):
    for height, width in ((32, 32), (44, 56)):  # the second is padded inside
        outputs = network(torch.randn(2, 2, height, width))
        sizes = [(round(height * vertical), round(width * horizontal)) for vertical, horizontal in network.scales]
        assert [tuple(one.shape) for one in outputs] == [(2, 3, *size) for size in sizes]
        assert sizes[0] == (height, width) and sizes[1] == (height // 4, width // 4)


def test_the_switch_leaves_the_logits_and_the_state_dict_as_they_are(network):
    x = torch.randn(1, 2, 32, 32)
    network.eval()
    several = network(x)
    network.decoder.deep_supervision = False
    assert torch.equal(network(x), several[0])
    assert torch.equal(network(x), network.network(x))


def test_every_output_trains_its_head_and_the_network(network):
    network.eval()(torch.randn(1, 2, 32, 32))  # no branch is dropped
    sum(one.square().mean() for one in network(torch.randn(1, 2, 32, 32))[1:]).backward()
    for parameter in network.decoder.parameters():
        assert parameter.grad is not None and parameter.grad.any()
    assert any(parameter.grad is not None for parameter in network.network.layers.parameters())


def test_plans_hold_a_network_that_nnunet_can_build_from_their_json():
    entry = json.loads(json.dumps(architecture("mamba_unet_fine", "nano", d_state=2)))
    module, _, name = entry["network_class_name"].rpartition(".")
    assert getattr(__import__(module, fromlist=[name]), name) is PlannedNetwork
    built = PlannedNetwork(input_channels=1, num_classes=4, deep_supervision=False, **entry["arch_kwargs"])
    assert built.network.stem is not None
    assert built.network.layers[0].blocks[0].self_attention.d_state == 2
    # nnU-Net's scales are 1 over the product of the strides, the last one left out
    strides = [side for side, _ in entry["arch_kwargs"]["strides"]]
    assert [round(1 / scale) for scale, _ in built.scales] == [1, 4, 8] and strides == [1, 4, 2, 2]


def test_strides_of_another_network_and_networks_without_stages_are_refused():
    with pytest.raises(ValueError, match=r"expected \[\[1, 1\], \[4, 4\], \[2, 2\], \[2, 2\]\]"):
        PlannedNetwork(1, 4, size="nano", strides=[[1, 1], [2, 2], [2, 2]])
    with pytest.raises(ValueError, match="transunet has no decoder stages"):
        PlannedNetwork(1, 4, network="transunet", size="nano")
