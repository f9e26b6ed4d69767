"""The command `compare` from recipes to files."""

import csv
import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from mamba_unet.cli import main
from mamba_unet.comparison import run as run_module
from mamba_unet.comparison.run import compare
from mamba_unet.data.splits import shipped_split
from mamba_unet.evaluation.summary import Evaluation
from mamba_unet.training.loop import Training
from mamba_unet.training.recipe import RecipeError, load_recipe

FIGURES = ("differences", "patients", "training", "segmentations", "image_dice")
WRITTEN = [
    "comparison.html",
    "comparison.json",
    *(f"figures/{name}.png" for name in FIGURES),
    "significance.csv",
    "significance.md",
    "table.csv",
    "table.md",
    "table.tex",
]


def words(recipes, data, out, *more) -> list[str]:
    return ["compare", *map(str, recipes), "--data", str(data), "--out", str(out), *more]


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def out(recipes, phantom, tmp_path_factory):
    """Two networks, two seeds."""
    out = tmp_path_factory.mktemp("comparison")
    assert main(words(recipes, phantom.folder, out, "--seeds", "0,1")) == 0
    return out


@pytest.fixture
def trained(monkeypatch):
    """The runs that are trained during a test."""
    trained = []

    def train(run, **how):
        trained.append(run.out)
        return real(run, **how)

    real = run_module.train
    monkeypatch.setattr(run_module, "train", train)
    return trained


def test_one_command_trains_all_and_writes_every_table_and_figure(out):
    assert all((out / name).stat().st_size > 100 for name in WRITTEN)
    for name in ("mamba", "control"):
        for seed in (0, 1):
            progress = json.loads((out / "runs" / name / f"seed{seed}" / "progress.json").read_text())
            assert progress["iteration"] == 4
    table = (out / "table.md").read_text()
    assert table.startswith("# 2 networks on phantom")
    assert "\n| mamba " in table and "\n| control " in table and "Synthetic" in table and "Seeds: 0, 1." in table
    assert "against mamba" in (out / "significance.md").read_text()
    for name in FIGURES:
        with Image.open(out / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 200
    page = (out / "comparison.html").read_text()
    assert page.count("<img class='wide'") == page.count("media='(prefers-color-scheme: dark)'") == len(FIGURES)
    assert page.count("data:image/png;base64") == 2 * len(FIGURES), "every figure, light and dark"
    assert "src='http" not in page and "class='warning'" in page


def test_in_a_browser_its_page_fits_and_has_dark_figures(out, opened_report):
    page = opened_report(out / "comparison.html")
    shown = "[...document.querySelectorAll('picture img')].map(it => it.currentSrc)"
    by_day = page.evaluate(shown)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"by_day => {shown}.every(picture => !by_day.includes(picture))", arg=by_day)
    assert len(by_day) == len(FIGURES)


def test_what_is_complete_is_not_trained_again_and_the_same_is_written(out, recipes, phantom, trained):
    before = contents(out)
    assert main(words(recipes, phantom.folder, out, "--seeds", "0,1")) == 0
    assert trained == [] and contents(out) == before


def test_nothing_of_an_earlier_comparison_stays_beside_another(out, recipes, phantom, trained, tmp_path):
    folder = shutil.copytree(out, tmp_path / "out")
    assert main(words(recipes[:1], phantom.folder, folder, "--seeds", "0,1")) == 0 and trained == []
    of_two = {"significance.csv", "significance.md", "figures/differences.png", "figures/patients.png"}
    assert {name for name in WRITTEN if not (folder / name).is_file()} == of_two


