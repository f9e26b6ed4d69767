"""Recipes for few labels and scribbles beside a supervised one: one comparison, its tables, and a run's report."""

import json
import re
import shutil

import numpy as np
import pytest

from mamba_unet.cli import main
from mamba_unet.comparison.run import compare
from mamba_unet.data import PreparedDataset, prepare, write_scribbles
from mamba_unet.inference.evaluate import evaluate_checkpoint
from mamba_unet.report import write_report
from mamba_unet.training.batches import TrainingData
from mamba_unet.training.recipe import RecipeError, load_recipe
from mamba_unet.training.train import train
from mamba_unet.views.labels import IGNORE
from mamba_unet.views.slices import Slices

KEYS = {
    "supervised": {},
    "teacher": {"objective": "mean_teacher", "labelled": 2, "few_labels": {"validated": 1}},
    "scribbles": {"objective": "partial_ce", "annotation": "scribble", "view": {"outside": "ignore"}},
}


@pytest.fixture(scope="module")
def drawn(phantom, tmp_path_factory):
    """The phantom with scribbles beside its labels."""
    folder = tmp_path_factory.mktemp("drawn")
    write_scribbles(phantom, folder / "raw", progress=False)
    return prepare(folder / "raw", folder / "prepared", splits=folder / "raw" / "splits.json", progress=False)


@pytest.fixture(scope="module")
def compared(recipes, drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp("few")
    named = {name: load_recipe(load_recipe(recipes[0]), keys) for name, keys in KEYS.items()}
    return compare(named, drawn.folder, out), out


def test_the_tables_say_what_each_learned_from_and_on_what_all_were_measured(compared, drawn):
    comparison, out = compared
    table = comparison.networks()
    column = [row[table.titles.index("learned from")] for row in table.rows]
    assert column[:2] == ["5 patients", "2 patients and 3 without labels"]
    assert re.fullmatch(r"5 patients' scribbles \(\d\.\d+ %\)", column[2])
    said = json.loads((out / "comparison.json").read_text())
    (run,) = said["networks"]["teacher"]["trainings"]
    assert (run["labelled_patients"], run["unlabelled_patients"]) == (2, 3)
    assert list(run["validation_dice_of_others"]) == ["student"]
    assert "Measured on dense labels, whatever was learned from" in (out / "table.md").read_text()


def test_checkpoints_and_evaluations_say_what_was_learned_from(compared, drawn, capsys):
    folder = compared[1] / "runs" / "teacher" / "seed0"
    assert main(["info", str(folder)]) == 0
    assert "learned from   2 patients and 3 without labels" in capsys.readouterr().out
    assert main(["evaluate", str(folder), "--data", str(drawn.folder), "--split", "val"]) == 0
    assert "learned from 2 patients and 3 without labels." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("annotation", "said"),
    [("scribble", "annotation is scribble"), ("label", "objective is partial_ce, pixels of the labels are open")],
)
def test_scribbles_are_not_learned_with_background_that_nobody_marked(
    recipes, drawn, tmp_path, monkeypatch, annotation, said
):
    monkeypatch.setattr(PreparedDataset, "has_ignored", True)
    keys = {**KEYS["scribbles"], "view": {"outside": "background"}, "annotation": annotation}
    with pytest.raises(RecipeError, match=rf"{said}, and view\.outside is background: .*outside=ignore"):
        compare({"a": load_recipe(load_recipe(recipes[0]), keys)}, drawn.folder, tmp_path)


def test_scribbles_that_were_forgotten_are_asked_for(recipes, drawn, tmp_path, caplog):
    keys = {**KEYS["scribbles"], "annotation": "label", "iterations": 1, "out": str(tmp_path / "run")}
    train(load_recipe(load_recipe(recipes[0], keys), {"data": str(drawn.folder)}))
    assert "objective partial_ce is for scribbles, but every pixel of the training cases' labels has" in caplog.text


def test_a_complete_run_is_not_compared_when_its_scribbles_have_changed(compared, drawn, monkeypatch):
    monkeypatch.setattr(PreparedDataset, "marked", lambda *_: (0.1, "other"))
    recipe = load_recipe(compared[1] / "runs" / "scribbles" / "seed0" / "recipe.yaml")
    with pytest.raises(RecipeError, match="learned from other scribbles than"):
        compare({"scribbles": recipe}, drawn.folder, compared[1])


def test_the_network_beside_the_chosen_one_is_measured_into_a_folder_of_its_own(compared, drawn):
    folder = compared[1] / "runs" / "teacher" / "seed0"
    before = (folder / "evaluation_test" / "summary.json").read_bytes()
    evaluation = evaluate_checkpoint(folder / "best_student.safetensors", drawn)
    assert "Measured on dense labels: every pixel counts." in evaluation.notes()
    assert (folder / "evaluation_student_test" / "summary.json").is_file()
    assert (folder / "evaluation_test" / "summary.json").read_bytes() == before


@pytest.mark.parametrize("left", [[0, 1, 2, 3], [1, 2, 3], []])
def test_scribbles_without_the_background_are_told_and_without_any_mark_refused(drawn, tmp_path, left):
    data = shutil.copytree(drawn.folder, tmp_path / "data")
    for file in (data / "scribbles").iterdir():
        marks = np.load(file)
        np.save(file, np.where(np.isin(marks, left), marks, IGNORE))
    source = TrainingData(PreparedDataset(data), Slices(outside="ignore"), annotation="scribble")
    if left:
        assert source.absent_classes() == [drawn.class_names[index] for index in {0, 1, 2, 3} - {*left}]
    else:
        with pytest.raises(ValueError, match=r"no pixel of the training cases' scribbles is marked .*; mark some of"):
            source.absent_classes()


def test_a_report_shows_pseudo_labels_and_what_was_learned_from(compared):
    runs = compared[1] / "runs"
    page = write_report(runs / "teacher" / "seed0").read_text()
    assert "trained on 2 patients (2 cases), and on images of 3 patients without labels" in page
    assert "objective mean_teacher; trained beside student, whose best validation Dice is 0." in page
    moments = page[page.index("<h2>Pseudo labels</h2>") :]
    assert moments.count("teacher, iteration 2</small>") == moments.count("teacher, iteration 4</small>") == 3
    assert "student, iteration" not in moments and "ground truth" in moments
    assert "style='--columns: 2'" in moments  # image and truth, and below them the moments
    assert "With labels: 2 patients of the split train" in page
    assert "Pseudo labels" not in write_report(runs / "supervised" / "seed0").read_text()
    assert re.search(
        r"by scribbles on \d\.\d+ % of their pixels", write_report(runs / "scribbles" / "seed0").read_text()
    )
