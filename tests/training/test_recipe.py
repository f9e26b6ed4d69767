import dataclasses
from pathlib import Path

import pytest

from mamba_unet.models.registry import BASELINE_SIZES, SIZES, list_models, model_spec
from mamba_unet.training.recipe import (
    PLACE_KEYS,
    Recipe,
    RecipeError,
    experiment,
    list_recipes,
    load_recipe,
    recipe_text,
    save_recipe,
)
from mamba_unet.views.patches import Patches
from mamba_unet.views.slices import Slices

PUBLISHED = list(list_recipes())


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_recipe_loads_and_names_a_network_there_is(name):
    recipe = load_recipe(name)
    assert recipe.model.name in list_models()
    assert recipe.model.size is None or recipe.model.size in BASELINE_SIZES.get(recipe.model.name, SIZES)


@pytest.mark.parametrize("name", ["acdc_mamba_unet", "synapse_mamba_unet"])
def test_the_papers_recipes_are_the_papers(name):
    recipe = load_recipe(name)
    assert (recipe.iterations, recipe.batch_size, recipe.view.size) == (10_000, 24, (224, 224))
    o = recipe.optimizer
    assert (o.name, o.lr, o.momentum, o.weight_decay, o.power) == ("sgd", 0.01, 0.9, 1e-4, 0.9)
    assert recipe.validate_every == 200 and recipe.augment == "paper"


def test_command_line_words_override_the_file(tmp_path):
    path = write(tmp_path / "r.yaml", "iterations: 7\noptimizer: {lr: 0.1, name: adamw}\n")
    recipe = load_recipe(path, ["--optimizer.lr", "0.5", "--data=here", "--image_size", "[64, 32]"])
    assert (recipe.iterations, recipe.optimizer.lr, recipe.optimizer.name) == (7, 0.5, "adamw")
    assert (recipe.data, recipe.view.size) == ("here", (64, 32))


def test_one_constructor_argument_can_be_overridden_on_the_command_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {size: nano, arguments: {d_state: 8}}")
    recipe = load_recipe(path, ["--model.arguments.drop_path_rate", "0.1"])
    assert recipe.model.arguments == {"d_state": 8, "drop_path_rate": 0.1}


def test_a_saved_recipe_loads_as_it_was(tmp_path):
    recipe = Recipe(data="d", view=Slices((32, 64), image="smooth"))
    recipe.model.arguments = {"d_state": 8}
    save_recipe(tmp_path / "r.yaml", recipe)
    assert load_recipe(tmp_path / "r.yaml") == recipe


def test_a_recipe_overrides_its_base_key_by_key(tmp_path):
    write(tmp_path / "root.yaml", "iterations: 7\nbatch_size: 3\noptimizer: {name: adamw, lr: 0.1}\n")
    write(
        tmp_path / "middle.yaml", "base: root.yaml\nbatch_size: 5\nmodel: {arguments: {d_state: 8, depths: [1, 1]}}\n"
    )
    (tmp_path / "networks").mkdir()
    path = write(
        tmp_path / "networks" / "leaf.yaml",
        "base: ../middle.yaml\noptimizer: {lr: 0.5}\nmodel: {arguments: {d_state: 4}}\n",
    )
    recipe = load_recipe(path, ["--iterations", "9"])
    assert (recipe.iterations, recipe.batch_size) == (9, 5)
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("adamw", 0.5)
    assert recipe.model.arguments == {"d_state": 4, "depths": [1, 1]}


@pytest.mark.parametrize(
    ("root", "leaf", "message"),
    [
        (
            "itterations: 3",
            "base: root.yaml",
            r"root\.yaml: unknown recipe key 'itterations'; did you mean 'iterations'",
        ),
        ("iterations: 3", "base: root.yaml\noptimizer: {lrate: 1}", r"leaf\.yaml: .*did you mean 'optimizer.lr'"),
        ("iterations: 3", "bass: root.yaml", r"leaf\.yaml: .*did you mean 'base'"),
        ("base: leaf.yaml", "base: root.yaml", r"circle: .*leaf\.yaml -> .*root\.yaml -> .*leaf\.yaml"),
        ("- a", "base: root.yaml", r"root\.yaml: expected a mapping"),
    ],
)
def test_a_mistake_in_a_recipe_or_its_base_names_the_file(tmp_path, root, leaf, message):
    write(tmp_path / "root.yaml", root)
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path / "leaf.yaml", leaf))


def test_a_base_that_is_not_there_is_said_with_the_file_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml, named as base by .*leaf\.yaml"):
        load_recipe(write(tmp_path / "leaf.yaml", "base: absent.yaml"))


