"""A worker: a process of the cluster that does one piece of work after another, and what it is told at its start."""

import logging
import os
import pickle
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mamba_unet import __version__

TOKEN_S = 5.0  # that a network's file system may take to show a file
Messages = list[tuple[int, str]]  # level and text of what was logged


class Worker(Protocol):
    """What a worker is for: does the work, and says what it does it with."""

    about: dict[str, Any]  # "device", ...

    def do(self, work: Any) -> Any:
        """Do a piece of work. What it raises ends the whole command."""


@dataclass(frozen=True)
class Setup:
    """What a worker is told at its start.

    Attributes:
        make: pickle of a function that makes the `Worker`; unpickled in the folder that relative paths start from.
        folder: that folder.
        seen: absolute paths that every machine must have.
        token: a file that was just written, and a word in it: storage that is not shared does not show it.
        cpus, gpus: what it has.
        max_bytes: most memory that one input may take; None for the machine's default.
        version: of this package.
    """

    make: bytes
    folder: str
    seen: tuple[str, ...]
    token: tuple[str, str]
    cpus: float
    gpus: float
    max_bytes: int | None
    version: str = __version__


class Actor:
    """The process on the cluster. Ray makes it from this class."""

    def start(self, setup: Setup) -> dict[str, Any]:
        """Make the worker; says where it is and what it has.

        Raises:
            ValueError: another version of this package, or storage that is not shared.
        """
        host = socket.gethostname()
        if setup.version != __version__:
            raise ValueError(f"{host} has mamba-unet {__version__}, this command is {setup.version}; install the same")
        with suppress(OSError):
            os.chdir(setup.folder)
        _require_shared(setup, host)
        import ray
        import torch

        from mamba_unet.volumes import limits

        if not setup.gpus:  # some versions of Ray leave the machine's in sight
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(max(1, int(setup.cpus)))
        if setup.max_bytes is not None:
            limits.max_bytes = setup.max_bytes
        self.messages: Messages = []
        log = logging.getLogger("mamba_unet")
        log.setLevel(logging.INFO)
        log.propagate, log.handlers = False, [_Collect(self.messages)]
        make: Callable[[], Worker] = pickle.loads(setup.make)
        self.worker = make()
        node = ray.get_runtime_context().get_node_id()
        return {"host": host, "process": os.getpid(), "node": node, **self.worker.about}

    def do(self, work: Any) -> tuple[Any, Messages]:
        """What came of a piece of work, and what was logged since the last."""
        answer = self.worker.do(work)
        said = self.messages[:]
        del self.messages[: len(said)]
        return answer, said

    def ping(self) -> None:
        """Answers if the process is there."""


class _Collect(logging.Handler):
    def __init__(self, messages: Messages) -> None:
        super().__init__()
        self.messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append((record.levelno, record.getMessage()))


def _require_shared(setup: Setup, host: str) -> None:
    everywhere = "images, checkpoints, data and --out must lie on storage that all machines have under the same path"
    for path in setup.seen:
        if not os.path.exists(path):
            raise ValueError(f"{host} does not see {path}; {everywhere}")
    file, word = setup.token
    deadline = time.monotonic() + TOKEN_S
    while True:
        with suppress(OSError):
            if word in Path(file).read_text(encoding="utf-8"):
                return
        if time.monotonic() > deadline:
            raise ValueError(f"{host} does not see what was just written to {os.path.dirname(file)}; {everywhere}")
        time.sleep(0.2)
