import sys

import pytest

from mamba_unet.cli import main
from mamba_unet.cluster import Cluster
from mamba_unet.cluster.connection import _connect, _crew, connected


class Ray:
    """Two machines that are alive and one that is not."""

    @staticmethod
    def nodes():
        sizes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 6.0}, {"CPU": 64.0, "GPU": 8.0}]
        return [{"NodeID": str(n), "Alive": n < 2, "Resources": size} for n, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("asked", "wants_gpu", "expected"),
    [
        ({}, True, (2, 1, 1)),
        ({}, False, (5, 0, 4)),
        ({"gpus_per_actor": 0.5}, True, (4, 0.5, 1)),
        ({"gpus_per_actor": 0, "cpus_per_actor": 2}, True, (11, 0, 2)),
        ({"actors": 3}, True, (3, 1, 1)),
    ],
)
def test_a_crew_has_as_many_workers_as_fit_the_machines(asked, wants_gpu, expected):
    crew = _crew(Ray, Cluster(**asked), wants_gpu)
    assert (crew.actors, crew.gpus, crew.cpus) == expected
    assert crew.has_room() and crew.is_alive("1") and not crew.is_alive("2")


def test_a_worker_that_fits_no_machine_is_refused():
    with pytest.raises(ValueError, match=r"no machine .* 4 GPUs and 1 CPU cores .* the most are 2 and 16"):
        _crew(Ray, Cluster(gpus_per_actor=4), True)


def test_without_ray_the_command_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r'pip install "mamba-unet\[ray\]"'), connected(Cluster(), False):
        pass


def test_workers_without_a_cluster_are_refused(tmp_path, capsys):
    assert (
        main(["predict", "run", "scan.nii.gz", "--out", str(tmp_path), "--actors", "2", "--gpus-per-actor", "1"]) == 2
    )
    assert "--actors, --gpus-per-actor needs --cluster" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--actors", "0"], ["--gpus-per-actor", "-1"], ["--cpus-per-actor", "few"]])
def test_numbers_that_are_none_are_refused(tmp_path, capsys, words):
    with pytest.raises(SystemExit):
        main(["predict", "run", "scan.nii.gz", "--out", str(tmp_path), "--cluster", "auto", *words])
    assert "expected a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:9", r"nothing answers there \(.*refused.*ray start --head"),
        ("ray://127.0.0.1:9", "nothing answers there"),
        ("head", r"expected auto, local, or ray://HOST:10001"),
    ],
)
def test_an_address_where_nothing_answers_is_refused_at_once(address, said):
    with pytest.raises(ValueError, match=f"--cluster {address}: {said}"):
        _connect(Ray, address)


def test_a_machine_in_no_cluster_is_told_what_there_is(monkeypatch):
    def init(*_, **__):
        raise ConnectionError("Could not find any running Ray instance.\nMore of it.")

    monkeypatch.setattr(Ray, "init", init, raising=False)
    with pytest.raises(ValueError, match=r"no Ray cluster that runs \(Could not find any .*instance\.\); start one"):
        _connect(Ray, "auto")
