import csv
import dataclasses
import errno
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mamba_unet.cli import main
from mamba_unet.data import PreparedDataset, prepare, write_phantom
from mamba_unet.inference.evaluate import evaluate_checkpoint
from mamba_unet.models.loading import load_checkpoint
from mamba_unet.ops import use_backend
from mamba_unet.runs import RunFolder
from mamba_unet.training.loop import NonFiniteLossError, Training
from mamba_unet.training.objectives.supervised import Supervised
from mamba_unet.training.recipe import ModelRecipe, OptimizerRecipe, Recipe, RecipeError, TrainerRecipe, save_recipe
from mamba_unet.training.signals import TrainingStopped
from mamba_unet.training.state import ResumeError, save_state
from mamba_unet.training.train import train
from mamba_unet.views.slices import Slices


def logged(folder: Path, column: str) -> dict[int, float]:
    """step -> value over a run's CSV files, later ones overriding."""
    values = {}
    for path in sorted(folder.glob("logs/version_*/metrics.csv")):
        with open(path, newline="") as file:
            values |= {int(row["step"]): float(row[column]) for row in csv.DictReader(file) if row.get(column)}
    return values


def command(recipe, path: Path, *options: str) -> list[str]:
    save_recipe(path, recipe)
    return [sys.executable, "-m", "mamba_unet", "train", str(path), *options]


def test_a_run_folder_holds_what_is_needed_to_trust_and_repeat_the_run(recipe, phantom):
    folder = train(recipe)

    assert yaml.safe_load((folder / "recipe.yaml").read_text())["optimizer"]["lr"] == 1e-3
    assert json.loads((folder / "split.json").read_text()) == phantom.splits
    assert json.loads((folder / "versions.json").read_text())["torch"] == torch.__version__
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list(logged(folder, "val/dice")) == [3, 7]
    model, metadata = load_checkpoint(folder)
    assert not model.training
    assert metadata.seen["cases"] == len(phantom.splits["train"]) and len(metadata.seen["stored"]) == 1
    assert metadata.class_names == phantom.class_names and metadata.fingerprint == phantom.fingerprint
    best = max(logged(folder, "val/dice").values())
    assert metadata.validation["mean_foreground_dice"] == pytest.approx(best)
    assert not [path for path in folder.rglob(".*")], "a temporary file was left"


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_run_killed_anywhere_and_resumed_ends_as_the_uninterrupted_one_bit_for_bit(recipe, tmp_path):
    recipe.iterations = 16
    whole = train(recipe)

    recipe.out = str(tmp_path / "killed")
    words = command(recipe, tmp_path / "recipe.yaml")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = Path(recipe.out) / "progress.json"
    deadline = time.monotonic() + 120
    while not (progress.exists() and json.loads(progress.read_text())["iteration"] >= 4):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stopped_at = json.loads(progress.read_text())["iteration"]
    assert 4 <= stopped_at < 16

    subprocess.run([*words, "--resume"], check=True, capture_output=True)
    killed = Path(recipe.out)
    best, again = load_file(whole / "best.safetensors"), load_file(killed / "best.safetensors")
    assert best.keys() == again.keys() and all(torch.equal(best[name], again[name]) for name in best)
    states = [torch.load(f / "last.ckpt", weights_only=True) for f in (whole, killed)]
    assert states[0]["step"] == states[1]["step"] == 16
    assert all(torch.equal(v, states[1]["objective"][k]) for k, v in states[0]["objective"].items())
    assert logged(whole, "val/dice") == logged(killed, "val/dice")


def run_in_one_process(recipe, words) -> None:
    subprocess.run(words, check=True)


def run_in_two_processes(recipe, words) -> None:
    recipe.trainer.devices, recipe.trainer.strategy = 2, "ddp"
    save_recipe(words[-1], recipe)
    subprocess.run(words, check=True)


