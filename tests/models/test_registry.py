import pytest
import torch

from mamba_unet import build_model, list_models
from mamba_unet.models.registry import model_spec, name_of


def test_every_listed_model_is_built():
    for name in list_models():
        assert build_model(name, in_channels=2, num_classes=3, size="nano") is not None


def test_sizes_by_name_and_arguments_that_win_over_them():
    model = build_model("mamba_unet", size="nano", dims=(8, 16, 32))
    assert model.patch_embed.proj.out_channels == 8
    assert build_model("mamba_unet", size="tiny-d9").layers[2].blocks[8] is not None


@pytest.mark.parametrize(("name", "parameters"), [("mamba_unet_3d", 24_194_148), ("unet_3d", 30_964_196)])
def test_a_network_for_volumes_knows_its_axes_and_what_it_is_by_its_class(name, parameters):
    with torch.device("meta"):
        network = build_model(name, in_channels=3)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert model_spec(name).spatial_dims == 3 and name_of(network) == name
    assert model_spec("mamba_unet").spatial_dims == 2


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [({"name": "mamba-unet"}, "'mamba_unet'"), ({"name": "mamba_unet", "size": "tny"}, "'tiny'")],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(arguments, hint):
    with pytest.raises(ValueError, match=f"Did you mean {hint}"):
        build_model(**arguments)
