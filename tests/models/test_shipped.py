"""The trained networks in the repository's folder checkpoints/."""

import pytest
import torch

from mamba_unet.models import checkpoint
from mamba_unet.models.card import UNKNOWN, facts
from mamba_unet.models.checkpoint import SHIPPED, CheckpointError, find_checkpoint
from mamba_unet.models.loading import load

MOST = 12 * 10**6  # bytes


@pytest.fixture
def folder():
    for folder in checkpoint.SHIPPED_FOLDERS:
        if folder.is_dir():
            return folder
    pytest.skip("not installed from a clone of the repository")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_is_found_by_its_name_small_whole_and_described(folder, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # a folder of that name that holds no checkpoint is not meant
    path = find_checkpoint(name)
    assert path.parent == folder and path.stat().st_size <= MOST
    model = load(name)
    assert model.metadata.dataset and model.metadata.lineage and model.metadata.validation
    said = facts(model.metadata)
    assert "95 % interval" in said["measured on test"] and said["licence"] != UNKNOWN
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad():
        assert model(torch.rand(1, 1, 32, 32)).shape[1] == len(model.metadata.class_names)
    assert path.name in (folder / "README.md").read_text()


def test_a_run_folder_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acdc").mkdir()
    (tmp_path / "acdc" / "best.safetensors").touch()
    assert find_checkpoint("acdc").name == "best.safetensors"


def test_a_file_that_is_absent_or_another_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "SHIPPED_FOLDERS", (tmp_path / "absent", tmp_path))
    with pytest.raises(FileNotFoundError, match=r"repository as checkpoints/acdc_mamba_unet_fine\.safetensors"):
        find_checkpoint("acdc")
    (tmp_path / SHIPPED["acdc"][0]).write_bytes(b"other")
    with pytest.raises(CheckpointError, match="not the file that was measured"):
        find_checkpoint("acdc")
