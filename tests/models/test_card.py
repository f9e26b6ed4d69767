"""What a checkpoint says of itself, for people."""

from dataclasses import replace

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file

from mamba_unet import build_model
from mamba_unet.cli import main
from mamba_unet.evaluation.summary import Evaluation
from mamba_unet.models.card import count_parameters, describe, model_card
from mamba_unet.models.checkpoint import CheckpointError, CheckpointMetadata, read_metadata, save_checkpoint
from mamba_unet.models.loading import load

CONFIG = {"in_channels": 1, "num_classes": 3, "channels": [8, 16, 16, 32, 32]}


@pytest.fixture
def metadata():
    return CheckpointMetadata(
        model="unet",
        config=CONFIG,
        class_names=["background", "disc", "cup"],
        preprocessing={"intensity": [{"method": "minmax"}], "view": {"kind": "slices", "size": [32, 48]}},
        dataset="eyes",
        validation={"mean_foreground_dice": 0.512345, "iteration": 1200, "dice": {"disc": 0.6, "cup": 0.4}},
        patients={"train": 28, "val": 4},
        lineage=["a" * 64, "b" * 64],
        channel_names=["fundus"],
        license="cc-by-4.0",
        version="0.1.0",
    )


@pytest.fixture
def evaluation():
    rows = [
        {"case": f"c{number}", "patient": f"p{number}", "class": 1 + index, "class_name": name, "dice": dice + shift}
        | dict.fromkeys(("iou", "accuracy", "precision", "sensitivity", "specificity"), 0.5)
        for number, shift in enumerate((0.0, 0.1))
        for index, (name, dice) in enumerate((("disc", 0.8), ("cup", 0.6)))
    ]
    return Evaluation(("background", "disc", "cup"), None, rows, [])


@pytest.fixture
def model():
    return build_model("unet", **CONFIG)


def test_info_prints_what_a_checkpoint_is(model, metadata, tmp_path, capsys):
    save_checkpoint(tmp_path / "best.safetensors", model, metadata)
    assert main(["info", str(tmp_path)]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    said = {title: words.strip() for title, words in lines.items()}
    assert said["network"] == f"unet, {sum(one.numel() for one in model.parameters()):,} parameters"
    assert said["channels"] == "1: fundus" and said["classes"] == "3: background, disc, cup"
    assert said["intensities"] == "method minmax" and said["what it sees"] == "kind slices, size 32 x 48"
    assert said["training data"] == "eyes; train 28 patients, val 4 patients; 2 images known by their hashes"
    chosen = "Dice 0.5123 on the validation patients after 1,200 iterations (disc 0.6000, cup 0.4000)"
    assert said["chosen by"] == chosen
    assert said["licence"] == "cc-by-4.0" and said["written by"] == "mamba-unet 0.1.0"
    assert "best.safetensors" in said["file"]


def test_what_nobody_said_is_said_to_be_unknown(model, metadata, tmp_path):
    bare = CheckpointMetadata(metadata.model, CONFIG, metadata.class_names, metadata.preprocessing)
    save_checkpoint(tmp_path / "bare.safetensors", model, bare)
    said = describe(tmp_path / "bare.safetensors")
    assert [said[title] for title in ("training data", "chosen by", "licence", "written by")] == 4 * ["not stated"]
    save_file(load_file(tmp_path / "bare.safetensors"), tmp_path / "weights.safetensors")
    parameters = count_parameters(tmp_path / "weights.safetensors")
    assert f"weights only, {parameters:,} parameters" in describe(tmp_path / "weights.safetensors")["network"]


def test_a_header_made_to_harm_a_terminal_or_the_reader_is_harmless(model, metadata, tmp_path):
    save_checkpoint(tmp_path / "odd.safetensors", model, replace(metadata, dataset="\x1b[2Jeyes"))
    assert "\\x1b[2Jeyes" in describe(tmp_path / "odd.safetensors")["training data"]
    save_checkpoint(tmp_path / "odd.safetensors", model, replace(metadata, validation={"mean_foreground_dice": "x"}))
    with pytest.raises(CheckpointError, match="its header is damaged"):
        describe(tmp_path / "odd.safetensors")


def test_the_card_is_one_that_the_hub_reads(model, metadata, evaluation):
    card = ModelCard(model_card(replace(metadata, evaluations={"test": evaluation.summary()}), 1234))
    card_data = card.data.to_dict()
    assert card.data.pipeline_tag == "image-segmentation" and card.data.license == "cc-by-4.0"
    result = card_data["model-index"][0]["results"][0]
    assert result["dataset"]["split"] == "test" and result["metrics"][0]["value"] == pytest.approx(0.75)
    for heading in ("Intended use", "Data and split", "Metrics", "How to load", "Licence"):
        assert f"## {heading}\n\n" in card.content
    assert "Dice 0.7500, 95 % interval 0.700 to 0.800; 2 cases of 2 patients" in card.content
    assert "| disc            | 0.8500 | 0.800 to 0.900 |" in card.content
    assert "Not a medical device" in card.content and 'mu.Predictor("hf:OWNER/NAME")' in card.content


def test_a_licence_in_words_gets_a_name_for_the_hub(metadata):
    head = ModelCard(model_card(replace(metadata, license="non-commercial research only, as the data"))).data
    assert head.license == "other" and head.license_name == "non-commercial-research-only-as-the-data"


def test_save_and_push_take_licence_and_evaluations_and_write_the_card(
    model, metadata, evaluation, tmp_path, monkeypatch
):
    model.metadata = replace(metadata, license="")
    uploads = {}

    def upload(self, *, folder_path, **how):
        uploads.update({path.name: path.read_bytes() for path in folder_path.iterdir()})
        return "https://hub/commit"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **how: type("Repo", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    assert model.push_to_hub("me/eyes", license="mit", evaluations={"test": evaluation}) == "https://hub/commit"
    assert set(uploads) == {"README.md", "config.json", "model.safetensors"}
    assert b"license: mit" in uploads["README.md"] and b"pipeline_tag: image-segmentation" in uploads["README.md"]

    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "README.md").write_text("mine")
    model.save_pretrained(tmp_path / "again")
    written = read_metadata(tmp_path / "again" / "model.safetensors")
    assert written.license == "mit" and written.evaluations["test"]["patients"] == 2
    assert (tmp_path / "again" / "README.md").read_text() == "mine", "a card that a person wrote stays"
    assert torch.equal(load(tmp_path / "again").state_dict()["decoder.out_conv.bias"], model.decoder.out_conv.bias)