VOLUMES = {name for name in list_models() if model_spec(name).spatial_dims == 3}
FINE = {"mamba_unet_fine", "mamba_unet_fine_no_scan", "mamba_unet_fine_dwconv"}


@pytest.mark.parametrize(
    ("base", "without"),
    [
        ("acdc_base", FINE | VOLUMES),
        ("acdc_cpu", {"mamba_unet", *FINE} | VOLUMES),
        ("acdc_scratch", {"mamba_unet_fine", "mamba_unet_no_scan", "mamba_unet_dwconv"} | VOLUMES),
        ("acdc_3d", {"mamba_unet_3d"} | set(list_models()) - VOLUMES),
    ],
)
def test_recipes_of_one_base_differ_in_nothing_but_the_network(base, without):
    heirs = [name for name in PUBLISHED if f"base: {base}\n" in recipe_text(name) and name != "acdc_few"]
    recipes = [load_recipe(name) for name in heirs]
    assert {recipe.model.name for recipe in recipes} == set(list_models()) - without
    assert all(dataclasses.replace(recipe, model=recipes[0].model) == recipes[0] for recipe in recipes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("itterations: 3", r"r\.yaml: unknown recipe key 'itterations'; did you mean 'iterations'"),
        ("optimizer: {lrate: 3}", "unknown recipe key 'optimizer.lrate'; did you mean 'optimizer.lr'"),
        ("momentum: 0.5", "did you mean 'optimizer.momentum'"),
        ("optimizer: {learning_rate: 3}", "unknown .*; did you mean 'optimizer.lr'"),
        ("trainer: {gpus: 2}", "known keys: base, data"),
        ("trainer: {devices: 0}", "number of devices from 1 on, auto, .* got 0"),
        ("trainer: {devices: two}", "number of devices from 1 on, auto, .* got 'two'"),
        ("optimizer: {lr_pretrained_factor: -1}", "must not be negative"),
        ("optimizer: {warmup: -5}", "optimizer.warmup must not be negative, got -5"),
        ("optimizer: {clip_norm: 0}", "optimizer.clip_norm must be more than 0, or null for no clipping"),
        ("loggers: [csv, tensorbored]", "tensorboard"),
        ("optimizer: 3", "'optimizer' is a group of keys, got 3"),
        ("iterations: many", "yaml: iterations: expected whole number, got many"),
        ("labelled: patient1", "yaml: labelled: expected whole number or list of text or null, got patient1"),
        ("few_labels: {partners: [unet]}", "partners: expected list of mapping with name, size, arguments; .* unet"),
        ("few_labels: {partners: [{nam: unet}]}", "partners: expected .*; Option 'nam' is not accepted"),
        ("view: {size: [a, b]}", "view.size: expected 2 whole numbers, got a"),
        ("optimizer: {name: adam}", "expected `sgd` or `adamw`, got adam"),
        ("batch_size: 0", "at least 1"),
        ("seed: -1", "must not be negative"),
        ("minutes: 0", "minutes must be more than 0"),
        ("minutes: .nan", "minutes must be more than 0"),
        ("optimizer: {lr: .inf}", "optimizer.lr must not be negative, got inf"),
        ("optimizer: {lr: null}", "optimizer.lr must not be negative, got None"),
        ("optimizer: {clip_norm: .nan}", "clip_norm must be more than 0, or null for no clipping, got nan"),
        ("optimizer: {momentum: 9}", "optimizer.momentum must not be negative and less than 1, got 9"),
        ("workers: -1", "workers must not be negative, or null"),
        ("trainer: {precision: bf16-true}", "expected .*`bf16-mixed`.*, got bf16-true"),
        ("optimizer: {lr: 0.1}\nseed: 3\noptimizer: {ema: 0.9}", "optimizer is given twice; leave one"),
        ("image_size: [3, 4]\nview: {size: [5, 6]}", "image_size and view.size are the same; leave image_size out"),
        ("optimizer: {ema: 1}", "optimizer.ema must be from 0 to less than 1"),
        ("augment: heavy", "augment: expected `none` or `paper` or `nnunet` or true or false, got heavy"),
        ("- a\n- b", "expected a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_and_the_way_out_named(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path / "r.yaml", text))


def test_a_group_of_keys_that_is_empty_changes_nothing(tmp_path):
    path = write(tmp_path / "r.yaml", "base: acdc_few_scribble\nview:\n#  fit: resize\noptimizer:\nmodel:\n")
    assert load_recipe(path) == load_recipe("acdc_few_scribble")


def test_an_unknown_word_on_the_command_line_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'iterations'"):
        load_recipe(write(tmp_path / "r.yaml", "{}"), ["--itterations", "3"])


def test_a_recipe_that_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no recipe at"):
        load_recipe(tmp_path / "absent.yaml")


def test_a_published_recipe_goes_by_its_name_and_serves_as_a_base(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # a folder of that name is no recipe
    assert load_recipe("demo").model.size == "micro"
    recipe = load_recipe(write(tmp_path / "mine.yaml", "base: acdc_unet\nbatch_size: 2"))
    assert (recipe.model.name, recipe.batch_size, recipe.optimizer.lr) == ("unet", 2, 0.01)
    write(tmp_path / "demo.yaml", "iterations: 3")
    assert load_recipe("demo.yaml").iterations == 3
    assert list_recipes()["demo"].startswith("A small network for")
    assert recipe_text("demo").startswith("# A small network for")


@pytest.mark.parametrize("word", ["acdc_unett", "recipes/acdc_unet.yaml"])
def test_a_name_that_no_recipe_has_is_answered_with_the_nearest(word):
    with pytest.raises(FileNotFoundError, match="did you mean 'acdc_unet'"):
        load_recipe(word)


@pytest.mark.parametrize(
    "changes", [{"optimizer.lr": 0.5, "iterations": 3}, {"optimizer": {"lr": 0.5}, "iterations": 3}]
)
def test_keys_are_overridden_by_arguments_of_a_recipe_and_of_a_name(changes):
    for start in ("demo", load_recipe("demo")):
        recipe = load_recipe(start, changes)
        assert (recipe.optimizer.lr, recipe.iterations, recipe.optimizer.name) == (0.5, 3, "adamw")
    with pytest.raises(RecipeError, match=r"arguments: .*did you mean 'optimizer.lr'"):
        load_recipe("demo", {"optimizer.learning_rate": 0.5})


def test_where_a_run_is_computed_is_no_part_of_the_experiment():
    here = load_recipe("demo", {"data": "a", "out": "b", "workers": 3, "loggers": ["csv"], "trainer.devices": 2})
    assert experiment(here) == experiment(load_recipe("demo"))
    assert PLACE_KEYS.isdisjoint({"trainer.precision", "trainer.deterministic", "model.arguments", "pretrained"})
    assert experiment(here) != experiment(load_recipe(here, {"trainer.precision": "bf16-mixed"}))


@pytest.mark.parametrize(
    ("given", "meant"), [("true", "paper"), ("false", "none"), ("none", "none"), ("nnunet", "nnunet")]
)
def test_augmentation_has_names_and_its_old_two_values(tmp_path, given, meant):
    assert load_recipe(write(tmp_path / "r.yaml", f"augment: {given}")).augment == meant
    assert load_recipe("demo", ["--augment", given]).augment == meant


def test_a_view_is_of_one_kind_which_decides_its_keys(tmp_path):
    path = write(tmp_path / "r.yaml", "view: {kind: patches, size: [4, 8, 8]}\naugment: nnunet\nbatch_size: plan\n")
    recipe = load_recipe(path, ["--view.foreground", "0.5", "--view.spacing_mm=[8,1.5,1.5]"])
    assert recipe.view == Patches((4, 8, 8), (8, 1.5, 1.5), foreground=0.5) and recipe.batch_size == "plan"
    save_recipe(tmp_path / "saved.yaml", recipe)
    assert load_recipe(tmp_path / "saved.yaml") == recipe and experiment(recipe)["view.kind"] == "patches"
    assert load_recipe(path).view == Patches((4, 8, 8)) and load_recipe(path, {"view.size": "plan"}).view == Patches()
    flat = write(tmp_path / "flat.yaml", "view: {fit: crop}\naugment: nnunet")
    solid = write(tmp_path / "solid.yaml", "base: flat.yaml\nview: {kind: patches}")
    assert load_recipe(solid).view == Patches() and load_recipe(flat).view == Slices(fit="crop")
    for recipe in (load_recipe(flat, ["--view.kind", "patches"]), load_recipe(flat, {"view.kind": "patches"})):
        assert recipe.view == Patches()
    for text, message in (
        ("view: {kind: patches, fit: crop}\naugment: nnunet", "view.fit is no key of patches, which has size"),
        ("view: {kind: cubes}", "view.kind 'cubes'; expected one of slices, patches"),
        ("view: {kind: patches}", "augment is 'paper', and for patches there are none, nnunet"),
        ("batch_size: plan", "'plan', which is for patches"),
    ):
        with pytest.raises(RecipeError, match=message):
            load_recipe(write(tmp_path / "wrong.yaml", text))
