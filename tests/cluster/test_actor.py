"""What a worker refuses before it works."""

import pickle

import pytest

from mamba_unet.cluster import actor
from mamba_unet.cluster.actor import Actor, Setup
from mamba_unet.cluster.report import Report


def setup(tmp_path, **changes) -> Setup:
    (tmp_path / "cluster.json").write_text("here")
    how = {"make": pickle.dumps(dict), "folder": str(tmp_path), "seen": (str(tmp_path),), "max_bytes": None}
    return Setup(**how | {"token": (str(tmp_path / "cluster.json"), "here"), "cpus": 1, "gpus": 1} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "0.0"}, r"has mamba-unet .*, this command is 0\.0; install the same"),
        ({"seen": ("/nowhere/images",)}, r"does not see /nowhere/images; .* must lie on storage"),
        ({"token": ("/nowhere/out/cluster.json", "here")}, r"what was just written to /nowhere/out"),
    ],
)
def test_another_version_and_storage_that_is_not_shared_are_refused(tmp_path, monkeypatch, changes, said):
    monkeypatch.setattr(actor, "TOKEN_S", 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        Actor().start(setup(tmp_path, **changes))


def test_a_second_command_in_the_folder_hides_no_storage_from_the_first_ones_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(actor, "TOKEN_S", 0)
    first = Report(tmp_path, ("MiB", 2**20))
    Report(tmp_path, ("MiB", 2**20))
    actor._require_shared(setup(tmp_path, token=(str(first.mark), first.word)), "here")


def test_results_that_another_command_wrote_here_are_no_sign_of_shared_storage(tmp_path, monkeypatch):
    monkeypatch.setattr(actor, "TOKEN_S", 0)
    monkeypatch.chdir(tmp_path)
    told = setup(tmp_path)
    (tmp_path / "cluster.json").write_text("of yesterday")
    with pytest.raises(ValueError, match="does not see what was just written"):
        Actor().start(told)
