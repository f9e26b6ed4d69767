import io
import json
import os
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from mamba_unet.cli import main
from mamba_unet.environment import bfloat16_speed

RECIPE = """
model: {size: nano, arguments: {dims: [8, 16, 32]}}
image_size: [32, 32]
batch_size: 4
iterations: 4
validate_every: 2
optimizer: {name: adamw, lr: 1.0e-3}
trainer: {accelerator: cpu, devices: 1}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A phantom data set, prepared, and a run trained on it, all by commands."""
    work = tmp_path_factory.mktemp("work")
    (work / "recipe.yaml").write_text(RECIPE)
    assert main(["phantom", str(work / "raw"), "--cases", "8"]) == 0
    assert main(["prepare", str(work / "raw"), str(work / "data")]) == 0
    assert main(["train", str(work / "recipe.yaml"), "--data", str(work / "data"), "--out", str(work / "run")]) == 0
    return work


def test_the_whole_way_ends_with_the_table_and_the_report(work, capsys):
    assert main(["evaluate", str(work / "run"), "--data", str(work / "data")]) == 0
    assert (work / "run" / "evaluation_test" / "summary.json").exists()
    assert main(["report", str(work / "run")]) == 0
    out = capsys.readouterr().out
    assert "left ventricle" in out and "Empty masks" in out
    assert out.rstrip().endswith(str(work / "run" / "report.html"))
    page = (work / "run" / "report.html").read_text()
    assert "synthetic" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_output_that_is_not_utf8_ends_no_command_after_its_work(work, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["evaluate", str(work / "run"), "--data", str(work / "data"), "--out", str(work / "ascii")]) == 0
    assert main(["report", str(work / "run")]) == 0
    sys.stdout.flush()
    assert b"foreground mean" in written.getvalue() and b"? 0." in written.getvalue()


def test_predict_writes_the_splits_images_in_their_geometry(work):
    assert main(["predict", str(work / "run"), "--data", str(work / "data"), "--out", str(work / "predicted")]) == 0
    names = json.loads((work / "data" / "splits.json").read_text())["cases"]["test"]
    for name in names:
        image = nib.load(work / "raw" / "imagesTr" / f"{name}_0000.nii.gz")
        result = nib.load(work / "predicted" / f"{name}.nii.gz")
        assert result.shape == image.shape and np.array_equal(result.affine, image.affine)


def test_evaluating_and_predicting_agree(work):
    main(["evaluate", str(work / "run"), "--data", str(work / "data"), "--out", str(work / "evaluated")])
    main(["predict", str(work / "run"), "--data", str(work / "data"), "--out", str(work / "predicted")])
    for path in (work / "evaluated" / "predictions").iterdir():
        stored = nib.load(work / "predicted" / f"{path.stem}.nii.gz")
        assert np.array_equal(np.load(path)["label"], np.asarray(stored.dataobj).transpose(2, 1, 0))


