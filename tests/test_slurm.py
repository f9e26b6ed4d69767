"""The sbatch files of docs/cluster.md on a real SLURM: a controller and two nodes, all of them this machine.

Their text is taken from the page; a test replaces sizes and names only.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mamba_unet.data import prepare, write_phantom
from mamba_unet.models import build_model
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.views.intensity import MINMAX
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices

pytestmark = pytest.mark.slow
for program in ("munged", "slurmctld", "slurmd", "sbatch", "srun"):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is absent (Debian: slurmctld slurmd slurm-client munge)", allow_module_level=True)
if os.getuid() != 0:
    pytest.skip("a node of SLURM is run by root", allow_module_level=True)

PAGE = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text()
TRAINING, COMPARISON, PREDICTION = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.S | re.M)
(TABLES,) = re.findall(r"^sbatch .*$", PAGE, re.M)
SMALL = """
model: {size: nano, arguments: {dims: [8, 16, 32]}}
view: {size: [32, 32]}
batch_size: 4
iterations: 300
validate_every: 50
workers: 0
"""
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 Gres=gpu:8
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 Gres=gpu:8
PartitionName=all Nodes=node1,node2 Default=YES MaxTime=INFINITE OverSubscribe=FORCE:4
"""


def until(happened: Callable[[], object], seconds: float, said: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, said()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands find a cluster of two nodes."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "munge.key").touch(0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [one.getsockname()[1] for one in free]
    for one in free:
        one.close()
    configuration = CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=ports)
    (folder / "slurm.conf").write_text(configuration)
    for number in range(8):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"NodeName=node[1-2] Name=gpu File={folder}/gpu[0-7]\n")
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    munge = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "pid", "seed-file": "seed"}
    daemons = [
        ["munged", "--foreground", "--force", *(f"--{word}={folder / name}" for word, name in munge.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "node1"],
        ["slurmd", "-D", "-N", "node2"],
    ]
    running, log = [], folder / "log"
    try:
        with log.open("w") as file:
            for words in daemons:
                running.append(subprocess.Popen(words, env=environment, stdout=file, stderr=file))
                if words[0] == "munged":
                    until((folder / "munge.socket").exists, 20, log.read_text)
        idle = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
        until(
            lambda: subprocess.run(idle, env=environment, capture_output=True, text=True).stdout.strip() == "2",
            60,
            log.read_text,
        )
        yield environment
    finally:
        if len(running) > 1:
            subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True, timeout=20)
        for daemon in reversed(running):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@pytest.fixture
def here(tmp_path) -> Path:
    """A folder with data/acdc and two small recipes."""
    write_phantom(tmp_path / "raw", cases=8, seed=0)
    prepare(tmp_path / "raw", tmp_path / "data" / "acdc", progress=False)
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "other.yaml").write_text(f"{SMALL}seed: 1\n")
    return tmp_path


@pytest.fixture
def submit(slurm, here) -> Callable[..., str]:
    """Submit a text with other sizes; its number."""

    def submit(text: str, sizes: dict[str, str], *options: str) -> str:
        for long, short in sizes.items():
            assert long in text, f"{long} is not in docs/cluster.md"
            text = text.replace(long, short)
        if text.startswith("#!"):
            (here / "job.sh").write_text(text)
            text = "sbatch job.sh"
        words = [*shlex.split(text), *options]
        return subprocess.run(
            [words[0], "--parsable", *words[1:]], cwd=here, env=slurm, check=True, capture_output=True, text=True
        ).stdout.strip()

    return submit


def logs(here: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(here.glob("slurm-*.out")))


def wait(job: str, slurm: dict[str, str], here: Path) -> None:
    """Until a job, all of its array, is done well."""

    def states() -> set[str]:
        words = ["scontrol", "show", "job", job]
        shown = subprocess.run(words, env=slurm, capture_output=True, text=True)
        return set(re.findall(r"JobState=(\w+)", shown.stdout))

    until(lambda: not states() & {"PENDING", "RUNNING", "COMPLETING", "REQUEUED"}, 300, lambda: logs(here))
    assert states() == {"COMPLETED"}, logs(here)


def test_a_training_on_two_nodes_is_put_back_by_sigusr1_and_ends(submit, slurm, here):
    sizes = {"--ntasks-per-node=4": "--ntasks-per-node=1", "--cpus-per-task=8": "--cpus-per-task=1"}
    sizes |= {"--trainer.devices 4": "--trainer.devices 1", "acdc_mamba_unet": "small.yaml", "/tmp/prepared": "local"}
    job = submit(TRAINING, sizes)
    progress = here / "runs" / "acdc" / "progress.json"
    until(progress.is_file, 120, lambda: logs(here))
    subprocess.run(["scancel", "--signal=USR1", job], env=slurm, check=True)
    wait(job, slurm, here)
    said = (here / f"slurm-{job}.out").read_text()
    stopped = re.search(r"stopped by SIGUSR1 behind iteration (\d+) of 300", said)
    assert stopped and f"job {job} is back in the queue" in said, said
    assert int(stopped[1]) < 300 and json.loads(progress.read_text())["iteration"] == 300
    assert len(list((here / "runs" / "acdc").glob("logs/version_*"))) == 2
    assert len(list((here / "local").glob("*/images/*.npy"))) == 8


def test_a_comparison_as_an_array_ends_in_its_tables(submit, slurm, here):
    names = {"acdc_mamba_unet": "small.yaml", "acdc_unet": "other.yaml", "0,1,2": "0"}
    sizes = names | {"--array=1-6": "--array=1-2", "/6": "/2", "--requeue --part": "--requeue --iterations 4 --part"}
    job = submit(COMPARISON, sizes)
    tables = submit(TABLES, {**names, "JOB": job, "comparisons/acdc": "comparisons/acdc --iterations 4"})
    wait(job, slurm, here)
    wait(tables, slurm, here)
    table = (here / "comparisons" / "acdc" / "table.md").read_text()
    assert "\n| small " in table and "\n| other " in table
    assert (here / f"slurm-{job}_1.out").exists() and (here / f"slurm-{job}_2.out").exists()


def test_a_prediction_as_an_array_segments_every_image_once(submit, slurm, here):
    config = {"in_channels": 1, "num_classes": 4, "size": "nano"}
    names = ["background", "a", "b", "c"]
    preprocessing = Preprocessing((MINMAX,), None, Slices((32, 32))).to_json()
    metadata = CheckpointMetadata("mamba_unet", config, names, preprocessing)
    save_checkpoint(here / "runs" / "acdc" / "best.safetensors", build_model("mamba_unet", **config), metadata)
    shutil.copytree(here / "raw" / "imagesTr", here / "images")
    job = submit(PREDICTION, {"--array=1-8": "--array=1-2", "/8": "/2"})
    wait(job, slurm, here)
    cases = [path.name.replace("_0000", "") for path in (here / "images").iterdir()]
    assert sorted(path.name for path in (here / "results").glob("*.nii.gz")) == sorted(cases)
