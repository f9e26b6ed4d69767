import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from mamba_unet import MambaUNet, build_model
from mamba_unet.models.baselines.unet import UNet
from mamba_unet.models.checkpoint import (
    HEADER_KEY,
    CheckpointError,
    CheckpointMetadata,
    find_checkpoint,
    read_metadata,
    save_checkpoint,
    write_metadata,
)
from mamba_unet.models.loading import load_checkpoint
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices

CONFIG = {"in_channels": 1, "num_classes": 3, "depths": [1, 1], "dims": [8, 16], "d_state": 2}


@pytest.fixture
def metadata():
    return CheckpointMetadata(
        model="mamba_unet",
        config=CONFIG,
        class_names=["background", "a", "b"],
        preprocessing=Preprocessing(({"method": "minmax"},), None, Slices((32, 48))).to_json(),
        validation={"mean_foreground_dice": 0.5},
    )


@pytest.fixture
def model():
    return build_model("mamba_unet", **CONFIG)


@pytest.mark.parametrize("name", ["best.safetensors", "model.safetensors"])
@pytest.mark.parametrize("by_folder", [True, False])
def test_weights_and_metadata_come_back(model, metadata, tmp_path, name, by_folder):
    save_checkpoint(tmp_path / name, model, metadata)
    loaded, read = load_checkpoint(tmp_path if by_folder else tmp_path / name)
    assert read == metadata and not loaded.training
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(loaded(x), model.eval()(x))


def test_another_header_leaves_the_weights_as_they_are(model, metadata, tmp_path):
    file = tmp_path / "model.safetensors"
    save_checkpoint(file, model.half(), metadata)
    before = load_file(file)
    write_metadata(file, replace(metadata, license="mit"))
    assert read_metadata(file) == replace(metadata, license="mit")
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(file).items())
    assert load_file(file).keys() == before.keys() and {tensor.dtype for tensor in before.values()} == {torch.float16}


def test_save_pretrained_keeps_the_metadata_and_from_pretrained_gives_it_back(model, metadata, tmp_path):
    model.metadata = metadata
    model.save_pretrained(tmp_path)
    assert load_checkpoint(tmp_path)[1] == metadata
    again = MambaUNet.from_pretrained(tmp_path)
    assert again.metadata == metadata
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_what_train_wrote_can_be_saved_for_the_hub_and_loaded_again_as_a_checkpoint(model, metadata, tmp_path):
    save_checkpoint(tmp_path / "run" / "best.safetensors", model, metadata)
    trained, _ = load_checkpoint(tmp_path / "run")
    trained.save_pretrained(tmp_path / "hub")
    assert load_checkpoint(tmp_path / "hub")[1] == metadata


def test_weights_alone_are_refused_with_the_reason(model, tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", model, None)
    with pytest.raises(CheckpointError, match="weights only"):
        load_checkpoint(tmp_path)


def test_a_header_of_another_version_is_an_error_that_names_both(model, tmp_path):
    fields = {"version": "9.0", "image_size": [8, 8], "colour": "blue"}
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={HEADER_KEY: json.dumps(fields)})
    with pytest.raises(CheckpointError, match=r"mamba-unet 9\.0 .* this one"):
        load_checkpoint(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "best.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"best\.safetensors is not a readable safetensors file"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("path", ["", "absent.safetensors"])
def test_nothing_there_says_what_was_expected(tmp_path, path):
    with pytest.raises(FileNotFoundError, match="expected"):
        load_checkpoint(tmp_path / path)


def test_a_hub_id_is_fetched_as_safetensors_and_loads_like_a_file(model, metadata, tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "cache" / "model.safetensors", model, metadata)
    asked = []

    def download(*words):
        asked.append(words)
        return str(tmp_path / "cache" / "model.safetensors")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    assert load_checkpoint("hf:someone/heart-unet")[1] == metadata
    assert asked == [("someone/heart-unet", "model.safetensors")]

    save_checkpoint(tmp_path / "runs" / "acdc" / "best.safetensors", model, metadata)
    assert find_checkpoint("runs/acdc").name == "best.safetensors" and len(asked) == 1  # a path here is that path
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at runs/absent\.safetensors"):
        find_checkpoint("runs/absent.safetensors")
    for missing in ("demo/run", "someone/heart-unet"):  # its owner there would supply the network
        with pytest.raises(FileNotFoundError, match=rf"no checkpoint at {missing}.* is written hf:{missing}"):
            find_checkpoint(missing)
    with pytest.raises(FileNotFoundError, match="expected hf:owner/name"):
        find_checkpoint("hf:../run")
    assert len(asked) == 1


def test_what_is_neither_here_nor_on_the_hub_is_said_once_and_clearly(tmp_path, monkeypatch):
    def download(*words):
        raise LocalEntryNotFoundError("no connection\nlong story")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^hf:someone/unet: .* \(no connection\)$"):
        load_checkpoint("hf:someone/unet")


def test_a_misspelt_run_in_a_folder_that_is_here_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *words: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "acdc").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no checkpoint at runs/adcd: expected"):
        load_checkpoint("runs/adcd")