def test_check_finds_what_is_broken_and_says_so_by_its_exit_code(work, tmp_path, capsys):
    assert main(["check", str(work / "raw"), "--seed", "3"]) == 0
    assert "seed 3" in capsys.readouterr().out
    main(["phantom", str(tmp_path / "raw"), "--cases", "3"])
    (tmp_path / "raw" / "labelsTr" / "phantom_002.nii.gz").unlink()
    assert main(["check", str(tmp_path / "raw")]) == 1
    assert "phantom_002" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "absent", "--data", "{work}/data"], "no checkpoint at absent"),
        (["evaluate", "{work}/run", "--data", "{work}/raw"], "mamba-unet prepare"),
        (["evaluate", "{work}/run", "--data", "{work}/data", "--split", "tset"], "no split 'tset'"),
        (["train", "{work}/recipe.yaml", "--data", "{work}/data", "--out", "{work}/run"], "--resume"),
        (["train", "{work}/recipe.yaml", "--iteration", "3"], "did you mean 'iterations'"),
        (["evaluate", "{work}/run", "--data", "{work}/absent"], "no such folder"),
        (["train", "absent.yaml"], "no recipe at absent.yaml"),
        (["train", "{work}/run/recipe.yaml", "--iterations", "8", "--resume"], "further: --out OTHER --pretrained"),
        (["predict", "acdcc", "x.nii", "--out", "{work}/x"], "did you mean 'acdc'"),
        (["predict", "{work}/run", "--out", "{work}/x"], "nothing to predict"),
        (["predict", "{work}/run", "absent.nii.gz", "--out", "{work}/x"], "absent.nii.gz"),
        (["predict", "{work}/run", "--data", "{work}/data", "--out", "{work}/recipe.yaml"], "recipe.yaml is a file,"),
        (["measure", "{work}/raw/labelsTr", "--out", "{work}/recipe.yaml"], "recipe.yaml is a file, and a folder was"),
        (["prepare", "{work}/raw", "{work}/recipe.yaml/x"], "recipe.yaml is a file, and a folder was"),
        (["compare", "demo", "--iterations", "2", "unet", "--data", "d", "--out", "o"], "unet is out of place"),
        (["compare", "--iterations", "2", "demo", "--data", "d", "--out", "o"], "--iterations is out of place"),
    ],
)
def test_a_mistake_is_one_clear_line_and_a_non_zero_exit(work, capsys, words, message):
    assert main([word.format(work=work) for word in words]) != 0
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_check_takes_patients_and_classes_from_the_command_line(work, capsys):
    words = ["--patient-regex", "[0-9]+$", "--class-names", "a", "b", "c", "--ignore-label", "9"]
    assert main(["check", str(work / "raw"), *words]) == 0
    out = capsys.readouterr().out
    assert "8 cases, each a patient of its own" in out
    assert "classes: background, a, b, c" in out
    assert main(["check", str(work / "raw"), "--class-names", "heart", "--binary-masks", "1"]) == 0
    assert "values from 1 on are 'heart'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "--devise", "cpu"], "--devise"),
        (["phantom", ""], "an empty word after phantom; was a shell variable not set?"),
        (["train", "demo", "--data", "data", "--out", ""], "an empty word after --out;"),
        (["train", "demo", "--data=", "--out", "out"], "an empty word after --data=;"),
        (["info", "--models", "--size", "0", "224"], "--size: expected a whole number from 1 on"),
        (["info", "--models", "--depth", "0"], "--depth: expected a whole number from 1 on"),
        (["info", "--models", "--batch", "-1"], "--batch: expected a whole number from 1 on"),
        (["serve", "--max-upload-mb", "-5"], "--max-upload-mb: expected a whole number from 1 on"),
        (["serve", "--max-disk-mb", "0"], "--max-disk-mb: expected a whole number from 1 on"),
        (["serve", "--keep-minutes", "nan"], "--keep-minutes: expected minutes, more than 0"),
        (["listen", "acdc", "--aet", "A", "--max-instances", "0"], "--max-instances: expected a whole number"),
    ],
)
def test_words_that_a_command_cannot_take_are_refused(capsys, words, message):
    with pytest.raises(SystemExit):
        main(words)
    assert message in capsys.readouterr().err


def test_a_reader_that_goes_away_leaves_the_work_whole(work, tmp_path):
    reader, output = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "mamba_unet", "prepare", str(work / "raw"), str(tmp_path / "data")]
    done = subprocess.run(words, stdout=output, stderr=subprocess.PIPE, text=True)
    os.close(output)
    assert done.returncode == 141 and "pipe" not in done.stderr
    assert (tmp_path / "data" / "dataset.json").is_file()


def test_train_wants_its_recipe_first(capsys):
    assert main(["train", "--data", "somewhere", "recipe.yaml"]) == 2
    assert "train takes the recipe first" in capsys.readouterr().err


def test_info_shows_the_backend_in_force_and_what_bfloat16_gains(capsys):
    assert main(["info", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "torch" in out and "auto" in out and "reference" in out
    gained = re.search(r"bfloat16 +on the CPU (\d+\.\d) times as fast", out)
    assert gained is not None and 0 < float(gained[1]) < 20


def test_measuring_bfloat16_draws_no_random_number():
    """It is done in front of trainings, which must not change by it."""
    before = torch.get_rng_state()
    bfloat16_speed()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)]
)
def test_threads_wait_awake_briefly_unless_the_user_says_how_long(given, spins, monkeypatch):
    """The user's own words hold."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main(["recipes"]) == 0
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_help_is_instant_because_it_imports_nothing_heavy():
    code = (
        "import sys; from mamba_unet.cli import build_parser; build_parser().format_help(); import mamba_unet;"
        "print(sorted({'torch', 'numpy', 'lightning', 'matplotlib', 'nibabel', 'triton'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("missing", ["triton", "monai"])
def test_the_package_works_where_an_optional_library_is_missing(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "import torch, mamba_unet\n"
        "model = mamba_unet.build_model('mamba_unet', size='nano')\n"
        "print(tuple(model(torch.zeros(1, 1, 16, 16)).shape))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 4, 16, 16)"


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch, tmp_path, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mamba_unet.data.write_phantom", interrupted)
    assert main(["phantom", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "mamba-unet: interrupted\n"
