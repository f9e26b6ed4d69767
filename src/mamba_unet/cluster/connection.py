"""Which Ray cluster works, what each of its workers gets, and the connection to it."""

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

CPUS_WITHOUT_GPU = 4  # of a worker; more help one network little, and every worker holds a network and its images
CONNECT_S = 10.0
OBJECT_STORE = 100 << 20  # bytes; what goes through it here are words, not images


@dataclass(frozen=True)
class Cluster:
    """Which Ray cluster works, and what each of its workers gets.

    Attributes:
        address: `auto`, the cluster that this machine belongs to; `ray://HOST:10001`, one from outside; `local`, this
            machine alone, where nothing leaves it; or HOST:PORT of a cluster's head, from one of its machines.
        actors: workers, each with a network of its own; None takes as many as there is room for.
        gpus_per_actor: what each gets, which may be a part of one; None is 1, or 0 where there is none.
        cpus_per_actor: the same of CPU cores; None is 1 beside a GPU, else up to 4.
    """

    address: str = "auto"
    actors: int | None = None
    gpus_per_actor: float | None = None
    cpus_per_actor: float | None = None


@dataclass(frozen=True)
class Crew:
    """A connected cluster, and the workers it has room for.

    Attributes:
        ray: the module.
        address: as it was given.
        actors: how many workers.
        gpus, cpus: what each gets.
    """

    ray: ModuleType
    address: str
    actors: int
    gpus: float
    cpus: float

    def has_room(self) -> bool:
        """Whether a machine that is alive could hold a worker, once it is idle."""
        return _room(_alive(self.ray), self.gpus, self.cpus) > 0

    def is_alive(self, node: str) -> bool:
        """Whether the machine of this id is."""
        return any(one["NodeID"] == node for one in _alive(self.ray))


@contextmanager
def connected(cluster: Cluster, wants_gpu: bool) -> Iterator[Crew]:
    """Connect to a cluster, or start one on this machine, for the time of the block.

    Args:
        cluster: which one.
        wants_gpu: whether the work can use a GPU.

    Raises:
        ValueError: Ray is not installed, no such cluster answers, or it has no machine for such a worker.
    """
    ray = import_ray()
    was_connected = ray.is_initialized()  # by a program that uses Ray itself
    if not was_connected:
        _connect(ray, cluster.address)
    try:
        yield _crew(ray, cluster, wants_gpu)
    finally:
        if not was_connected:
            ray.shutdown()


def import_ray() -> ModuleType:
    """Ray, without its messages. Raises ValueError where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a cluster that is started here reports to nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will do, without a warning
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            f'--cluster needs Ray, which is not installed here ({error}): pip install "mamba-unet[ray]"'
        ) from error
    return ray


def dead_hosts(ray: ModuleType) -> set[str]:
    """Names of the machines that were in the cluster and are dead."""
    nodes = ray.nodes()
    living = {node["NodeManagerHostname"] for node in nodes if node["Alive"]}
    return {node["NodeManagerHostname"] for node in nodes} - living


def _connect(ray: ModuleType, address: str) -> None:
    if address not in ("auto", "local"):
        _require_answer(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
            "_node_ip_address": "127.0.0.1",
        }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray and its libraries, about themselves
            ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        said = {
            "auto": f"this machine is in no Ray cluster that runs ({reason}); start one with `ray start --head`, name "
            "one (ray://HOST:10001), or take local: this machine alone",
            "local": f"Ray could not be started here ({reason})",
        }
        other = f"Ray could not connect ({reason}); all machines need the same versions of Ray and Python"
        raise ValueError(f"--cluster {address}: {said.get(address, other)}") from error


def _require_answer(address: str) -> None:
    """Refuse at once what Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        raise ValueError(f"--cluster {address}: expected auto, local, or ray://HOST:10001")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--cluster {address}: nothing answers there ({error}); is the head running (`ray start --head`), and its "
            "port open to this machine?"
        ) from error


def _crew(ray: ModuleType, cluster: Cluster, wants_gpu: bool) -> Crew:
    nodes = _alive(ray)
    most = {name: max((node["Resources"].get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")}
    gpus = cluster.gpus_per_actor
    if gpus is None:
        gpus = 1 if wants_gpu and most["GPU"] >= 1 else 0
    cpus = cluster.cpus_per_actor
    if cpus is None:
        cpus = 1 if gpus else max(1, min(CPUS_WITHOUT_GPU, most["CPU"]))
    room = _room(nodes, gpus, cpus)
    if not room:
        raise ValueError(
            f"no machine of the cluster has {gpus:g} GPUs and {cpus:g} CPU cores for a worker; the most are "
            f"{most['GPU']:g} and {most['CPU']:g}: see --gpus-per-actor and --cpus-per-actor"
        )
    return Crew(ray, cluster.address, cluster.actors or room, gpus, cpus)


def _alive(ray: ModuleType) -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _room(nodes: list[dict[str, Any]], gpus: float, cpus: float) -> int:
    """How many workers fit on these machines."""
    room = 0
    for node in nodes:
        has = node["Resources"]
        fits = [int(has.get(name, 0) / wanted) for name, wanted in (("GPU", gpus), ("CPU", cpus)) if wanted]
        room += min(fits, default=1)
    return room
