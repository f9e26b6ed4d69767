"""The commands as functions, and the page that documents them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mamba_unet as mu
from mamba_unet.data import PreparedDataset, write_phantom
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.training.recipe import RecipeError, load_recipe
from mamba_unet.views.slices import Slices

DOCS = Path(__file__).parents[1] / "docs" / "python.md"
NANO = {"size": "nano", "dims": [8, 16, 32]}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom") / "raw", cases=6, seed=0)


@pytest.fixture(scope="module")
def prepared(raw) -> PreparedDataset:
    return mu.prepare(raw, raw.parent / "data", progress=False)


def save_untrained(prepared: PreparedDataset, run: Path) -> Path:
    """A run folder with a network that has learnt nothing."""
    config = NANO | {"num_classes": len(prepared.class_names)}
    preprocessing = prepared.preprocessing(Slices((32, 32))).to_json()
    metadata = CheckpointMetadata("mamba_unet", config, prepared.class_names, preprocessing)
    save_checkpoint(run / "best.safetensors", mu.build_model("mamba_unet", **config), metadata)
    return run


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    return save_untrained(prepared, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def labels(prepared, tmp_path_factory) -> Path:
    """The labels of the test cases as another program's predictions."""
    folder = tmp_path_factory.mktemp("labels")
    for name in prepared.split("test"):
        np.savez(folder / f"{name}.npz", label=prepared.case(name).label)
    return folder


def test_importing_the_package_imports_nothing_heavy_and_knows_all_names():
    code = (
        "import sys, mamba_unet; assert set(mamba_unet.__all__) == set(dir(mamba_unet));"
        "print(sorted({'torch', 'numpy', 'lightning', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        mu.tarin  # noqa: B018


def test_predictions_of_others_are_measured_and_written_beside_them(prepared, labels, tmp_path):
    folder = Path(shutil.copytree(labels, tmp_path / "labels"))
    evaluation = mu.evaluate(None, prepared.folder, predictions=folder)
    assert evaluation.mean_foreground_dice == 1
    assert (folder / "evaluation" / "summary.json").is_file()
    for given in ({"checkpoint": "run", "predictions": folder}, {"checkpoint": None}):
        with pytest.raises(ValueError, match="one of the two"):
            mu.evaluate(data=prepared, **given)


def test_a_network_is_measured_and_predicts(prepared, run, raw, tmp_path):
    evaluation = mu.evaluate(run, prepared, out=tmp_path / "evaluated", device="cpu")
    assert list(evaluation.cases) == prepared.split("test")
    name = prepared.split("test")[0]
    done = mu.predict(run, raw / "imagesTr" / f"{name}_0000.nii.gz", tmp_path / "out", device="cpu")
    assert len(done.written) == 1 and not done.failures
    pair = mu.predict([run, run], out=tmp_path / "pair", data=prepared, device="cpu")
    assert list(pair.written) == prepared.split("test")
    with pytest.raises(ValueError, match="nothing to predict"):
        mu.predict(run)


def test_labels_are_measured_with_or_without_files(raw, tmp_path):
    found = mu.measure(raw / "labelsTr", dataset="acdc")
    assert len(found.cases) == 6 and not found.hearts and not found.failures
    again = mu.measure([raw / "labelsTr"], tmp_path / "out", dataset="acdc")
    assert [case.rows for case in again.cases] == [case.rows for case in found.cases]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["statistics.csv", "statistics.json"]
    with pytest.raises(ValueError, match="no data set is known as 'heart'"):
        mu.measure(raw / "labelsTr", dataset="heart")


def test_predictions_alone_can_be_compared(prepared, labels, tmp_path):
    comparison = mu.compare({}, prepared.folder, tmp_path, external=[("a", labels), ("b", labels)])
    assert comparison.tests[0]["ties"] == len(set(comparison.evaluation.cases.values()))
    assert (tmp_path / "comparison.html").is_file()


def test_two_recipes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two recipes are called 'a'"):
        mu.compare(["x/a.yaml", "y/a.yaml"], "data", "out")


def test_one_word_is_not_taken_for_its_letters(prepared, tmp_path):
    label = tmp_path / "a.npz"
    np.savez(label, label=np.ones((2, 2, 2), np.uint8))
    (case,) = mu.measure(label, class_names="LV").cases
    assert [one.structure for one in case.structures] == ["LV"]
    with pytest.raises(ValueError, match="class_names and dataset both name the classes"):
        mu.measure(label, class_names=["LV"], dataset="acdc")
    with pytest.raises(ValueError, match="part 0/4: expected K/N with K from 1 to N"):
        mu.compare("acdc_unet", prepared.folder, tmp_path / "out", part=(0, 4))


def test_keys_of_recipes_can_be_overridden(monkeypatch, tmp_path):
    (tmp_path / "a.yaml").write_text("iterations: 5\n")
    taken = {}
    monkeypatch.setattr("mamba_unet.comparison.run.compare", lambda recipes, *_, **__: taken.update(recipes))
    mu.compare([tmp_path / "a.yaml"], "data", "out", iterations=7, **{"optimizer.lr": 0.5, "pretrained": None})
    assert (taken["a"].iterations, taken["a"].optimizer.lr, taken["a"].pretrained) == (7, 0.5, None)


@pytest.mark.parametrize("key", ["seed", "fold"])
def test_a_comparison_takes_no_seed_or_fold_of_its_recipes(tmp_path, key):
    with pytest.raises(ValueError, match=rf"{key} cannot be set in a comparison; .*seeds="):
        mu.compare({"one": load_recipe("acdc_cpu")}, tmp_path, tmp_path / "out", **{key: 7})


def test_the_code_of_the_documentation_runs(raw, tmp_path, monkeypatch, capsys):
    """All blocks but those that train, in their order, on a phantom in the place of the reader's data."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(raw, "path/to/data")
    (tmp_path / "new_images").mkdir()
    shutil.copy(raw / "imagesTr" / "phantom_001_0000.nii.gz", "new_images/a.nii.gz")
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(blocks[0], names)
    save_untrained(names["prepared"], tmp_path / "runs" / "own")
    (tmp_path / "their_predictions").mkdir()
    for name in names["prepared"].split("test"):
        np.save(f"their_predictions/{name}.npy", names["prepared"].case(name).label)
    for block in blocks[1:]:
        exec(block, names)
    assert names["done"].written and not names["done"].failures
    assert names["theirs"].mean_foreground_dice == 1
    assert "foreground mean" in capsys.readouterr().out


def test_the_documentation_names_every_function():
    text = DOCS.read_text(encoding="utf-8")
    for name in ("check", "prepare", "train", "load", "evaluate", "predict", "measure", "compare"):
        assert f"`mu.{name}(" in text and name in mu.__all__


def test_keys_of_compare_hold_for_recipes_that_are_objects_too(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'iterations'"):
        mu.compare({"one": load_recipe("acdc_cpu")}, tmp_path, tmp_path / "out", itterations=3)
