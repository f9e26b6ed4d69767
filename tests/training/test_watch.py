"""Two processes of one training, of which one dies or stands still."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mamba_unet.training import watch
from mamba_unet.training.recipe import save_recipe

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs SIGKILL and /proc")
SHORT = """
import sys, mamba_unet.training.watch as watch
watch.BEAT_S = 0.5
from mamba_unet.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def words(recipe, tmp_path) -> list[str]:
    """Of a training without an end, in two processes."""
    recipe.iterations, recipe.validate_every = 1_000_000, 5
    recipe.trainer.devices, recipe.trainer.strategy = 2, "ddp"
    save_recipe(tmp_path / "recipe.yaml", recipe)
    return ["train", str(tmp_path / "recipe.yaml")]


class SlowStore:
    """As one whose process has much to do."""

    def __init__(self):
        self.asked = threading.Event()

    def set(self, key: str, word: str) -> None:
        pass

    def multi_get(self, keys: list[str]) -> list[bytes]:
        self.asked.set()
        time.sleep(0.3)
        return [b"1" for _ in keys]


def test_no_thread_is_left_when_the_watch_ends(monkeypatch):
    """Python aborts a process whose thread comes back from the store while the process ends."""
    monkeypatch.setattr(watch, "BEAT_S", 0.01)
    monkeypatch.setattr(watch, "SILENCE", 6000)
    beats = watch._Beats(SlowStore(), rank=0, world_size=2)
    beats.start()
    assert beats.store.asked.wait(10)
    beats.stop(watch.LEFT)
    assert not beats.is_alive()


def wait_for(happened, *processes: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline and all(one.poll() is None for one in processes), log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_others_within_a_minute_with_a_message(recipe, words, tmp_path, rank):
    log = tmp_path / "log"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with log.open("w") as file:
        torchrun = subprocess.Popen([*command, "-m", "mamba_unet", *words], stdout=file, stderr=file)
    try:
        wait_for((Path(recipe.out) / "progress.json").exists, torchrun, log=log)
        children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
        environments = {int(child): Path(f"/proc/{child}/environ").read_bytes().split(b"\0") for child in children}
        workers = {pid for pid, environment in environments.items() if b"WORLD_SIZE=2" in environment}
        assert len(workers) == 2
        os.kill(next(pid for pid in workers if f"RANK={rank}".encode() in environments[pid]), signal.SIGKILL)
        assert torchrun.wait(60) != 0
        assert "mamba-unet: another process of this training is gone" in log.read_text()
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    finally:
        torchrun.terminate()
        torchrun.wait()


@pytest.mark.parametrize(
    ("rank", "said"), [(0, "the first process does not answer"), (1, "nothing was heard of process 1 for 4 s")]
)
def test_a_process_that_stands_still_is_not_waited_for(recipe, words, tmp_path, rank, said):
    with socket.create_server(("127.0.0.1", 0)) as free:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    log = tmp_path / "log"
    with log.open("w") as file:
        both = [
            subprocess.Popen(
                [sys.executable, "-c", SHORT, *words],
                env=os.environ | meeting | {"LOCAL_RANK": str(number), "NODE_RANK": "0"},
                stdout=file,
                stderr=file,
            )
            for number in range(2)
        ]
    try:
        wait_for((Path(recipe.out) / "progress.json").exists, *both, log=log)
        both[rank].send_signal(signal.SIGSTOP)
        assert both[1 - rank].wait(60) == 2
        assert f"mamba-unet: {said}; process {1 - rank} of 2" in log.read_text()
    finally:
        for one in both:
            one.kill()
            one.wait()
