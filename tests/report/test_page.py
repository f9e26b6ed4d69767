"""The page of a run: what it shows, what it says when something is absent, and that it needs nothing else."""

import base64
import hashlib
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mamba_unet.data import PreparedDataset, prepare, write_phantom
from mamba_unet.evaluation.cases import evaluate_cases
from mamba_unet.evaluation.metrics import EMPTY_MASK_POLICY
from mamba_unet.evaluation.summary import Evaluation
from mamba_unet.files import write_json, write_text
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.report import write_report

VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a test asks about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.headings, self.links, self.text, self.ids = [], [], [], [], "", []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[key] for key in ("src", "href", "srcset") if key in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & {*self.open}:
            self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def read(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("phantom")
    return prepare(write_phantom(folder / "raw", cases=10), folder / "prepared")


@pytest.fixture(scope="module")
def reported(tmp_path_factory, prepared):
    """A run folder as `train` and `evaluate` leave it, evaluated on the training cases, with its report."""
    folder = tmp_path_factory.mktemp("reported") / "run"
    write_text(
        folder / "recipe.yaml",
        f"data: {prepared.folder}\nmodel:\n  name: mamba_unet\npretrained: null\niterations: 100 # <&>\n",
    )
    write_json(folder / "split.json", prepared.splits)
    write_json(folder / "versions.json", {"torch": "2.13.0", "gpus": []})
    write_json(
        folder / "progress.json", {"iteration": 100, "iterations": 100, "hours": 0.05, "best_validation_dice": 0.5}
    )
    write_text(
        folder / "logs" / "version_0" / "metrics.csv",
        "epoch,step,lr,train/loss,val/dice,val/dice/myocardium\n0,49,0.01,1.0,,\n0,99,0.005,0.5,,\n0,99,,,0.5,0.4\n",
    )
    metadata = CheckpointMetadata(
        "mamba_unet",
        {},
        prepared.class_names,
        prepared.preprocessing().to_json(),
        dataset=prepared.name,
        fingerprint=prepared.fingerprint,
        validation={"iteration": 100, "mean_foreground_dice": 0.5},
    )
    save_checkpoint(folder / "best.safetensors", torch.nn.Linear(1, 1), metadata)
    evaluate(prepared, folder / "evaluation_train", "train")
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(reported):
    return read(reported / "report.html")


@pytest.fixture
def run(reported, tmp_path):
    """A copy of the run to change."""
    return Path(shutil.copytree(reported, tmp_path / "run"))


def evaluate(prepared, out, split):
    """Predictions are the labels, shifted by more pixels from case to case; the last one misses the ventricles."""
    cases = prepared.split(split)

    def predict(case):
        place = cases.index(case.identifier)
        prediction = np.roll(case.label, place, axis=2)
        if place == len(cases) - 1:
            prediction = np.where(np.isin(prediction, (1, 3)), 0, prediction)
        (out / "predictions").mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out / "predictions" / f"{case.identifier}.npz", label=prediction)
        return prediction

    evaluate_cases(predict, map(prepared.case, cases), prepared.class_names).write(out)
    return cases


