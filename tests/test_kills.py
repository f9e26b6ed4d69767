"""Twenty processes killed at random moments: what they leave is whole, and the next run ends as an undisturbed one.

Starting Python and torch takes most of a short run, so one process imports everything and forks for each run.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mamba_unet.data import prepare, write_phantom
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.models.registry import build_model, resolve_config
from mamba_unet.training.recipe import ModelRecipe, OptimizerRecipe, Recipe, TrainerRecipe, save_recipe
from mamba_unet.views.intensity import MINMAX, intensity_rules
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

KILLS = 10  # of each command
FORKS = """
import json, os, signal, sys, time
import mamba_unet.inference, mamba_unet.training.train
from mamba_unet.cli import main

for line in sys.stdin:
    words, seconds, log = json.loads(line)
    start, child = time.monotonic(), os.fork()
    if child == 0:
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), stream)
        os._exit(main(words))
    while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() - start < seconds:
        time.sleep(0.001)
    if not done[0]:
        os.kill(child, signal.SIGKILL)
        done = os.waitpid(child, 0)
    print(json.dumps([os.waitstatus_to_exitcode(done[1]), time.monotonic() - start]), flush=True)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> Iterator[Callable[..., tuple[bool, float]]]:
    """(words, seconds) -> whether it was killed after so many seconds, else it ended well; and how long it ran."""
    log = tmp_path_factory.mktemp("log") / "log.txt"
    forks = subprocess.Popen([sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(words: list[str | Path], seconds: float = 300) -> tuple[bool, float]:
        forks.stdin.write(json.dumps([list(map(str, words)), seconds, str(log)]) + "\n")
        forks.stdin.flush()
        code, took = json.loads(forks.stdout.readline())
        assert code in (0, -9), log.read_text()
        return code == -9, took

    yield run
    forks.stdin.close()
    forks.wait()
    forks.stdout.close()


def killed(
    run: Callable[[float], bool], seconds: float, check: Callable[[], None], restart: Callable[[], None]
) -> None:
    """Kill a run at `KILLS` random moments of the time that it takes alone; one that was faster begins anew."""
    rng, kills, start = np.random.default_rng(0), 0, time.monotonic()
    while kills < KILLS:
        assert time.monotonic() - start < 300
        if run(rng.uniform(0, 1) * seconds):
            kills += 1
            check()
        else:
            restart()


def test_trainings_killed_at_random_end_as_the_undisturbed_one(command, tmp_path):
    write_phantom(tmp_path / "raw", cases=6, seed=0)
    prepare(tmp_path / "raw", tmp_path / "data", progress=False)
    recipe = Recipe(
        data=str(tmp_path / "data"),
        out=str(tmp_path / "whole"),
        model=ModelRecipe(size="nano", arguments={"dims": [8, 16], "depths": [1, 1], "drop_path_rate": 0.2}),
        view=Slices((32, 32)),
        batch_size=2,
        iterations=24,
        validate_every=3,
        optimizer=OptimizerRecipe(name="adamw", lr=1e-3),
        trainer=TrainerRecipe(accelerator="cpu", devices=1),
        workers=0,
    )
    save_recipe(tmp_path / "recipe.yaml", recipe)
    _, seconds = command(["train", tmp_path / "recipe.yaml"])
    runs = [tmp_path / "run0"]

    def train(longest: float = 300) -> bool:
        begun = (runs[-1] / "recipe.yaml").exists()
        words = ["train", tmp_path / "recipe.yaml", "--out", runs[-1], *(["--resume"] if begun else [])]
        return command(words, longest)[0]

    def whole_files() -> None:
        """Nothing that a reader would take is half-written; what begins with a dot is being written."""
        for path in runs[-1].glob("[!.]*.safetensors"):
            assert load_file(path)
        for path in runs[-1].glob("[!.]*.ckpt"):
            assert torch.load(path, weights_only=True)["step"] % 3 == 0
        for path in runs[-1].glob("[!.]*.json"):
            json.loads(path.read_text())

    killed(train, seconds, whole_files, lambda: runs.append(tmp_path / f"run{len(runs)}"))
    assert not train()
    expected = load_file(tmp_path / "whole" / "best.safetensors")
    for run in runs:
        found = load_file(run / "best.safetensors")
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
        states = [torch.load(folder / "last.ckpt", weights_only=True) for folder in (tmp_path / "whole", run)]
        assert states[0]["step"] == states[1]["step"] == 24
        assert all(torch.equal(v, states[1]["objective"][k]) for k, v in states[0]["objective"].items())
        assert not list(run.glob(".*"))


def test_predictions_killed_at_random_are_those_of_the_undisturbed_run(command, tmp_path):
    config = {"in_channels": 1, "num_classes": 2, **resolve_config("nano", {"dims": [8, 16], "depths": [1, 1]})}
    preprocessing = Preprocessing(intensity_rules(MINMAX), "SPL", Slices((32, 32)))
    metadata = CheckpointMetadata("mamba_unet", config, ["background", "bright"], preprocessing.to_json())
    save_checkpoint(tmp_path / "run" / "best.safetensors", build_model("mamba_unet", **config), metadata)
    rng = np.random.default_rng(1)
    for number in range(12):
        image = nib.Nifti1Image(rng.normal(size=(40, 36, 6)).astype(np.float32), np.diag([1.5, 1.5, 8, 1]))
        (tmp_path / "images").mkdir(exist_ok=True)
        nib.save(image, tmp_path / "images" / f"{number}.nii.gz")
    more = ["--probabilities", "--statistics"]
    words = ["predict", tmp_path / "run", tmp_path / "images", *more, "--out"]
    _, seconds = command([*words, tmp_path / "whole"])
    expected = {path.name: content(path) for path in (tmp_path / "whole").iterdir() if path.is_file()}
    outs = [tmp_path / "out0"]

    def predict(longest: float = 300) -> bool:
        return command([*words, outs[-1]], longest)[0]

    def whole_files() -> None:
        for path in outs[-1].glob("[!.]*"):
            if path.is_file() and path.name != "statistics.csv":  # of the cases so far
                assert content(path) == expected[path.name], path

    killed(predict, seconds, whole_files, lambda: outs.append(tmp_path / f"out{len(outs)}"))
    for out in outs:
        for path in out.rglob(".*"):  # half-written a while ago: the next run removes them
            os.utime(path, (0, 0))
        assert not command([*words, out])[0]
        assert not list(out.rglob(".*"))
        assert {path.name: content(path) for path in out.iterdir() if path.is_file()} == expected


def content(path: Path) -> object:
    if path.name.endswith(".nii.gz"):
        image = nib.load(path)
        return image.header.binaryblock, np.asanyarray(image.dataobj).tobytes()
    return path.read_text()