def test_runs_whose_weights_and_predictions_are_gone_give_the_same_tables(out, recipes, phantom, trained, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    for path in [*folder.rglob("runs/**/*.safetensors"), *folder.rglob("runs/**/*.ckpt")]:
        path.unlink()
    for path in folder.rglob("predictions"):
        shutil.rmtree(path)
    command = words(recipes, phantom.folder, folder, "--seeds", "0,1")
    assert main(command) == 0 and trained == []
    for name in ("table.md", "table.csv", "significance.csv", "comparison.json"):
        assert (folder / name).read_text() == (out / name).read_text()

    other = shutil.copytree(phantom.folder, tmp_path / "other")
    described = json.loads((other / "dataset.json").read_text())
    for record in described["cases"].values():
        record["spacing_mm"] = [2 * mm for mm in record["spacing_mm"]]
    (other / "dataset.json").write_text(json.dumps(described))
    assert main(words(recipes, other, folder, "--seeds", "0,1")) == 2, "distances in other millimetres"
    made_by = folder / "runs" / "mamba" / "seed0" / "evaluation_test" / "made_by.json"
    made_by.write_text(made_by.read_text().replace(phantom.fingerprint, "0" * 64))
    assert main([*command[:-1], "0,1,2"]) == 2 and trained == [], "what was measured on other data counts for nothing"


def test_an_evaluation_of_other_weights_is_made_anew_whatever_its_date(out, recipes, phantom, trained, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    first, second = (tmp_path / "out" / "runs" / "mamba" / f"seed{seed}" for seed in (0, 1))
    shutil.copy(second / "best.safetensors", first)
    tomorrow = time.time() + 86_400
    for path in first.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    assert main(words(recipes, phantom.folder, tmp_path / "out", "--seeds", "0,1")) == 0
    summaries = json.loads((tmp_path / "out" / "comparison.json").read_text())["networks"]["mamba"]["summaries"]
    assert trained == [] and summaries[0] == summaries[1]


def test_parts_train_and_measure_their_share_and_the_last_call_writes_the_same_tables(
    out, recipes, phantom, trained, tmp_path, capsys, monkeypatch
):
    command = words(recipes, phantom.folder, tmp_path, "--seeds", "0,1")
    shares = {1: ["mamba/seed0", "control/seed1"], 2: ["control/seed0"], 3: ["mamba/seed1"]}
    for part, share in shares.items():
        assert main([*command, "--part", f"{part}/3"]) == 0
        assert [path.removeprefix(f"{tmp_path}/runs/") for path in trained] == share
        assert "without --part" in capsys.readouterr().out and not (tmp_path / "table.md").exists()
        trained.clear()
    monkeypatch.setattr(run_module, "evaluate_checkpoint", None)  # all parts have measured
    assert main(command) == 0 and trained == []
    assert (out / "table.csv").read_text() == (tmp_path / "table.csv").read_text()


def test_another_seed_trains_that_seed_only(out, recipes, phantom, trained, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    assert main(words(recipes, phantom.folder, tmp_path / "out", "--seeds", "0,2")) == 0
    assert trained == [str(tmp_path / "out" / "runs" / name / "seed2") for name in ("mamba", "control")]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_comparison_that_was_stopped_goes_on_and_ends_the_same(
    out, recipes, phantom, trained, tmp_path, monkeypatch, capsys
):
    real = Training._iterate

    def stop(self, batch):
        if self.step == 2 and self.recipe.seed == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_iterate", stop)
        with pytest.raises(SystemExit) as stopped:
            main(words(recipes, phantom.folder, tmp_path, "--seeds", "0,1"))
    assert stopped.value.code == 143
    assert "stopped by SIGTERM behind iteration 3 of 4; the state is saved" in capsys.readouterr().err
    assert main(words(recipes, phantom.folder, tmp_path, "--seeds", "0,1")) == 0
    shown = capsys.readouterr().err
    assert "training 2 of 2: control, seed 1" in shown and "8/8" in shown, "one bar over what was left to train"
    again = [path.removeprefix(str(tmp_path / "runs")) for path in trained]
    assert again == ["/mamba/seed0", "/control/seed0", "/mamba/seed1", "/mamba/seed1", "/control/seed1"]
    for name in ("mamba", "control"):
        whole, resumed = (load_file(f / "runs" / name / "seed1" / "best.safetensors") for f in (out, tmp_path))
        assert all((whole[key] == resumed[key]).all() for key in whole)
    assert (out / "table.csv").read_text() == (tmp_path / "table.csv").read_text()


def test_what_is_finished_is_compared_and_what_is_not_is_said(out, recipes, phantom, trained, tmp_path, capsys):
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    shutil.rmtree(folder / "runs" / "mamba" / "seed1")
    more = ("--seeds", "0,1,2", "--only-finished")
    assert main(words(recipes, phantom.folder, folder, *more)) == 0
    table = (folder / "table.md").read_text()
    assert "3 trainings are not finished and left out (mamba seed 1, mamba seed 2, control seed 2)" in table
    assert "Trainings in each row: mamba 1; control 2." in table
    assert re.search(r"\| +[012] of 2 \|", (folder / "significance.md").read_text()), "one training against two"

    shutil.rmtree(folder / "runs" / "mamba")
    assert main(words(recipes, phantom.folder, folder, *more)) == 0
    assert (folder / "table.md").read_text().startswith("# 1 network on phantom")
    shutil.rmtree(folder / "runs" / "control")
    capsys.readouterr()
    assert main(words(recipes, phantom.folder, folder, *more)) == 2
    assert "none of the 6 trainings" in capsys.readouterr().err and trained == []


def test_the_numbers_are_those_of_evaluate(out, phantom, tmp_path):
    said = json.loads((out / "comparison.json").read_text())
    with open(out / "table.csv", newline="") as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    for name in ("mamba", "control"):
        dice = []
        for seed in (0, 1):
            run = out / "runs" / name / f"seed{seed}"
            assert main(["evaluate", str(run), "--data", str(phantom.folder), "--out", str(tmp_path / run.name)]) == 0
            summary = Evaluation.read(tmp_path / run.name).summary()
            assert summary == said["networks"][name]["summaries"][seed]
            dice.append(summary["foreground"]["dice"]["mean"])
        assert float(rows[name]["Dice mean"]) == pytest.approx(np.mean(dice))
        assert float(rows[name]["Dice sd"]) == pytest.approx(np.std(dice, ddof=1))


def test_an_evaluation_of_patients_who_are_grouped_anew_is_made_anew(out, recipes, phantom, trained, tmp_path):
    """The same cases of fewer patients: the patients are the sample of every test."""
    folder, data = shutil.copytree(out, tmp_path / "out"), shutil.copytree(phantom.folder, tmp_path / "data")
    described = json.loads((data / "dataset.json").read_text())
    for name in phantom.splits["test"]:
        described["cases"][name]["patient"] = "one"
    (data / "dataset.json").write_text(json.dumps(described))
    assert main(words(recipes, data, folder, "--seeds", "0,1")) == 0 and trained == []
    said = json.loads((folder / "comparison.json").read_text())
    assert [list(said["networks"][name]["patients"]["dice"]) for name in ("mamba", "control")] == [["one"], ["one"]]


def test_external_predictions_are_a_row_like_any_other(out, recipes, phantom, tmp_path, capsys):
    shutil.copytree(out, tmp_path / "out")
    for name in phantom.splits["test"]:
        (tmp_path / "labels").mkdir(exist_ok=True)
        np.savez(tmp_path / "labels" / f"{name}.npz", label=phantom.case(name).label)
    more = ("--external", f"oracle={tmp_path / 'labels'}", "--reference", "oracle")
    assert main(words(recipes, phantom.folder, tmp_path / "out", *more)) == 0
    said = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert said["networks"]["oracle"]["metrics"]["dice"]["values"] == [1.0] and said["networks"]["oracle"]["external"]
    assert all(test["effect"] == -1 for test in said["tests"] if test["metric"] == "dice")
    assert re.search(r"^\| oracle +\| external predictions \|", (tmp_path / "out" / "table.md").read_text(), re.M)

    missing = phantom.splits["test"][0]
    (tmp_path / "labels" / f"{missing}.npz").unlink()
    assert main(words(recipes, phantom.folder, tmp_path / "out", *more)) == 2
    assert missing in capsys.readouterr().err


def test_folds_test_every_patient_once_on_a_network_that_did_not_see_it(recipes, phantom, tmp_path):
    comparison = compare({"mamba": load_recipe(recipes[0])}, phantom.folder, tmp_path, folds=3)
    assert sorted(comparison.evaluation.cases) == sorted(phantom.identifiers)
    for fold in range(3):
        run = tmp_path / "runs" / "mamba" / f"seed0_fold{fold}"
        split = json.loads((run / "split.json").read_text())
        assert split == {name: phantom.splits[f"fold{fold}/{name}"] for name in ("train", "val", "test")}
        assert sorted(path.stem for path in (run / f"evaluation_fold{fold}_test" / "predictions").iterdir()) == sorted(
            split["test"]
        )
    assert len(comparison.entries["mamba"].evaluations) == 1 and len(comparison.entries["mamba"].runs) == 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--iterations", "5"], "iterations: 4 then, 5 now"),
        (["--folds", "5"], "has 3 folds, asked for 5"),
        (["--reference", "absent"], "'absent' is not among mamba, control"),
        (["--external", "mamba=absent"], "rename one"),
        (["--external", "../evil=absent"], "'../evil' names a network, and is to be the name of a folder too"),
        (["--external", "nnunet=absent"], "expected a folder of predictions"),
        (["--seed", "3"], "--seeds"),
        (["--seeds", "0,0"], "differ"),
        (["--itterations", "3"], "did you mean 'iterations'"),
        (["--trainer.devices", "2"], "one device"),
    ],
)
def test_a_mistake_is_said_before_anything_is_trained(out, recipes, phantom, trained, capsys, more, message):
    assert main(words(recipes, phantom.folder, out, *more)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and trained == []


def test_two_recipes_of_one_name_need_another(recipes, phantom, tmp_path, capsys):
    assert main(words([recipes[0], recipes[0]], phantom.folder, tmp_path)) == 2
    assert "two recipes are called 'mamba'" in capsys.readouterr().err


def test_runs_on_another_split_or_other_data_are_refused(out, recipes, phantom, tmp_path):
    named = {"mamba": load_recipe(recipes[0])}
    shutil.copytree(phantom.folder, tmp_path / "data")
    splits = json.loads((tmp_path / "data" / "splits.json").read_text())
    cases = splits["cases"]
    cases["train"], cases["test"] = [*cases["train"][1:], *cases["test"]], cases["train"][:1]
    (tmp_path / "data" / "splits.json").write_text(json.dumps(splits))
    with pytest.raises(RecipeError, match="another split"):
        compare(named, tmp_path / "data", out)

    shutil.copy(phantom.folder / "splits.json", tmp_path / "data")
    described = json.loads((tmp_path / "data" / "dataset.json").read_text())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({**described, "fingerprint": "0" * 64}))
    with pytest.raises(RecipeError, match="other data"):
        compare(named, tmp_path / "data", out)


def test_a_start_from_a_network_that_has_seen_the_test_cases_is_refused_before_anything_is_trained(
    out, recipes, phantom, trained, tmp_path
):
    shutil.copytree(phantom.folder, tmp_path / "data")
    splits = json.loads((tmp_path / "data" / "splits.json").read_text())
    cases = splits["cases"]
    leaked = cases["train"][0]
    cases["train"], cases["test"] = [*cases["train"][1:], *cases["test"]], [leaked]
    (tmp_path / "data" / "splits.json").write_text(json.dumps(splits))
    fine_tuned = load_recipe(recipes[0], {"pretrained": str(out / "runs" / "mamba" / "seed0")})
    with pytest.raises(ValueError, match=f"chosen on 1 of the test cases .{leaked}"):
        compare({"mamba": fine_tuned}, tmp_path / "data", tmp_path / "comparison")
    assert trained == []


def test_real_hearts_go_from_their_folder_to_every_table_and_figure(recipes, acdc_dir, tmp_path):
    wanted = [patient for name, count in (("train", 3), ("val", 1), ("test", 3)) for patient in shipped(name)[:count]]
    volumes = tmp_path / "acdc" / "ACDC_training_volumes"
    volumes.mkdir(parents=True)
    for path in (acdc_dir / "ACDC_training_volumes").iterdir():
        if path.name.split("_")[0] in wanted:
            (volumes / path.name).symlink_to(path)
    assert main(["prepare", str(tmp_path / "acdc"), str(tmp_path / "data")]) == 0
    assert main(words(recipes, tmp_path / "data", tmp_path / "out", "--iterations", "2")) == 0
    assert all((tmp_path / "out" / name).stat().st_size > 100 for name in WRITTEN)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "6 cases of 3 patients" in table and "HD95 (voxels)" in table and "Synthetic" not in table


def shipped(split: str) -> list[str]:
    return sorted(shipped_split("acdc.json")[split])
