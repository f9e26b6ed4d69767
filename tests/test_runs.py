import json
import os
import signal
import subprocess
import sys

import pytest

from mamba_unet.runs import RunFolder, find_runs


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def test_what_is_not_written_yet_is_empty_and_no_run(run):
    assert not run.exists and not run.is_complete
    assert run.read_split() == run.read_versions() == run.read_progress() == run.evaluations == {}
    with pytest.raises(ValueError, match=r"expected a run folder .* recipe\.yaml is not there"):
        run.read_recipe()


def test_a_run_is_complete_at_its_last_iteration(run):
    run.path.mkdir()
    for iteration in (3, 4):
        run.progress.write_text(json.dumps({"iteration": iteration, "iterations": 4}))
        assert run.is_complete == (iteration == 4)


def test_a_run_whose_progress_cannot_be_read_is_not_complete_and_other_damage_names_its_file(run):
    run.path.mkdir()
    run.progress.write_text('{"iteration": 4, "iterat')
    assert run.read_progress() == {} and not run.is_complete
    for damaged in ("", '{"train": null}'):
        run.split.write_text(damaged)
        with pytest.raises(ValueError, match=r"split\.json: damaged, .*another --out"):
            run.read_split()
    run.recipe.write_bytes(b"seed: \xff")
    with pytest.raises(ValueError, match=r"recipe\.yaml: damaged, expected text in UTF-8"):
        run.read_recipe()


def test_finished_evaluations_are_found_and_the_test_split_comes_first(run):
    for split in ("fold0/test", "val", "test"):
        run.evaluation(split).mkdir(parents=True)
        (run.evaluation(split) / "summary.json").touch()
    run.evaluation("unfinished").mkdir()
    assert list(run.evaluations) == ["test", "fold0_test", "val"]
    assert run.evaluations["fold0_test"] == run.path / "evaluation_fold0_test"


def test_runs_are_found_by_their_trained_network(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).best.touch()
    (tmp_path / "untrained").mkdir()
    assert [found.path.name for found in find_runs(tmp_path)] == ["a", "b"]


def test_half_written_files_of_a_killed_run_are_removed_and_nothing_else(run):
    run.path.mkdir()
    for name in (".0a1b2c3d.last.ckpt", ".keep", "last.ckpt"):
        (run.path / name).touch()
    run.remove_temporaries()
    assert sorted(path.name for path in run.path.iterdir()) == [".keep", "last.ckpt"]


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_a_folder_is_held_by_one_training_and_free_again_when_its_process_is_killed(run):
    code = (
        "import os, sys, time; from mamba_unet.runs import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock():\n"
        "    if worker := os.fork(): print(worker, flush=True)\n"
        "    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    with pytest.raises(ValueError, match=rf"another training writes .*process {process.pid} on "), run.lock():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with run.lock():  # though a process that the killed one has forked lives on
        os.kill(worker, signal.SIGKILL)
        assert (run.path / ".lock").exists()
    assert not list(run.path.iterdir())
