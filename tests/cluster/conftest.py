"""A real Ray cluster of two machines' worth of processes, a network and images for it."""

import gzip
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mamba_unet.cluster import Cluster
from mamba_unet.cluster.dispatch import Dispatcher
from mamba_unet.data import PreparedDataset, prepare, write_phantom
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.models.registry import build_model, resolve_config
from mamba_unet.views.slices import Slices

QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 3}


class Nodes:
    """A head and a second node of one core each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        self.ray = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": QUICK})
        self.second = self.ray.add_node(num_cpus=1)

    @property
    def cluster(self) -> Cluster:
        """Both nodes, alive, as commands take them."""
        if self.second is None:
            self.second = self.ray.add_node(num_cpus=1)
        return Cluster(self.ray.address, cpus_per_actor=1)

    def is_on_second(self, process: int) -> bool:
        """Whether a process was started by the second node."""
        raylets = self.second.all_processes["raylet"] if self.second else []
        with suppress(OSError):
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
            return parent in [one.process.pid for one in raylets]
        return False

    def kill_second(self) -> None:
        """SIGKILL to all processes that Ray started on it."""
        if self.second is not None:
            self.ray.remove_node(self.second, allow_graceful=False)
            self.second = None


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="ray is not installed (extra ray)")
    nodes = Nodes()
    yield nodes
    nodes.ray.shutdown()


@pytest.fixture
def both_begin(monkeypatch) -> None:
    """Nothing is handed out before two workers are ready: one may start much later than the other."""
    hand_out, begun = Dispatcher._hand_out, []

    def wait(dispatcher: Dispatcher) -> None:
        if begun or sum(hand.is_ready for hand in dispatcher.hands) == 2:
            begun.append(True)
            hand_out(dispatcher)

    monkeypatch.setattr(Dispatcher, "_hand_out", wait)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory) -> PreparedDataset:
    """Six synthetic cases, prepared."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "raw", cases=6, seed=0)
    return prepare(folder / "raw", folder / "data", progress=False)


@pytest.fixture(scope="session")
def checkpoint(prepared, tmp_path_factory) -> Path:
    """A run folder of a small network with random weights, for such cases."""
    folder, classes = tmp_path_factory.mktemp("run"), prepared.class_names
    torch.manual_seed(0)
    config = {
        "in_channels": 1,
        "num_classes": len(classes),
        **resolve_config("nano", {"dims": [8, 16], "depths": [1, 1]}),
    }
    preprocessing = prepared.preprocessing(Slices((32, 32)))
    metadata = CheckpointMetadata("mamba_unet", config, classes, preprocessing.to_json())
    save_checkpoint(folder / "best.safetensors", build_model("mamba_unet", **config), metadata)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of 24 volumes of several sizes, and one that is damaged."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(24):
        array = rng.normal(size=(40, 36, 4 + number % 5)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1])), folder / f"{number:02}.nii.gz")
    (folder / "damaged.nii.gz").write_bytes(gzip.compress(b"no image"))
    return folder
