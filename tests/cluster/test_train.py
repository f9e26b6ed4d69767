"""Trainings on a real cluster; a node dies while it trains."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from mamba_unet.cli import main
from mamba_unet.cluster import connection, train
from mamba_unet.files import LOCK
from mamba_unet.runs import RunFolder

RECIPE = """
image_size: [32, 32]
batch_size: 4
iterations: 16
validate_every: 2
optimizer: {{name: adamw, lr: 2.0e-3}}
trainer: {{accelerator: cpu}}
workers: 0
model: {{name: {name}, size: nano, arguments: {{dims: [8, 16, 32]}}}}
"""
NAMES = ("mamba_unet", "mamba_unet_no_scan")
TABLES = ("table.csv", "significance.csv")


@pytest.fixture(scope="module")
def words(prepared, tmp_path_factory):
    """`compare` of a network and its control on a phantom."""
    folder = tmp_path_factory.mktemp("recipes")
    for name in NAMES:
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name))
    return ["compare", *(str(folder / f"{name}.yaml") for name in NAMES), "--data", str(prepared.folder), "--out"]


def process_of(run: RunFolder) -> int:
    """The process that trains into a folder; 0 where none does."""
    with suppress(OSError, IndexError):
        return int((run.path / LOCK).read_text().split()[1])
    return 0


@pytest.mark.slow
def test_a_comparison_whose_node_dies_is_that_of_one_process(nodes, both_begin, words, tmp_path, capsys):
    assert main([*words, str(tmp_path / "alone")]) == 0
    out, cluster = tmp_path / "out", nodes.cluster
    runs = [RunFolder(out / "runs" / name / "seed0") for name in NAMES]

    def kill(deadline: float) -> None:
        """As soon as the training on the second node has a state."""
        while not any(run.last.is_file() and nodes.is_on_second(process_of(run)) for run in runs):
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        nodes.kill_second()

    killer = threading.Thread(target=kill, args=[time.monotonic() + 120])
    killer.start()
    assert main([*words, str(out), "--cluster", cluster.address, "--cpus-per-actor", "1"]) == 0
    killer.join()
    for name in TABLES:
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    account = json.loads((out / "cluster.json").read_text())
    assert [one["why"] for one in account["moved"]] == ["its machine died"]
    (moved,) = (out / one["training"] for one in account["moved"])
    assert len(RunFolder(moved).metrics) == 2, "it went on from its state"
    assert "its machine died while it held" in capsys.readouterr().err
    assert main([*words, str(out), "--cluster", "ray://nobody:1"]) == 0, "nothing is left to do, so nobody is asked"


def test_a_folder_held_on_a_dead_machine_is_freed_and_one_on_a_living_machine_is_not(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)
    code = (
        "import sys, time; from mamba_unet.runs import RunFolder\n"
        "with RunFolder(sys.argv[1]).lock(): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n" and run.lock_host() == os.uname().nodename
    dead: set[str] = set()
    monkeypatch.setattr(train, "dead_hosts", lambda _: dead)
    monkeypatch.setattr(train, "import_ray", lambda: None)
    monkeypatch.setattr(train, "LOCK_S", 0.1)
    with pytest.raises(ValueError, match="another training writes"):
        train._wait_until_free(run)
    dead.add(run.lock_host())
    train._wait_until_free(run)
    with run.lock():
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()


def test_machines_are_dead_whose_name_no_living_one_has():
    nodes = [("a", True), ("a", False), ("b", False)]
    table = [{"NodeManagerHostname": name, "Alive": alive} for name, alive in nodes]
    ray = SimpleNamespace(nodes=lambda: table)
    assert connection.dead_hosts(ray) == {"b"}
