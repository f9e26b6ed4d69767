import pytest
import torch

from mamba_unet import build_model
from mamba_unet.models import SS2D, VSSBlock
from mamba_unet.models.control import DepthwiseMixer
from mamba_unet.models.ss2d import GatedMixer

SCAN = ("x_proj_weight", "dt_projs_weight", "dt_projs_bias", "A_logs", "Ds")


def shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("network", "control", "added", "parameters"),
    [
        ("mamba_unet", "mamba_unet_no_scan", (), 15_478_272),
        ("mamba_unet", "mamba_unet_dwconv", ("scan_conv.weight",), 17_379_072),
        ("mamba_unet_3d", "mamba_unet_3d_no_scan", (), 18_729_452),
        ("mamba_unet_3d", "mamba_unet_3d_dwconv", ("scan_conv.weight",), 21_627_116),
    ],
)
def test_a_control_is_mamba_unet_parameter_for_parameter_but_for_the_scan(network, control, added, parameters):
    with torch.device("meta"):
        mamba, other = (shapes(build_model(name, in_channels=3)) for name in (network, control))
    assert {k: v for k, v in mamba.items() if not k.endswith(SCAN)} == {
        k: v for k, v in other.items() if not k.endswith(added)
    }
    assert not any(name.endswith(SCAN) for name in other)
    assert sum(shape.numel() for shape in other.values()) == parameters


@pytest.mark.parametrize("scan", ["selective", "dwconv"])
def test_a_scan_in_the_deep_stages_only_leaves_the_others_as_the_control_without_one(scan):
    whole, part, without = (
        shapes(build_model(size="nano", **{"scan": scan, **other}))
        for other in ({}, {"scan_from": 1}, {"scan": "identity"})
    )
    first = ("layers.0.", "layers_up.2.")
    assert {k for k in part if k.startswith(first)} == {k for k in without if k.startswith(first)}
    assert {k for k in part if not k.startswith(first)} == {k for k in whole if not k.startswith(first)}
    assert without.keys() < part.keys() < whole.keys()


def test_without_its_scan_ss2d_computes_the_rest():
    ss2d, without = SS2D(8, d_state=3), GatedMixer(8)
    without.load_state_dict({k: v for k, v in ss2d.state_dict().items() if k not in SCAN})
    ss2d.scan = lambda x: x
    x = torch.randn(2, 5, 3, 8)
    torch.testing.assert_close(without(x), ss2d(x))


def test_the_depthwise_filter_starts_near_the_identity_and_reaches_seven_pixels():
    torch.manual_seed(0)
    mixer = DepthwiseMixer(4)
    x = torch.zeros(1, 17, 17, 8)
    x[:, 8, 8] = 1
    y = mixer.scan(x)[0].detach()
    assert (y[8, 8] - 1).abs().max() < 0.1
    reached = y.abs().amax(-1) > 0
    assert reached[1:16, 1:16].all() and reached.sum() == 15 * 15


@pytest.mark.parametrize(
    ("name", "whole_image"), [("mamba_unet", True), ("mamba_unet_dwconv", True), ("mamba_unet_no_scan", False)]
)
def test_whether_a_corners_logits_depend_on_the_opposite_corner(name, whole_image):
    torch.manual_seed(0)
    model = build_model(name, size="nano").double().eval()
    x = torch.randn(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)  # 8 x 8 in the deepest stage
    model(x)[0, :, 0, 0].sum().backward()
    assert bool((x.grad[0, 0, -4:, -4:] != 0).all()) == whole_image
    assert (x.grad[0, 0, :4, :4] != 0).all()


@pytest.mark.parametrize(("control", "whole_volume"), [("", True), ("_dwconv", True), ("_no_scan", False)])
def test_whether_a_corner_of_a_volume_depends_on_the_opposite_one(control, whole_volume):
    torch.manual_seed(0)
    # without the convolutional stem, whose normalisation reaches over the volume
    model = build_model(f"mamba_unet_3d{control}", size="nano", stem="patch", spacing=(1, 1, 1)).double().eval()
    x = torch.randn(1, 1, 64, 64, 64, dtype=torch.float64, requires_grad=True)  # 4 x 4 x 4 in the deepest stage
    model(x)[0, :, 0, 0, 0].sum().backward()
    assert bool((x.grad[0, 0, -2:, -2:, -2:] != 0).all()) == whole_volume
    assert (x.grad[0, 0, :2, :2, :2] != 0).all()


def test_an_unknown_scan_is_refused():
    with pytest.raises(ValueError, match="expected selective, identity or dwconv"):
        VSSBlock(8, scan="none")
