"""Recipes of equal time, and the comparison that trains them."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml

from mamba_unet.runs import RunFolder
from mamba_unet.training.recipe import experiment, load_recipe

SHORT = ("--turns", 1, "--steps", 4)


def test_recipes_of_equal_time_are_measured_written_and_compared(run_benchmark, source, recipes, tmp_path, monkeypatch):
    out = tmp_path / "out"
    words = [*recipes, "--source", source, "--out", out, "--minutes", 60, *SHORT, "--batch_size", 4]
    page = run_benchmark("rates", *words)
    assert "| mamba |" in page and "| control |" in page and str(tmp_path) not in page
    written = [out / "recipes" / path.name for path in recipes]
    for path in written:
        recipe = load_recipe(path)
        assert recipe.batch_size == 4 and recipe.minutes is None, "overrides are part of it"
        assert recipe.view.size == (32, 32) and recipe.iterations > 1000
        assert recipe.validate_every == -(-recipe.iterations // 5)
    assert load_recipe(written[1]).model.name == "mamba_unet_no_scan"
    with monkeypatch.context() as patch:
        patch.setattr("mamba_unet.training.train.train", lambda *_, **__: pytest.fail("measured again"))
        assert run_benchmark("rates", *words) == page, "what was measured is kept"
        with pytest.raises(SystemExit, match="was measured with"):
            run_benchmark("rates", *words, "--batch_size", 2)
        with pytest.raises(SystemExit, match=r"mamba.yaml is there already and says something else"):
            run_benchmark("rates", *(30 if word == 60 else word for word in words))

    for path in written:  # so many iterations would take an hour
        text = path.read_text()
        keys = yaml.safe_load(text) | {"iterations": 2, "validate_every": 2}
        path.write_text(text.splitlines()[0] + "\n" + yaml.safe_dump(keys))
    compared = ["comparison", *written, "--source", source, "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr("mamba_unet.comparison.run.train", lambda *_, **__: pytest.fail("trained"))
        with pytest.raises(SystemExit):
            run_benchmark(*compared, "--only-finished")
    page = run_benchmark(*compared, "--seeds", "0,1", "--keep", tmp_path / "kept")
    assert "Equal time for each training: as many iterations as fit by benchmarks/results/rates_phantom_" in page
    assert "out/recipes/mamba.yaml" in page and str(tmp_path) not in page
    progress = json.loads((out / "comparison" / "runs" / "control" / "seed1" / "progress.json").read_text())
    assert progress["iteration"] == 2

    shutil.rmtree(out / "comparison")
    kept = [path.relative_to(tmp_path / "kept").as_posix() for path in sorted((tmp_path / "kept").rglob("*.zip"))]
    assert kept == [f"{path.stem}/seed{seed}.zip" for path in sorted(written) for seed in (0, 1)]
    with monkeypatch.context() as patch:
        patch.setattr("mamba_unet.comparison.run.train", lambda *_, **__: pytest.fail("trained again"))
        again = run_benchmark(*compared, "--seeds", "0,1", "--keep", tmp_path / "kept")
    assert again == page and str(tmp_path) not in read_zip(tmp_path / "kept" / kept[0], "recipe.yaml")
    written[1].write_text(written[1].read_text().replace("fit in 60 minutes", "fit in 30 minutes"))
    assert "Unequal times, 30 and 60 minutes" in run_benchmark(*compared, "--seeds", "0,1")


def test_equal_time_is_said_where_it_is_so(benchmark):
    said = benchmark("comparison").said_of_time
    rated = "# As many iterations of a as fit in 20 minutes, by benchmarks/results/rates_x.md\n"
    assert said({"a": rated, "b": rated}, ["--seeds", "0"]).startswith("Equal time")
    assert "b.yaml was not given" in said({"a": rated, "x/b.yaml": "base: a\n"}, [])
    changed = said({"a": rated}, ["--iterations", "4", "--view.size=[8, 8]"])
    assert changed.startswith("The command changes iterations, view.size of the recipes")
    for word in ("--image_size", "--view"):
        assert said({"a": rated}, [word, "8"]).startswith(f"The command changes {word.removeprefix('--')} of")
    assert said({"a": rated}, ["--trainer.accelerator", "cpu"]).startswith("Equal time")


def test_what_was_measured_by_weights_of_before_is_not_kept(benchmark, tmp_path, capsys):
    kept, run = benchmark("kept"), tmp_path / "runs" / "a" / "seed0"
    (run / "evaluation_test").mkdir(parents=True)
    (run / "progress.json").write_text(json.dumps({"iteration": 2, "iterations": 2}))
    (run / "recipe.yaml").write_text("iterations: 2\n")
    (run / "best.safetensors").write_bytes(b"weights")
    made = run / "evaluation_test" / "made_by.json"
    for sha256, there in (("0" * 64, []), (hashlib.sha256(b"weights").hexdigest(), ["seed0.zip"])):
        made.write_text(json.dumps({"checkpoint_sha256": sha256}))
        kept.keep(tmp_path / "runs", tmp_path / "kept")
        assert [path.name for path in tmp_path.glob("kept/a/*")] == there
    assert "evaluation_test was made by weights of before" in capsys.readouterr().out
    made.rename(run / "made_by.json")
    assert not kept.is_measured(RunFolder(run))


def test_minutes_are_those_of_another_machine(benchmark):
    rates = benchmark("rates")
    here = {"a": rates.Rate([0.1, 0.2, 0.3], [1.0]), "new": rates.Rate([0.4], [2.0]), "b": rates.Rate([1.0], [1.0])}
    there = {"a": rates.Rate([0.4], [3.0]), "b": rates.Rate([4.0], [1.0]), "gone": rates.Rate([9.0], [9.0])}
    ratios = rates.ratios_to(there, here)
    assert ratios == {"iterations": 3.0, "validations": 2.0}, "medians of 0.4 / 0.2 and 4 / 1, of 3 / 1 and 1 / 1"
    new = rates.brought_to(ratios, here["new"])
    assert new.iterations == [pytest.approx(1.2)] and new.validations == [4.0]
    with pytest.raises(ValueError, match="no recipe in common: there gone; here a, new, b"):
        rates.ratios_to({"gone": there["gone"]}, here)
    assert rates.ratios_to({"gone": there["gone"]}, here, otherwise=ratios) == ratios
    assert rates.ratios_to(there, here, otherwise={"iterations": 9.0, "validations": 9.0}) == ratios


KEPT = sorted((Path(__file__).parents[2] / "benchmarks" / "results" / "trainings").glob("*/recipes"))


@pytest.mark.parametrize("recipes", KEPT, ids=[recipes.parent.name for recipes in KEPT])
def test_kept_trainings_are_of_the_recipes_beside_them(recipes):
    for kept in recipes.parent.glob("*/*.zip"):
        trained = yaml.safe_load(read_zip(kept, "recipe.yaml"))
        recipe = load_recipe(recipes / f"{kept.parent.name}.yaml", {"seed": trained["seed"]})
        assert experiment(load_recipe(recipe, trained)) == experiment(recipe), kept


def read_zip(path, name) -> str:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name).decode()


def test_the_budget_holds_iterations_and_validations(benchmark, recipes):
    rates, recipe = benchmark("rates"), load_recipe(recipes[0])
    rate = rates.Rate([0.5, 0.2, 0.4], [10.0, 12.0])
    # 5 validations of 11 s leave 545 of 600 s: 1362 iterations of 0.4 s
    keys = rates.budget(rate, recipe, minutes=10, validations=5)
    assert keys == {"iterations": 1362, "validate_every": 273, "minutes": None, "optimizer.warmup": 136}
    assert rates.budget(rate, recipe, minutes=60, validations=5)["optimizer.warmup"] == 200, "the recipe's own"
    with pytest.raises(ValueError, match=r"0 iterations of 0\.40 s fit beside 5 validations of 11\.0 s"):
        rates.budget(rate, recipe, minutes=0.5, validations=5)
