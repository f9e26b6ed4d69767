import pytest

from mamba_unet.models.baselines.unet import UNet


def test_it_has_the_public_names_and_logits(assert_conforms):
    model = UNet()
    assert_conforms(model, "unet")
    assert sum(p.numel() for p in model.parameters()) == 1_813_764


def test_another_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="five channels"):
        UNet(channels=(8, 16, 32))
