"""The recipes that come with the package, listed and printed."""

from mamba_unet.cli import main


def test_recipes_are_listed_with_what_they_train(monkeypatch, capsys):
    listed = {"acdc_unet": "U-Net on ACDC", "base": "what all share"}
    monkeypatch.setattr("mamba_unet.training.recipe.list_recipes", lambda: listed, raising=False)
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["acdc_unet  U-Net on ACDC", "base       what all share"]


def test_a_recipe_is_printed_as_it_is(monkeypatch, capsys):
    text = {"acdc_unet": "# U-Net\nmodel: {name: unet}\n"}
    monkeypatch.setattr("mamba_unet.training.recipe.recipe_text", text.__getitem__, raising=False)
    assert main(["recipe", "acdc_unet"]) == 0
    assert capsys.readouterr().out == text["acdc_unet"]
