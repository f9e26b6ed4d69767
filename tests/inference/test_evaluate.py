"""Nothing is measured on what it was trained on."""

import json
import os

import pytest

import mamba_unet
from mamba_unet.data import PreparedDataset, prepare, write_phantom
from mamba_unet.evaluation.predictions import evaluate_predictions
from mamba_unet.files import sha256
from mamba_unet.inference import Predictor, predict_files
from mamba_unet.inference.evaluate import evaluate_checkpoint, evaluation_folder
from mamba_unet.runs import RunFolder
from mamba_unet.views.intensity import window


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "raw", cases=6, seed=0)
    return prepare(folder / "raw", folder / "data", progress=False)


def test_a_network_is_not_tested_on_cases_it_was_trained_or_chosen_on(prepared, save_threshold):
    run, tested = save_threshold(class_names=prepared.class_names), prepared.splits["test"]
    for name in ("train", "val"):
        (run / "split.json").write_text(json.dumps({name: tested}))
        with pytest.raises(ValueError, match=f"1 cases of the split 'test' were in the split '{name}'.*{tested[0]}"):
            evaluate_checkpoint(run, prepared)


def test_a_network_is_not_tested_on_images_that_the_one_it_started_from_has_seen(prepared, save_threshold):
    tested = prepared.splits["test"]
    seen = [prepared.image_hash(tested[0])]
    run = save_threshold(class_names=prepared.class_names, lineage=seen)
    with pytest.raises(ValueError, match=f"1 cases of the split 'test' were among .*fine-tuned from.*{tested[0]}"):
        evaluate_checkpoint(run, prepared)


def test_the_evaluation_of_a_network_on_the_hub_wants_a_folder(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(tmp_path / "cache" / "model.safetensors"))
    with pytest.raises(ValueError, match="--out FOLDER"):
        evaluation_folder("hf:someone/heart-unet", "test", prepared)


def test_data_of_other_intensities_are_refused_and_nothing_is_overwritten(prepared, save_threshold, tmp_path):
    run = save_threshold(
        class_names=prepared.class_names, intensity=window(-125, 275), fingerprint=prepared.fingerprint
    )
    with pytest.raises(ValueError, match=r"prepare images in different ways \(intensity: .*window.*minmax"):
        evaluate_checkpoint(run, prepared)
    with pytest.raises(ValueError, match="prepare images in different ways"):
        predict_files(Predictor(run), [], tmp_path / "out", prepared, prepared.split("test"))
    assert not list(run.glob("evaluation_*")) and not (tmp_path / "out").exists()


def test_an_evaluation_that_is_being_written_is_not_a_finished_one(prepared, save_threshold, monkeypatch):
    """A kill between its files would leave the rows of one beside the conventions of the other."""
    run = save_threshold("killed", class_names=prepared.class_names, fingerprint=prepared.fingerprint)
    evaluate_checkpoint(run, prepared)

    def killed(self, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("mamba_unet.evaluation.summary.Evaluation.write", killed)
        evaluate_checkpoint(run, prepared)
    assert not (run / "evaluation_test" / "made_by.json").exists()
    evaluate_checkpoint(run, prepared)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(
            "mamba_unet.inference.evaluate.evaluate_cases",
            lambda predict, cases, *_, **__: killed(predict(next(cases)), 0),
        )
        evaluate_checkpoint(run, prepared)
    assert not {"made_by.json", "summary.json"} & {path.name for path in (run / "evaluation_test").iterdir()}
    half = run / "evaluation_test" / "predictions" / ".0a1b2c3d.a.npz"
    half.touch()
    os.utime(half, (0, 0))
    evaluate_checkpoint(run, prepared)
    assert not half.exists()


def test_results_on_other_data_have_a_name_of_their_own(prepared, save_threshold):
    own = save_threshold("own", class_names=prepared.class_names, fingerprint=prepared.fingerprint)
    other = save_threshold("other", class_names=prepared.class_names, fingerprint="of other data")
    for run in (own, other):
        evaluate_checkpoint(run, prepared)
    assert [path.name for path in own.glob("evaluation_*")] == ["evaluation_test"]
    (folder,) = other.glob("evaluation_*")
    assert folder.name == f"evaluation_phantom-{prepared.fingerprint[:8]}_test"
    assert json.loads((folder / "made_by.json").read_text())["fingerprint"] == prepared.fingerprint


def test_an_evaluation_is_of_the_weights_that_were_loaded(prepared, save_threshold, monkeypatch):
    """A training that goes on puts a better checkpoint into the place of the one that is being measured."""
    words = {"class_names": prepared.class_names, "fingerprint": prepared.fingerprint}
    run = save_threshold("moving", **words)
    before, predict = sha256([run / "best.safetensors"]), Predictor.predict_case

    def replaced(self, case):
        save_threshold("moving", weight=-1.0, **words)
        return predict(self, case)

    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "predict_case", replaced)
        evaluate_checkpoint(run, prepared)
    assert json.loads((run / "evaluation_test" / "made_by.json").read_text())["checkpoint_sha256"] == before
    assert not RunFolder(run).is_current(run / "evaluation_test")


def test_predictions_of_others_do_not_take_the_place_of_a_checkpoints(prepared, save_threshold, tmp_path):
    run = save_threshold("own", class_names=prepared.class_names, fingerprint=prepared.fingerprint)
    evaluate_checkpoint(run, prepared)
    with pytest.raises(ValueError, match="evaluation_test holds the evaluation of a checkpoint"):
        evaluate_predictions(run / "evaluation_test" / "predictions", prepared, out=run / "evaluation_test")
    with pytest.raises(
        ValueError, match=f"evaluation_test holds an evaluation of other cases .{prepared.splits['test'][0]}"
    ):
        evaluate_checkpoint(run, prepared, "val", run / "evaluation_test")
    evaluate_checkpoint(run, prepared, "test", run / "evaluation_test")


def test_predictions_of_others_are_not_written_into_a_run(prepared, save_threshold, tmp_path):
    run = save_threshold("trained", class_names=prepared.class_names)
    (run / "recipe.yaml").write_text("data: x\n")
    with pytest.raises(ValueError, match="is a run, and these predictions are another program's"):
        mamba_unet.evaluate(None, prepared.folder, predictions=tmp_path, out=run)
