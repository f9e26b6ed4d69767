"""What an administrator's programs ask a node: whether it works, and its numbers. Nothing of a patient is in either."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer

from mamba_unet import __version__
from mamba_unet.monitoring import CONTENT_TYPE, Metric, prometheus

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


class Watch:
    """Answers `/health` and `/metrics` over HTTP. Close it.

    Args:
        host, port: to listen on; port 0 takes a free one.
        alive: whether the node works.
        queue: series that are being received, wait or are in the network.
        metrics: what `/metrics` answers.

    Attributes:
        port: that it listens on.

    Raises:
        ValueError: the address is not free, or not this machine's.
    """

    def __init__(
        self, host: str, port: int, alive: Callable[[], bool], queue: Callable[[], int], metrics: Sequence[Metric]
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = TIMEOUT_S
            server_version, sys_version = "mamba-unet", ""

            def do_GET(self) -> None:
                kind, status = "application/json", 404
                match self.path.partition("?")[0]:
                    case "/health":
                        status = 200 if alive() else 503
                        state = "ok" if status == 200 else "failed"
                        body = json.dumps({"status": state, "version": __version__, "queue": queue()})
                    case "/metrics":
                        kind, body, status = CONTENT_TYPE, prometheus(metrics), 200
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
