import json
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
        "import sys, time; from mamba_unet.runs import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock(): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=rf"another training writes .*process {process.pid} on "), run.lock():
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    with run.lock():
        assert run.lock_file.exists()
    assert not run.lock_file.exists()