@pytest.mark.parametrize("file", ["recipe.yaml", "last.ckpt"])
def test_a_run_without_a_checkpoint_yet_is_not_the_network_of_its_name_that_ships(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    Path("acdc").mkdir()
    (Path("acdc") / file).touch()
    with pytest.raises(FileNotFoundError, match="no checkpoint in acdc: expected"):
        find_checkpoint("acdc")


def test_from_pretrained_takes_a_run_folder_and_refuses_another_network(model, metadata, tmp_path):
    save_checkpoint(tmp_path / "run" / "best.safetensors", model, metadata)
    again = MambaUNet.from_pretrained(tmp_path / "run")
    assert again.metadata == metadata
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    with pytest.raises(CheckpointError, match="holds a mamba_unet, not a UNet; take MambaUNet"):
        UNet.from_pretrained(tmp_path / "run")


@pytest.mark.parametrize("scan", ["selective", "identity"])
def test_a_network_of_someones_own_loop_can_be_saved_with_what_prediction_needs(tmp_path, scan):
    model = MambaUNet(in_channels=1, num_classes=3, depths=(1, 1), dims=(8, 16), d_state=2, scan=scan)
    names, preprocessing = ["background", "a", "b"], {"intensity": {"method": "minmax"}, "image_size": [32, 48]}
    with pytest.raises(ValueError, match="preprocessing must be given too"):
        model.save_pretrained(tmp_path, class_names=names)
    with pytest.raises(ValueError, match="has 3 classes, background included; got the names a, b"):
        model.save_pretrained(tmp_path, class_names=names[1:], preprocessing=preprocessing)
    with pytest.raises(ValueError, match=r"needs intensity and image_size, .* got size"):
        model.save_pretrained(tmp_path, class_names=names, preprocessing={"size": 3})
    with pytest.raises(ValueError, match="has 1 channels; got intensity rules for 2"):
        model.save_pretrained(tmp_path, preprocessing={**preprocessing, "intensity": 2 * [{"method": "minmax"}]})
    model.save_pretrained(tmp_path, class_names=names, preprocessing=preprocessing)
    again, metadata = load_checkpoint(tmp_path)
    assert metadata.class_names == names
    expected = Preprocessing(({"method": "minmax"},), None, Slices((32, 48)))
    assert Preprocessing.from_json(metadata.preprocessing) == expected
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(again(x), model.eval()(x))


def test_equal_networks_are_equal_files(model, metadata, tmp_path):
    """By which `predict` tells a network: the keys of its header have an order."""
    for number in range(12):
        save_checkpoint(tmp_path / f"{number}.safetensors", model, metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert read_metadata(tmp_path / "0.safetensors") == metadata


def test_the_file_follows_the_umask(model, metadata, tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", model, metadata)
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_what_was_measured_of_other_weights_is_not_written_beside_these(model, metadata, tmp_path):
    measured = replace(metadata, patients={"train": 7}, fingerprint="f", lineage=["a"], learned_from="7 patients")
    save_checkpoint(tmp_path / "best.safetensors", model, measured)
    trained, _ = load_checkpoint(tmp_path)
    trained.save_pretrained(tmp_path / "same")
    assert read_metadata(tmp_path / "same" / "model.safetensors") == measured
    with torch.no_grad():
        trained.norm.weight.add_(1)
    trained.save_pretrained(tmp_path / "further")
    written = read_metadata(tmp_path / "further" / "model.safetensors")
    assert not written.validation and not written.patients and not written.fingerprint
    assert written.lineage == ["a"] and written.learned_from.startswith("7 patients, then changed outside")
    assert "0.5" not in (tmp_path / "further" / "README.md").read_text()


def test_numbers_of_numpy_and_torch_are_written_as_numbers(metadata, tmp_path):
    words = {"class_names": metadata.class_names, "preprocessing": metadata.preprocessing}
    depths, dims = (np.int64(1), np.int64(1)), torch.tensor([8, 16])
    model = MambaUNet(1, np.int64(3), depths=depths, dims=dims.tolist(), d_state=np.int32(8)).eval()
    model.save_pretrained(tmp_path, **words)
    x = torch.randn(1, 1, 16, 16)
    assert torch.equal(load_checkpoint(tmp_path)[0](x), model(x))
    assert read_metadata(tmp_path / "model.safetensors").config["d_state"] == 8


def test_a_network_opened_with_other_arguments_is_written_with_them(metadata, tmp_path):
    model = build_model("transunet", num_classes=3, size="nano")
    model.save_pretrained(tmp_path / "a", class_names=metadata.class_names, preprocessing=metadata.preprocessing)
    other = type(model).from_pretrained(tmp_path / "a", num_heads=8)
    other.save_pretrained(tmp_path / "b")
    assert read_metadata(tmp_path / "b" / "model.safetensors").config["num_heads"] == 8
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(load_checkpoint(tmp_path / "b")[0](x), other(x))


def test_weights_that_are_no_numbers_are_refused_by_the_hub_too(model, metadata, tmp_path):
    model.norm.weight.data[0] = float("nan")
    model.metadata = metadata
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="NaN or infinite weights"):
        MambaUNet.from_pretrained(tmp_path)


def test_a_network_that_nothing_could_build_again_is_refused(metadata, tmp_path):
    class Mine(MambaUNet):
        pass

    with pytest.raises(ValueError, match="Mine is no network of the registry"):
        Mine(**CONFIG).save_pretrained(tmp_path, class_names=metadata.class_names, preprocessing=metadata.preprocessing)