def test_page_needs_nothing_but_itself(reported, page):
    text = (reported / "report.html").read_text(encoding="utf-8")
    assert page.images and all(link.startswith(("data:image/png;base64,", "#case-")) for link in page.links)
    assert not re.search(r"https?:|<link|url\(|@import|\bsrc=['\"](?!data:)", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'\"" in text, "this script and no other"
    assert "default-src 'none'" in text and 'name="viewport"' in text and "prefers-color-scheme: dark" in text


def test_page_shows_every_part(page, prepared):
    assert page.headings == [
        "Result: train cases",
        "Segmentations",
        "Image by image",
        "Best and worst cases",
        "Training",
        "Every case",
        "How it was made",
    ]
    charts = [image["alt"] for image in page.images if " over " in image["alt"] or "Histogram" in image["alt"]]
    assert len(charts) == 4
    assert len(page.images) == 4 + 3 * (4 + 2 * 3)  # four drawn by lot, three best and three worst of seven
    assert all(image["alt"] for image in page.images)
    for identifier in prepared.split("train"):
        assert identifier in page.text
    assert "100 of 100 iterations in 3.0 minutes" in page.text
    assert "checkpoint of iteration 100" in page.text
    assert "trained on 7 patients (7 cases)" in page.text


def test_in_a_browser_it_fits_and_its_table_sorts(reported, prepared, opened_report):
    page = opened_report(reported / "report.html")
    first = lambda: page.locator(".sortable tbody th").first.inner_text()  # noqa: E731
    cases = prepared.split("train")
    page.get_by_role("button", name="case").click()
    assert first() == cases[0]
    page.get_by_role("button", name="case").click()
    assert first() == cases[-1]


def test_numbers_are_the_evaluations(reported, page):
    evaluation = Evaluation.read(reported / "evaluation_train")
    assert f"{evaluation.mean_foreground_dice:.4f}" in page.text
    for name, dice in evaluation.per_class().items():
        assert name in page.text and f"{dice:.4f}" in page.text
    assert "HD95 (mm)" in page.text
    assert EMPTY_MASK_POLICY in page.text
    assert "(1 inf)" in page.text
    assert "right ventricle absent from one of them in 1; left ventricle absent from one of them in 1" in page.text


def test_worst_and_best_are_in_order(page, prepared):
    cases = prepared.split("train")
    shown = [image["alt"] for image in page.images if image["alt"].endswith(": image")]
    named = [alt.partition(",")[0] for alt in shown[4:]]
    assert named == [*cases[:3], *cases[:-4:-1]]


def test_a_case_with_a_picture_is_a_link_to_it(page, prepared):
    cases = prepared.split("train")
    wanted = [f"case-{case.replace('_', '-5f-')}" for case in (*cases[:3], *cases[:-4:-1])]
    assert page.ids == wanted
    assert sorted(link for link in page.links if link.startswith("#")) == sorted(f"#{anchor}" for anchor in wanted)


def test_synthetic_data_is_said_loudly(page):
    assert "Synthetic data." in page.text


def test_real_data_is_not_called_synthetic(run, monkeypatch):
    described = PreparedDataset.__init__

    def real(self, folder):
        described(self, folder)
        self.name, self.description = "acdc", "cine MRI"

    monkeypatch.setattr(PreparedDataset, "__init__", real)
    page = read(write_report(run))
    assert "Synthetic" not in page.text and "on acdc" in page.text


def test_without_its_data_the_report_has_no_pictures_and_says_so(run, tmp_path):
    recipe = (run / "recipe.yaml").read_text()
    write_text(run / "recipe.yaml", re.sub("data: .*", f"data: {tmp_path / 'gone'}", recipe))
    page = read(write_report(run))
    assert "No pictures: the images are not at hand" in page.text and "gone" in page.text
    assert len(page.images) == 4
    assert "Synthetic data." in page.text  # the checkpoint still names the phantom


def test_data_that_were_prepared_anew_are_not_shown_beside_what_was_measured(run, prepared, tmp_path):
    shutil.copytree(prepared.folder, tmp_path / "data")
    description = (tmp_path / "data" / "dataset.json").read_text()
    write_text(tmp_path / "data" / "dataset.json", description.replace(prepared.fingerprint, "0" * 64))
    recipe = (run / "recipe.yaml").read_text()
    write_text(run / "recipe.yaml", recipe.replace(str(prepared.folder), str(tmp_path / "data")))
    page = read(write_report(run))
    assert "holds other data than were measured; evaluate on them again" in page.text


def test_without_predictions_the_report_has_no_pictures_and_says_so(run):
    shutil.rmtree(run / "evaluation_train" / "predictions")
    page = read(write_report(run))
    assert "the evaluation kept no predictions" in page.text
    assert len(page.images) == 4


def test_run_without_an_evaluation_is_reported_with_what_there_is(run):
    shutil.rmtree(run / "evaluation_train")
    page = read(write_report(run))
    assert "Nothing has been evaluated yet" in page.text
    assert page.headings == ["Result", "Training", "How it was made"]


def test_run_killed_before_its_first_validation_is_reported(tmp_path):
    write_text(tmp_path / "recipe.yaml", "data: nowhere\nmodel:\n  name: unet\n")
    page = read(write_report(tmp_path))
    assert "No logs of the training" in page.text
    assert "unet on nowhere" in page.text


def test_test_split_is_preferred_and_another_can_be_asked_for(run, prepared, tmp_path):
    evaluate(prepared, run / "evaluation_test", "test")
    assert "Result: test cases" in read(write_report(run)).headings
    asked = write_report(run, run / "evaluation_train", tmp_path / "elsewhere" / "page.html")
    assert "Result: train cases" in read(asked).headings


def test_an_evaluation_of_other_weights_or_data_is_taken_last_and_named(run, prepared):
    weights = hashlib.sha256((run / "best.safetensors").read_bytes()).hexdigest()
    own = {"checkpoint_sha256": weights, "fingerprint": prepared.fingerprint}
    shutil.rmtree(run / "evaluation_train")
    for name, split, made in (
        ("MnMs-1234abcd_test", "train", own | {"fingerprint": "f" * 64}),
        ("fold0_test", "test", own),
        ("test", "val", own | {"checkpoint_sha256": "0" * 64}),
    ):
        evaluate(prepared, run / f"evaluation_{name}", split)
        write_json(run / f"evaluation_{name}" / "made_by.json", made)
    best = read(write_report(run))
    assert "Result: fold0_test cases" in best.headings and "Not this checkpoint" not in best.text
    other = read(write_report(run, run / "evaluation_test"))
    assert "Result: test cases" in other.headings and "Not this checkpoint" in other.text


def test_figures_are_also_written_as_files(reported):
    for name in ("segmentations.png", "image_dice.png"):
        with Image.open(reported / "figures" / name) as image:
            assert min(image.size) > 300


def test_text_of_the_recipe_is_escaped(reported):
    assert "# &lt;&amp;&gt;" in (reported / "report.html").read_text()


def test_same_run_gives_the_same_page(run):
    first = (run / "report.html").read_bytes()
    assert write_report(run).read_bytes() == first


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a run folder"):
        write_report(tmp_path)


def test_evaluation_folder_without_one_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"expected what `mamba-unet evaluate` writes"):
        write_report(run, tmp_path)
