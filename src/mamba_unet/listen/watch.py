"""What an administrator's programs ask a node: whether it works, and its numbers. Nothing of a patient is in either."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer

from mamba_unet import __version__
from mamba_unet.monitoring import CONTENT_TYPE, Gauge, Histogram, Metric, prometheus

TIMEOUT_S = 5.0  # of a request; requests are answered one at a time
EVENTS = ("stored", "ignored", "refused", "segmented", "failed", "sent")


@dataclass
class Events:
    """The node's own counts, as a counter.

    Args:
        counts: event -> how often since the start.
    """

    counts: Mapping[str, int]
    name = "events_total"
    help = "Images that were stored, ignored or refused, series that were segmented or failed, results that were sent."
    kind = "counter"

    def samples(self) -> Iterable[tuple[str, float]]:
        return [(f'{{event="{name}"}}', self.counts[name]) for name in EVENTS]


@dataclass(frozen=True)
class Watched:
    """A node, as those see it who watch it.

    Attributes:
        alive: whether all its threads live.
        queue: series that are being received, wait or are in the network.
        unsent: results that at least one destination has not taken.
        held_bytes: images and results on the disk.
        counts: event -> how often since the start; 0 for others.
        seconds: of a series in the network.
    """

    alive: Callable[[], bool]
    queue: Callable[[], int]
    unsent: Callable[[], int]
    held_bytes: Callable[[], int]
    counts: Mapping[str, int]
    seconds: Histogram

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (
            Gauge("up", "Whether all threads of the node live.", self.alive),
            Gauge("queue", "Series that are being received, wait or are in the network.", self.queue),
            Gauge("unsent", "Results that at least one destination has not taken.", self.unsent),
            Gauge("held_bytes", "Images and results on the disk.", self.held_bytes),
            Events(self.counts),
            self.seconds,
        )


class Watch:
    """Answers `/health` and `/metrics` over HTTP. Close it.

    Args:
        watched: the node.
        host, port: to listen on; port 0 takes a free one.

    Attributes:
        port: that it listens on.

    Raises:
        ValueError: the address is not free, or not this machine's.
    """

    def __init__(self, watched: Watched, host: str, port: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = TIMEOUT_S
            server_version, sys_version = "mamba-unet", ""

            def do_GET(self) -> None:
                kind, status = "application/json", 404
                match self.path.partition("?")[0]:
                    case "/health":
                        alive = watched.alive()
                        status = 200 if alive else 503
                        said = {"status": "ok" if alive else "failed", "version": __version__, "queue": watched.queue()}
                        body = json.dumps(said)
                    case "/metrics":
                        kind, body, status = CONTENT_TYPE, prometheus(watched.metrics), 200
                    case _:
                        body = json.dumps({"detail": "expected /health or /metrics"})
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        try:
            self._server = HTTPServer((host, port), Handler)
        except OSError as error:
            raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="mamba-unet-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
