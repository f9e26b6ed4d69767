"""The node as a process: what it consists of, until it is told to stop."""

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mamba_unet.listen.events import event
from mamba_unet.listen.receive import Receiver
from mamba_unet.listen.rules import Rule
from mamba_unet.listen.send import Destination, Sender
from mamba_unet.listen.store import LIMITS, Limits, Store
from mamba_unet.listen.tls import NO_TLS, Tls
from mamba_unet.listen.watch import Events, Watch
from mamba_unet.listen.web import Dicomweb, Poller
from mamba_unet.listen.work import Worker
from mamba_unet.monitoring import Gauge

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor


class Node:
    """A DICOM node: it receives series, segments them and sends the results. Close it, or use it as a context manager.

    Args:
        predictor: the network.
        folder: what it holds on the disk; one that another node left is gone on with.
        title: its AE title.
        destinations: where results go; all of them get all.
        host, port, allow, tls, at_release: see `Receiver`.
        poll: archives that are asked for new series,
        poll_s, poll_days: how often, and from how many days before today.
        rules: which series are chosen, see `rules.chosen`.
        limits: what senders may use.
        quiet_s, keep_s: see `Store`, `Store.expire`.
        watch_port: answer `/health` and `/metrics` on it; 0 takes a free one, None answers nothing.

    Attributes:
        port: that it listens on.
        watch_port: the same for `/health` and `/metrics`; None where it answers nothing.

    Raises:
        ValueError: the folder or the address is in use, a TLS file cannot be used, or pynetdicom is absent.
    """

    def __init__(
        self,
        predictor: "Predictor",
        folder: str | Path,
        title: str,
        destinations: Sequence[Destination],
        *,
        host: str = "127.0.0.1",
        port: int = 11112,
        allow: Sequence[str] = (),
        tls: Tls = NO_TLS,
        at_release: bool = False,
        poll: Sequence[Dicomweb] = (),
        poll_s: float = 60,
        poll_days: int = 1,
        rules: Sequence[Sequence[Rule]] = (),
        limits: Limits = LIMITS,
        quiet_s: float = 30,
        keep_s: float = 3600,
        watch_port: int | None = None,
    ) -> None:
        self._closed = False
        with ExitStack() as opened:  # closes in reverse what was opened before an error
            self.store = Store(folder, rules, limits, quiet_s, [one.name for one in destinations])
            opened.callback(self.store.close)
            self._receiver = Receiver(self.store, title, host, port, allow, tls, at_release)
            opened.callback(self._receiver.close)
            worker = Worker(self.store, predictor, keep_s)
            self._threads = [
                worker,
                *(Sender(self.store, destination) for destination in destinations),
                *(Poller(self.store, service, poll_s, poll_days) for service in poll),
            ]
            self._watch = None
            if watch_port is not None:
                store = self.store
                metrics = (
                    Gauge("up", "Whether all threads of the node live.", self._is_alive),
                    Gauge(
                        "queue", "Series that are being received, wait or are in the network.", lambda: store.waiting
                    ),
                    Gauge(
                        "unsent", "Results that at least one destination has not taken.", lambda: store.outbox.waiting
                    ),
                    Gauge("held_bytes", "Images and results on the disk.", lambda: store.bytes),
                    Events(store.counts),
                    worker.seconds,
                )
                self._watch = Watch(host, watch_port, self._is_alive, lambda: store.waiting, metrics)
            opened.pop_all()
        self.port, self.watch_port = self._receiver.port, self._watch and self._watch.port
        for thread in self._threads:
            thread.start()

    def _is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, stop: threading.Event) -> None:
        """Until it is told to stop."""
        while not stop.wait(1):
            self._receiver.tidy()

    def close(self) -> None:
        """Receive no more, stop what is under way; all of it stays in the folder."""
        if self._closed:
            return
        self._closed = True
        if self._watch is not None:
            self._watch.close()
        self._receiver.close()
        for thread in self._threads:
            thread.close()
        self.store.close()
        event("stopped", **dict(sorted(self.store.counts.items())))


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM and a closed terminal set."""
    stop = threading.Event()
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    for name, handler in before.items():
        if handler is not signal.SIG_IGN:  # started with nohup
            signal.signal(getattr(signal, name), lambda *_: stop.set())
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def prepare_log() -> None:
    """Every line of the log begins with its time, in UTC; libraries are silent, because they may quote a patient."""
    form = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    for handler in logging.getLogger("mamba_unet").handlers:
        handler.setFormatter(form)
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"  # of the process that reads
