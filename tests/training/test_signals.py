import os
import signal
import time
from pathlib import Path

import pytest

from mamba_unet.cli import main
from mamba_unet.training.recipe import save_recipe
from mamba_unet.training.signals import TrainingStopped, requeued

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no shell scripts")


@pytest.fixture
def scontrol(tmp_path, monkeypatch) -> Path:
    """A program of that name, which writes its words into `told` beside it."""
    program = tmp_path / "bin" / "scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> "{program.parent}/told"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return program


def stop(*how) -> None:
    with pytest.raises(TrainingStopped), requeued():
        raise TrainingStopped(*how)


def test_a_job_whose_time_ends_is_put_back_once_and_a_cancelled_one_is_not(scontrol, monkeypatch):
    stop("SIGTERM")
    stop("SIGUSR1", False)
    assert not (scontrol.parent / "told").exists()
    stop("SIGUSR1")
    assert (scontrol.parent / "told").read_text() == "requeue 4711\n"
    monkeypatch.delenv("SLURM_JOB_ID")
    stop("SIGUSR1")
    assert (scontrol.parent / "told").read_text() == "requeue 4711\n"


def test_a_job_whose_time_ends_between_its_trainings_is_put_back_too(scontrol):
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(TrainingStopped), requeued():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(5)
    assert (scontrol.parent / "told").read_text() == "requeue 4711\n"
    assert signal.getsignal(signal.SIGUSR1) == before


@pytest.mark.parametrize("program", ["#!/bin/sh\necho 'Requeue is disabled' >&2; exit 1\n", None])
def test_a_job_that_cannot_be_put_back_says_what_to_do(scontrol, monkeypatch, caplog, program):
    if program is None:
        monkeypatch.setenv("PATH", "/nowhere")
    else:
        scontrol.write_text(program)
    stop("SIGUSR1")
    assert "do it by `scontrol requeue 4711`" in caplog.text
    assert ("Requeue is disabled" in caplog.text) == (program is not None)


def test_with_requeue_a_run_begins_or_goes_on_by_the_same_words(recipe, tmp_path):
    recipe.iterations = recipe.validate_every = 1
    save_recipe(tmp_path / "recipe.yaml", recipe)
    words = ["train", str(tmp_path / "recipe.yaml")]
    assert main([*words, "--requeue"]) == 0
    assert main(words) == 2
    assert main([*words, "--requeue"]) == 0
