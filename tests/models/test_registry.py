import pytest

from mamba_unet import build_model, list_models


def test_every_listed_model_is_built():
    for name in list_models():
        assert build_model(name, in_channels=2, num_classes=3, size="nano") is not None


def test_sizes_by_name_and_arguments_that_win_over_them():
    model = build_model("mamba_unet", size="nano", dims=(8, 16, 32))
    assert model.patch_embed.proj.out_channels == 8
    assert build_model("mamba_unet", size="tiny-d9").layers[2].blocks[8] is not None


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [({"name": "mamba-unet"}, "'mamba_unet'"), ({"name": "mamba_unet", "size": "tny"}, "'tiny'")],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(arguments, hint):
    with pytest.raises(ValueError, match=f"Did you mean {hint}"):
        build_model(**arguments)
