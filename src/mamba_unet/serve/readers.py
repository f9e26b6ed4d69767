"""Processes that read what people hand in: a crash, a hang or a memory bomb is one failed volume."""

import threading
from collections.abc import Callable
from pathlib import Path

from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.volume import Volume

IDLE = 2  # processes that are kept warm
DEADLINE_S = 300.0  # for one volume


class Readers:
    """As many reading processes as are needed at a time; a few stay for the next volumes."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self._idle: list[Reader] = []
        self._closed = False
        self._change = threading.Lock()

    def read(self, read: Callable[[], Volume], path: Path) -> Volume:
        """See `isolated.Reader.read`."""
        with self._change:
            reader = self._idle.pop() if self._idle else Reader(self.deadline_s)
        try:
            return reader.read(read, path)
        finally:
            with self._change:
                keep = not self._closed and len(self._idle) < IDLE
                if keep:
                    self._idle.append(reader)
            if not keep:
                reader.close()

    def close(self) -> None:
        with self._change:
            self._closed = True
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.close()