@contextmanager
def two_machines():
    """Two network namespaces, joined by a cable; what runs a command in one of them, by number."""
    names = [f"mamba-unet-{os.getpid()}-{number}" for number in range(2)]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        cable = ["ip", "link", "add", "cable", "netns", names[0], "type", "veth"]
        subprocess.run([*cable, "peer", "name", "cable", "netns", names[1]], check=True, capture_output=True)
        for number, name in enumerate(names):
            for words in (f"addr add 10.0.0.{number + 1}/24 dev cable", "link set cable up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *words.split()], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    else:
        yield lambda number: ["ip", "netns", "exec", names[number]]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def run_on_two_machines(recipe, words) -> None:
    """By the command of docs/cluster.md, in two network namespaces that see nothing but one another."""
    recipe.trainer.strategy = "ddp"
    save_recipe(words[-1], recipe)
    text = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text().replace("\\\n", "")
    documented = next(line for line in text.splitlines() if line.startswith("torchrun --nnodes 2"))
    ours = {"torchrun": [sys.executable, "-m", "torch.distributed.run"], "HOST": ["10.0.0.1"], "4": ["1"]}
    ours |= {"acdc_mamba_unet": [words[-1]], "data/acdc": [recipe.data], "runs/acdc": [recipe.out]}
    documented = [part for word in documented.split() for part in ours.get(word, [word])]
    rank = documented.index("--node-rank") + 1
    with two_machines() as inside:
        both = [
            subprocess.Popen(
                [*inside(number), *documented[:rank], str(number), *documented[rank + 1 :]],
                env=os.environ | {"GLOO_SOCKET_IFNAME": "cable"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(2)
        ]
        said = [one.communicate(timeout=300)[1] for one in both]
        assert [one.returncode for one in both] == [0, 0], said


@pytest.mark.parametrize("run", [run_in_two_processes, run_on_two_machines])
def test_two_processes_give_the_loss_of_one_with_the_joint_batch(recipe, tmp_path, run):
    """With batch normalisation, whose statistics are of the joint batch, too."""
    recipe.model = ModelRecipe("mamba_unet_fine", size="nano", arguments={"dims": [8, 16, 32], "drop_path_rate": 0.0})
    recipe.iterations = recipe.validate_every = 4
    losses, statistics = [], []
    for run_ in (run_in_one_process, run):
        recipe.out = str(tmp_path / run_.__name__)
        run_(recipe, command(recipe, tmp_path / f"{run_.__name__}.yaml"))
        losses.append([logged(Path(recipe.out), f"train/{name}") for name in ("loss", "dice_loss")])
        weights = load_file(Path(recipe.out) / "best.safetensors")
        statistics.append({name: value for name, value in weights.items() if ".running_" in name})
    assert len(losses[0][0]) > 0
    for one, two in zip(*losses, strict=True):
        assert one == pytest.approx(two, abs=1e-5)
    assert len(statistics[0]) > 0
    for name, value in statistics[0].items():
        torch.testing.assert_close(value, statistics[1][name], rtol=1e-4, atol=1e-5)


def test_a_folder_that_holds_a_run_is_not_overwritten(recipe):
    (Path(recipe.out)).mkdir()
    save_recipe(Path(recipe.out) / "recipe.yaml", recipe)
    with pytest.raises(RecipeError, match="--resume"):
        train(recipe)


def test_resuming_with_another_recipe_is_refused_and_names_what_differs(recipe):
    folder = train(dataclasses.replace(recipe, iterations=1, validate_every=1))
    with pytest.raises(RecipeError, match=r"batch_size: 4 then, 2 now"):
        train(dataclasses.replace(recipe, iterations=1, validate_every=1, batch_size=2, out=str(folder)), resume=True)


def test_resuming_on_data_that_was_prepared_anew_is_refused_before_anything_is_written(recipe, phantom, tmp_path):
    folder = train(dataclasses.replace(recipe, iterations=1, validate_every=1))
    again = dataclasses.replace(recipe, iterations=1, validate_every=1, data=str(tmp_path / "data"), out=str(folder))
    before = (folder / "split.json").read_bytes()

    write_phantom(tmp_path / "raw", cases=8, seed=0)
    prepare(tmp_path / "raw", tmp_path / "data", seed=1, progress=False)
    with pytest.raises(RecipeError, match="another split"):
        train(again, resume=True)

    shutil.rmtree(tmp_path / "raw")
    write_phantom(tmp_path / "raw", cases=8, seed=1)
    prepare(tmp_path / "raw", tmp_path / "data", splits=phantom.folder / "splits.json", progress=False)
    for best in (folder / "best.safetensors", None):  # None: stopped before the first validation
        with pytest.raises(RecipeError, match="other data"):
            train(again, resume=True)
        assert (folder / "split.json").read_bytes() == before
        if best is not None:
            best.unlink()


def test_a_non_finite_loss_stops_with_the_cases_and_leaves_the_checkpoints(recipe, monkeypatch):
    real = Supervised.forward

    def poisoned(self: Supervised, batch, step, done):
        if step == 5:
            batch["labelled"]["image"][0] = float("nan")
        return real(self, batch, step, done)

    monkeypatch.setattr(Supervised, "forward", poisoned)
    with pytest.raises(NonFiniteLossError, match=r"iteration 5; samples in the batch: phantom\S+/\d+"):
        train(recipe)
    model, metadata = load_checkpoint(recipe.out)
    assert metadata.validation["iteration"] == 4
    assert all(p.isfinite().all() for p in model.parameters())


BROKEN = """
import sys
from mamba_unet.cli import main
from mamba_unet.data.samples import Samples

def broken(self, item):
    sample = real(self, item)
    if item[1][1] == 9:  # in iteration 2, of the second process
        sample["image"][:] = float("nan")
        print("broken:", sample["name"], flush=True)
    return sample

real, Samples.__getitem__ = Samples.__getitem__, broken
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["supervised", "partial_ce"])
def test_the_samples_behind_a_loss_that_is_not_finite_are_named_whichever_process_had_them(recipe, tmp_path, objective):
    """The Dice loss of the joint batch is NaN in both processes, partial cross-entropy in one."""
    recipe.objective, recipe.trainer.devices, recipe.trainer.strategy = objective, 2, "ddp"
    save_recipe(tmp_path / "recipe.yaml", recipe)
    (tmp_path / "broken.py").write_text(BROKEN)
    words = [sys.executable, str(tmp_path / "broken.py"), "train", str(tmp_path / "recipe.yaml")]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300)
    name = re.search(r"broken: (\S+)", ended.stdout + ended.stderr)[1]
    said = re.search(r"the loss became nan at iteration 2; samples in the batch: (.*?)\. ", ended.stderr)[1]
    assert ended.returncode != 0 and name in said.split(", ")


@pytest.mark.parametrize(("at", "stopped"), [(8, False), (6, True)])
def test_weights_that_became_infinite_do_not_become_the_state_to_resume_from(recipe, monkeypatch, at, stopped):
    """At the second validation, behind an update whose loss was finite, or where a signal asks to save them."""

    def poisoned(self: Supervised, step):
        if step == at:
            next(self.network.parameters()).data[0] = float("inf")
            if stopped:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Supervised, "after_step", poisoned)
    said = rf"weights .* at iteration {at - 1}; samples in the batch: phantom\S+/\d+.* in another --out, .*--pretrained"
    with pytest.raises(NonFiniteLossError, match=said):
        train(recipe)
    assert torch.load(Path(recipe.out) / "last.ckpt", weights_only=True)["step"] == 4


def test_the_last_iteration_is_validated_whatever_the_interval(recipe):
    recipe.iterations, recipe.validate_every = 5, 2
    folder = train(recipe)
    assert list(logged(folder, "val/dice")) == [1, 3, 4]
    train(recipe, resume=True)  # has nothing left to do
    assert torch.load(folder / "last.ckpt", weights_only=True)["step"] == 5
    assert json.loads((folder / "progress.json").read_text())["iteration"] == 5
    assert list(logged(folder, "val/dice")) == [1, 3, 4]


def relabelled(phantom, folder, change) -> Path:
    """A copy of the phantom whose labels are changed: change(identifier, label) -> label."""
    data = shutil.copytree(phantom.folder, folder / "data")
    for case in phantom.identifiers:
        np.save(data / "labels" / f"{case}.npy", change(case, np.array(phantom.case(case).label)))
    return data


def test_validation_patients_without_any_foreground_are_refused_before_the_first_iteration(recipe, phantom, tmp_path):
    val = phantom.split("val")
    recipe.data = str(relabelled(phantom, tmp_path, lambda case, label: label * (case not in val)))
    with pytest.raises(ValueError, match=f"no foreground class is in any label of the validation .*{val[0]}"):
        train(recipe)
    assert not Path(recipe.out).exists()


def test_a_class_that_no_training_label_shows_is_warned_of(recipe, phantom, tmp_path, caplog):
    recipe.data = str(relabelled(phantom, tmp_path, lambda case, label: np.where(label == 2, 0, label)))
    recipe.iterations = 1
    train(recipe)
    assert f"no label of the training cases shows {phantom.class_names[2]}:" in caplog.text


def test_checkpoints_are_chosen_by_the_classes_that_validation_labels_show(recipe, phantom, tmp_path, caplog):
    """Without one false voxel a class that none shows has no Dice, with it 0: it would choose the poorer network."""
    val, shown = phantom.split("val"), [*phantom.class_names[1:2], *phantom.class_names[3:]]
    recipe.data = str(relabelled(phantom, tmp_path, lambda case, label: label * ((case not in val) | (label != 2))))
    folder = train(recipe)
    assert f"no label of the validation cases shows {phantom.class_names[2]}: checkpoints are chosen by" in caplog.text
    found = load_checkpoint(folder)[1].validation
    assert found["mean_foreground_dice"] == pytest.approx(np.mean([found["dice"][name] for name in shown]))
    assert found["mean_foreground_dice"] == pytest.approx(max(logged(folder, "val/dice").values()))


def test_a_constructor_argument_that_the_network_does_not_have_is_said(recipe):
    recipe.model.arguments["drop_rate"] = 0.1
    with pytest.raises(RecipeError, match=r"model\.arguments .*'drop_rate'"):
        train(recipe)
    assert not Path(recipe.out).exists()


def test_missing_data_or_out_is_said(recipe):
    recipe.out = None
    with pytest.raises(RecipeError, match="--out"):
        train(recipe)


def test_a_run_killed_behind_its_last_checkpoint_is_completed_by_resuming(recipe):
    folder = train(recipe)
    (folder / "progress.json").unlink()
    train(recipe, resume=True)
    progress = json.loads((folder / "progress.json").read_text())
    assert progress["iteration"] == progress["iterations"] == 8
    assert progress["best_validation_dice"] == pytest.approx(max(logged(folder, "val/dice").values()))


@pytest.mark.parametrize("key", ["trainer.precision", "trainer.deterministic"])
def test_resuming_in_another_precision_is_another_experiment_and_leaves_the_recipe(recipe, key):
    recipe.iterations = recipe.validate_every = 1
    folder = train(recipe)
    before = (folder / "recipe.yaml").read_bytes()
    with pytest.raises(RecipeError, match=f"{key}: .* then"):
        train(recipe, resume=True, **{key: {"trainer.precision": "64-true", "trainer.deterministic": True}[key]})
    assert (folder / "recipe.yaml").read_bytes() == before
    train(recipe, resume=True, workers=1, loggers=["csv"])  # the place may change


def test_a_recipe_is_trained_by_its_name_with_keys_as_arguments(phantom, tmp_path):
    folder = train(
        "demo",
        data=phantom.folder,
        out=tmp_path / "run",
        iterations=2,
        image_size=[32, 32],
        batch_size=2,
        model={"size": "nano"},
        loggers=["csv"],
        **{"optimizer.lr": 0.005, "trainer.accelerator": "cpu"},
    )
    said = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert said["optimizer"]["lr"] == 0.005 and said["optimizer"]["name"] == "adamw" and said["iterations"] == 2
    assert not (folder / "tensorboard").exists() and (folder / "curves.png").exists()


# Recorded with the training loop of commit a6d14c7, Lightning's, on the portable scan in one thread; AdamW's bits anew
# with its fused step, those of Intel with commit 5e70f5d.
BEFORE = {
    "sgd": ((0.5887234807014465, 0.5911769866943359), (0.0, 0.0)),
    "adamw": ((0.6772152185440063, 0.6150019764900208), (0.0, 0.02555031143128872)),
}
BITS = {  # of the weights; torch's matrix products differ in the last bits from one maker's CPUs to another's
    ("sgd", "AuthenticAMD"): "b3aaf940b8b0fba5",
    ("sgd", "GenuineIntel"): "90021820aac01797",
    ("adamw", "AuthenticAMD"): "76ac3df2b2bd2f74",
    ("adamw", "GenuineIntel"): "8c914e1affb3dd37",
}


def cpu_maker() -> str:
    """As Linux names it; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"^vendor_id\s*: (\w+)$", path.read_text() if path.exists() else "", re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("name", list(BEFORE))
def test_a_recipe_gives_what_it_gave_before(phantom, tmp_path, name):
    adamw = OptimizerRecipe(name="adamw", lr=1e-3, weight_decay=0.01, warmup=5, clip_norm=1.0)
    recipe = Recipe(
        data=str(phantom.folder),
        out=str(tmp_path / "run"),
        model=ModelRecipe(size="nano"),
        view=Slices((32, 32)),
        batch_size=4,
        iterations=20,
        validate_every=10,
        optimizer=OptimizerRecipe() if name == "sgd" else adamw,
        trainer=TrainerRecipe(accelerator="cpu", devices=1),
        workers=0,
    )
    with use_backend("torch"):
        folder = train(recipe)
    losses, dice = BEFORE[name]
    digest = BITS.get((name, cpu_maker()))
    assert tuple(logged(folder, "train/loss").values()) == pytest.approx(losses, rel=1e-5)
    assert tuple(logged(folder, "val/dice").values()) == pytest.approx(dice, abs=1e-3)
    if digest and torch.__version__.startswith("2.13.0") and torch.backends.cpu.get_cpu_capability() == "AVX512":
        weights = torch.load(folder / "last.ckpt", weights_only=True)["objective"]
        found = hashlib.sha256()
        for key in sorted(weights):
            found.update(key.removeprefix("network.").encode() + weights[key].numpy().tobytes())
        assert found.hexdigest()[:16] == digest, "bit for bit, on the same torch and instruction set"
        if cpu_maker() == "AuthenticAMD":  # where the losses were recorded
            assert tuple(logged(folder, "train/loss").values()) == losses


@pytest.mark.parametrize(
    ("signal_name", "devices", "workers"), [("SIGUSR1", 1, 0), ("SIGTERM", 2, 0), ("SIGUSR1", 1, 2), ("SIGINT", 1, 2)]
)
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_run_asked_to_stop_saves_at_the_next_step(recipe, tmp_path, signal_name, devices, workers):
    """By a signal to the one process that was started, or to all of its group, those that load data among them."""
    recipe.workers = workers
    recipe.iterations = recipe.validate_every = 2000
    recipe.trainer.devices, recipe.trainer.strategy = devices, "ddp" if devices == 2 else "auto"
    words = command(recipe, tmp_path / "recipe.yaml")
    where = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    if signal_name == "SIGINT":  # which is ignored if these tests were started by "&"
        where["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(words, text=True, start_new_session=True, **where)
    logs = Path(recipe.out) / "logs" / "version_0" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not logs.exists():  # flushed after 100 iterations
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    (os.killpg if workers else os.kill)(process.pid, getattr(signal, signal_name))
    said = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if signal_name == "SIGINT" else 143), said
    state = torch.load(Path(recipe.out) / "last.ckpt", weights_only=True)
    assert 100 <= state["step"] < 2000
    assert f"stopped by {signal_name} behind iteration {state['step']} of 2000" in said and "Traceback" not in said
    assert json.loads((Path(recipe.out) / "progress.json").read_text())["iteration"] == state["step"]


def test_a_run_stopped_between_validations_and_resumed_is_the_uninterrupted_one(recipe, tmp_path, monkeypatch):
    whole = train(recipe)
    real = Training._iterate

    def asked(self, batch):
        real(self, batch)
        if self.step in (2, 4, 8):  # between validations, where one is due, and behind the last iteration
            os.kill(os.getpid(), signal.SIGTERM)

    recipe.out = str(tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_iterate", asked)
        for step in (2, 4, 8):
            with pytest.raises(TrainingStopped):
                train(recipe, resume=True)
            assert torch.load(Path(recipe.out) / "last.ckpt", weights_only=True)["step"] == step
            assert not RunFolder(recipe.out).is_complete, "its last state is still to be validated"
    stopped = train(recipe, resume=True)
    assert RunFolder(stopped).is_complete
    best, again = load_file(whole / "best.safetensors"), load_file(stopped / "best.safetensors")
    assert all(torch.equal(best[name], again[name]) for name in best)
    assert logged(whole, "val/dice") == logged(stopped, "val/dice")


def test_a_training_of_hardly_any_time_is_validated_and_saved(recipe):
    recipe.minutes = 1e-9
    folder = train(recipe)
    assert RunFolder(folder).is_complete and (folder / "best.safetensors").is_file()
    assert json.loads((folder / "progress.json").read_text())["iteration"] == 1


@pytest.mark.parametrize(("warmup", "minutes", "warned"), [(2, None, 1), (2, 60.0, 1), (1, None, 0)])
def test_a_training_that_ends_within_its_warmup_is_warned_of_once(recipe, warmup, minutes, warned, caplog):
    recipe.optimizer.warmup, recipe.minutes = warmup, minutes
    recipe.iterations, recipe.validate_every = 2, 2
    train(recipe)
    assert caplog.text.count("the learning rate never reaches optimizer.lr") == warned


@pytest.mark.parametrize(
    ("precision", "speed", "warned"), [("bf16-mixed", 0.5, 1), ("bf16-mixed", 1.5, 0), ("32-true", 0.5, 0)]
)
def test_bfloat16_on_a_cpu_that_is_slow_in_it_is_warned_of(recipe, precision, speed, warned, caplog, monkeypatch):
    """Some CPUs with AVX512-BF16 take longer in bfloat16 than in float32, those without it many times as long."""
    monkeypatch.setattr("mamba_unet.training.train.bfloat16_speed", lambda: speed)
    recipe.trainer.precision = precision
    recipe.iterations = recipe.validate_every = 1
    train(recipe)
    assert caplog.text.count(f"{speed} times as fast in bfloat16 as in float32") == warned


def test_a_state_that_is_cut_short_is_replaced_by_the_one_before(recipe, caplog):
    folder = train(recipe)
    whole = load_file(folder / "best.safetensors")
    last = folder / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    train(recipe, resume=True)
    assert "last.ckpt cannot be read" in caplog.text and "going on from previous.ckpt, iteration 4" in caplog.text
    assert torch.load(last, weights_only=True)["step"] == 8
    # what was cut short has not taken the place of the whole one before it
    assert torch.load(folder / "previous.ckpt", weights_only=True)["step"] == 4
    again = load_file(folder / "best.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    strange = torch.load(last, weights_only=True)
    strange["objective"] = {name: value[..., None] for name, value in strange["objective"].items()}
    torch.save(strange, last)
    with pytest.raises(ResumeError, match=r"its last\.ckpt is not the state of this training \(RuntimeError") as error:
        train(recipe, resume=True)
    assert len(str(error.value)) < 500
    torch.save({"format": strange["format"], "step": 8}, last)
    caplog.clear()
    train(recipe, resume=True)
    assert "last.ckpt holds no best_dice, lineage" in caplog.text and "going on from previous.ckpt" in caplog.text
    for path in (last, folder / "previous.ckpt"):
        path.write_bytes(b"")
    with pytest.raises(ResumeError, match=r"last\.ckpt cannot be read.*previous\.ckpt cannot be read"):
        train(recipe, resume=True)


def test_what_a_training_writes_follows_the_umask_and_half_written_files_are_removed(recipe):
    recipe.iterations = recipe.validate_every = 1
    folder = train(recipe)
    (folder / ".0a1b2c3d.last.ckpt").touch()
    assert (folder / "best.safetensors").stat().st_mode & 0o777 == (folder / "recipe.yaml").stat().st_mode & 0o777
    train(recipe, resume=True)
    assert not (folder / ".0a1b2c3d.last.ckpt").exists()


@pytest.mark.parametrize("accelerator", ["gpu", "mps", "tpu", "abacus"])
def test_devices_that_are_not_here_are_one_sentence_and_leave_no_folder(recipe, accelerator):
    if (accelerator == "gpu" and torch.cuda.is_available()) or (accelerator == "mps" and torch.mps.is_available()):
        pytest.skip("it is here")
    recipe.trainer.accelerator = accelerator
    with pytest.raises(RecipeError, match=f"accelerator {accelerator}, .*cannot be had here .*--trainer"):
        train(recipe)
    assert not Path(recipe.out).exists()


def test_a_training_that_fails_before_its_first_iteration_is_done_leaves_no_folder(recipe):
    recipe.model.name, recipe.model.arguments = "unet", {}
    recipe.batch_size, recipe.view = 1, Slices((16, 16))
    with pytest.raises(RecipeError, match="batch_size is 1 and samples of 16 x 16 shrink to one pixel"):
        train(recipe)
    assert not Path(recipe.out).exists()


def test_a_run_that_another_one_began_at_the_same_time_stays(recipe, monkeypatch):
    """Both looked before either held the folder."""
    real = RunFolder.lock

    def late(run):
        (run.path / "other").mkdir(parents=True)
        monkeypatch.setattr(RunFolder, "lock", real)
        return real(run)

    monkeypatch.setattr(RunFolder, "lock", late)
    monkeypatch.setattr(Training, "run", lambda training: pytest.fail("began"))
    with pytest.raises(pytest.fail.Exception):
        train(recipe)
    assert (Path(recipe.out) / "other").is_dir()


def test_too_little_shared_memory_is_said_with_the_remedy(recipe, monkeypatch):
    def bus(*args):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...")

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", bus)
    with pytest.raises(OSError, match=r"too little shared memory .*--workers 0"):
        train(recipe, workers=1)


@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_a_logger_whose_package_is_missing_is_one_sentence(recipe, logger, monkeypatch):
    if importlib.util.find_spec(logger):
        pytest.skip("it is installed")
    with pytest.raises(RecipeError, match=f"{logger} needs its package.*pip install {logger}"):
        train(recipe, loggers=["csv", logger])
    assert not Path(recipe.out).exists()


@pytest.mark.skipif(os.name == "nt", reason="Lightning does not look for srun there")
def test_a_machine_that_can_submit_jobs_gets_no_advice_to_do_so(recipe, tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    shutil.copy(sys.executable, tmp_path / "bin" / "srun")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    recipe.iterations = recipe.validate_every = 1
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(recipe)
    assert not [str(one.message) for one in said if "srun" in str(one.message)]


def test_a_log_file_gets_plain_lines(recipe, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mamba_unet"), "handlers", [])  # of a command in an earlier test
    train(recipe)
    said = capsys.readouterr()
    assert said.err.count("\n") == 3 and "\r" not in said.err and "\x1b" not in said.err and not said.out
    assert said.err.startswith("train: 8 iterations\niteration 4 of 8: validation Dice 0.")


def test_a_full_disk_names_the_file_and_leaves_what_was_there(recipe, monkeypatch):
    recipe.iterations = 4
    folder = train(recipe)
    before = (folder / "last.ckpt").read_bytes()

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match=r"last\.ckpt could not be written; is the disk full\?"):
        save_state(RunFolder(folder), {"step": 5})
    assert (folder / "last.ckpt").read_bytes() == before and not list(folder.glob(".*"))


def test_a_disk_that_is_full_for_the_logs_is_told_with_the_run(recipe, monkeypatch):
    recipe.iterations = recipe.validate_every = 1

    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lightning.fabric.loggers.CSVLogger.save", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{recipe.out}'"):
        train(recipe)
    assert torch.load(Path(recipe.out) / "last.ckpt", weights_only=True)["step"] == 1


def test_fine_tuning_keeps_the_first_runs_patients_in_mind_and_needs_its_file_once(recipe, phantom, tmp_path, caplog):
    recipe.iterations = recipe.validate_every = 1
    first = train(recipe)
    _, before = load_checkpoint(first)
    used = [*phantom.split("train"), *phantom.split("val")]
    assert set(before.lineage) == {phantom.image_hash(case) for case in used}

    # the same images under other names and another split, and a class more
    data = shutil.copytree(phantom.folder, tmp_path / "data")
    splits = json.loads((data / "splits.json").read_text())
    splits["cases"] |= {"train": splits["cases"]["test"], "test": splits["cases"]["train"]}
    (data / "splits.json").write_text(json.dumps(splits))
    described = json.loads((data / "dataset.json").read_text())
    described["class_names"].append("scar")
    (data / "dataset.json").write_text(json.dumps(described))
    recipe.data, recipe.out = str(data), str(tmp_path / "second")
    recipe.pretrained, recipe.optimizer.lr_pretrained_factor = str(first), 0.1
    recipe.iterations = 4
    caplog.clear()
    second = train(recipe, validate_every=2)
    assert "no label of the training cases shows scar" in caplog.text
    assert f"test cases ({phantom.split('train')[0]}" in caplog.text and "`evaluate` will refuse" in caplog.text
    assert "output.weight" in (second / "pretrained.txt").read_text()
    _, after = load_checkpoint(second)
    assert set(before.lineage) < set(after.lineage) == {phantom.image_hash(case) for case in phantom.identifiers}
    state = torch.load(second / "last.ckpt", weights_only=True)
    assert [group["lr"] / group["initial_lr"] for group in state["optimizer"]["param_groups"]] == [0, 0]
    assert [group["initial_lr"] for group in state["optimizer"]["param_groups"]] == [1e-3, 1e-4]
    with pytest.raises(ValueError, match="fine-tuned from"):
        evaluate_checkpoint(second, PreparedDataset(data))

    whole = load_file(second / "best.safetensors")
    shutil.rmtree(first)  # a run that goes on needs it no more
    (second / "previous.ckpt").replace(second / "last.ckpt")
    train(recipe, resume=True, validate_every=2)
    again = load_file(second / "best.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert load_checkpoint(second)[1].lineage == after.lineage


def test_ctrl_c_ends_the_command_with_130(recipe, tmp_path, monkeypatch, capsys):
    def interrupted(self, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "_iterate", interrupted)
    save_recipe(tmp_path / "recipe.yaml", recipe)
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 130
    assert capsys.readouterr().err.endswith("mamba-unet: interrupted\n")
