"""Cases segmented on a real cluster, whose parts are killed while they work."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from mamba_unet.cli import main
from mamba_unet.cluster.predict import ClusterWorkers
from mamba_unet.inference import Predictor, jobs, predict_files
from mamba_unet.volumes.find import find_volumes

OUTPUTS = ("auto", "probabilities", "statistics")
OF_CLUSTER = ("cluster.json", "cluster.md")


def contents(folder: Path) -> dict[str, bytes]:
    """Of all results; the cluster's own account and what a kill left half-written aside."""
    files = [path for path in folder.rglob("[!.]*") if path.is_file() and path.name not in OF_CLUSTER]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def account(folder: Path) -> dict:
    return json.loads((folder / "cluster.json").read_text())


def segment(checkpoint, images, prepared, out, workers=None, **how):
    """All images and the test cases of the data, by `predict_files`."""
    given = {"outputs": OUTPUTS, "progress": False, "workers": workers, **how}
    return predict_files(Predictor(checkpoint, "cpu"), [images], out, prepared, prepared.split("test"), **given)


@pytest.fixture(scope="module")
def alone(checkpoint, images, prepared, tmp_path_factory) -> dict[str, bytes]:
    """The results of one process."""
    out = tmp_path_factory.mktemp("alone")
    assert len(segment(checkpoint, images, prepared, out).failures) == 1
    return contents(out)


@pytest.fixture(scope="module")
def cases(alone) -> list[str]:
    """Names of those that can be segmented."""
    return sorted(Path(name).stem for name in alone if name.startswith("cases/"))


@pytest.fixture
def words(checkpoint, images, prepared) -> list[str]:
    """The command of `segment`, without `--out`."""
    more = ["--data", str(prepared.folder), "--probabilities", "--statistics", "--device", "cpu"]
    return ["predict", str(checkpoint), str(images), *more]


@pytest.mark.slow
def test_results_are_those_of_one_process_to_the_byte_and_the_account_says_who_made_them(
    nodes, both_begin, words, alone, cases, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mamba_unet.cluster.progress.LINE_EVERY_S", float("inf"))  # a busy machine gets there
    words += ["--out", "out", "--cluster", nodes.cluster.address, "--cpus-per-actor", "1"]
    assert main([*words, "--report", "run.json"]) == 1  # the damaged one
    assert contents(tmp_path / "out") == alone
    said = capsys.readouterr()
    assert f"{len(cases)} segmentations" in said.out and "| worker | host" in said.out
    assert said.err.startswith("failed: ") and said.err.count("\n") == 1, "no line of Ray's"
    done = account(tmp_path / "out")
    first, second = done["workers"]
    assert first["process"] != second["process"] and first["done"] + second["done"] == len(cases) + 1
    assert first["failed"] + second["failed"] == 1 and min(first["done"], second["done"]) >= 3 and not done["moved"]
    written = json.loads((tmp_path / "run.json").read_text())["cases"]
    assert sorted(case["case"] for case in written) == cases and {case["worker"] for case in written} == {1, 2}


class Disturbed(ClusterWorkers):
    """Calls something when four cases are done."""

    def __init__(self, cluster, happens) -> None:
        super().__init__(cluster, "cpu", None, progress=False)
        self.happens, self.left = happens, 4

    def run(self, predictor, task, jobs, done):
        def count(outcome) -> None:
            done(outcome)
            self.left -= 1
            if self.left == 0:
                self.happens()

        return super().run(predictor, task, jobs, count)


@pytest.mark.slow
def test_a_node_killed_while_it_works_loses_nothing(
    nodes, both_begin, checkpoint, images, prepared, alone, cases, tmp_path
):
    workers = Disturbed(nodes.cluster, nodes.kill_second)
    done = segment(checkpoint, images, prepared, tmp_path, workers)
    assert sorted(done.written) == cases and list(done.failures) == [str(images / "damaged.nii.gz")]
    assert contents(tmp_path) == alone
    moved = account(tmp_path)["moved"]
    assert moved and {one["why"] for one in moved} == {"its machine died"}


@pytest.mark.slow
def test_a_case_that_kills_its_worker_twice_is_a_failure_and_stops_nothing(
    nodes, checkpoint, images, prepared, alone, tmp_path, monkeypatch
):
    def found(*words, **more):
        deadly = partial(os._exit, 1)
        return [replace(file, read=deadly) if file.name == "07" else file for file in find_volumes(*words, **more)]

    monkeypatch.setattr(jobs, "find_volumes", found)
    workers = ClusterWorkers(replace(nodes.cluster, actors=1), "cpu", None, progress=False)
    done = segment(checkpoint, images, prepared, tmp_path, workers, isolated=False)
    assert set(done.failures) == {str(images / "07.nii.gz"), str(images / "damaged.nii.gz")}
    assert "ended the process that worked on it 2 times" in done.failures[str(images / "07.nii.gz")]
    assert json.loads((tmp_path / "failures.json").read_text()) == done.failures
    here = contents(tmp_path)
    assert {name for name in alone if here.get(name) != alone[name]} == {
        *("07.nii.gz", "07_probabilities.nii.gz", "07_statistics.json", "cases/07.json"),
        *("failures.json", "statistics.csv"),
    }


@pytest.mark.slow
def test_a_driver_killed_and_started_again_does_the_rest(
    nodes, words, checkpoint, images, prepared, alone, cases, tmp_path
):
    cluster = replace(nodes.cluster, actors=1)
    words = [*words, "--out", str(tmp_path), "--cluster", cluster.address, "--cpus-per-actor", "1", "--actors", "1"]
    driver = subprocess.Popen([sys.executable, "-m", "mamba_unet", *words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while sum("structures" in path.read_text() for path in tmp_path.glob("cases/[!.]*.json")) < 3:  # finished
        assert driver.poll() is None and time.monotonic() < deadline, driver.stderr.read()
        time.sleep(0.01)
    driver.kill()
    driver.communicate()
    workers = ClusterWorkers(cluster, "cpu", None, progress=False)
    done = segment(checkpoint, images, prepared, tmp_path, workers)
    assert len(done.skipped) >= 3 and done.written and sorted([*done.skipped, *done.written]) == cases
    assert contents(tmp_path) == alone
