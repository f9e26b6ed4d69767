import pytest
import torch

from mamba_unet import build_model


def test_it_computes_what_monais_network_does():
    """The same weights, with MONAI's own forward pass and instance normalisation."""
    from monai.networks.nets import DynUNet

    torch.manual_seed(0)
    ours = build_model("unet_3d", channels=(8, 16, 32), spacing=(8, 1.5, 1.5)).eval()
    kernels, strides = [(1, 3, 3), (1, 3, 3), (3, 3, 3)], [(1, 1, 1), (1, 2, 2), (1, 2, 2)]
    theirs = DynUNet(3, 1, 4, kernels, strides, strides[1:], [8, 16, 32]).eval()
    parts = {name: value for name, value in theirs.state_dict().items() if not name.startswith("skip_layers.")}
    ours.load_state_dict(parts)
    x = torch.randn(2, 1, 5, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spacing", "patch_size", "stride", "channels"),
    [
        ((5, 1.5625, 1.5625), (20, 256, 224), (4, 32, 32), (32, 64, 128, 256, 320, 320)),
        ((1, 1, 1), (32, 32, 32), (8, 8, 8), (32, 64, 128, 256)),
        ((1, 1, 1), (4, 4, 4), (1, 1, 1), (32, 64, 128)),
    ],
)
def test_it_is_as_deep_as_the_patch_allows(spacing, patch_size, stride, channels):
    with torch.device("meta"):
        model = build_model("unet_3d", spacing=spacing, patch_size=patch_size)
    assert model.stride == stride and model.channels == channels
