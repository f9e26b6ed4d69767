"""The server as a process: which networks, on which address, until Ctrl-C."""

import errno
import ipaddress
import logging
import secrets
import signal
import socket
import webbrowser
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mamba_unet import __version__
from mamba_unet.models.checkpoint import FILE_NAMES
from mamba_unet.monitoring import event
from mamba_unet.runs import find_runs
from mamba_unet.serve import viewer
from mamba_unet.serve.app import create_app
from mamba_unet.serve.guard import LOOPBACK

if TYPE_CHECKING:
    import uvicorn

    from mamba_unet.inference import Predictor

log = logging.getLogger(__name__)

GRACE_S = 5  # for downloads under way at Ctrl-C


def named_checkpoints(words: Sequence[str]) -> dict[str, str]:
    """What people choose a network by, and where it lies.

    Args:
        words: each a checkpoint, a folder that holds one or a hub id, or NAME= before one of these. None at all stands
            for every run in `runs/`.

    Raises:
        ValueError: two of one name, or none.
    """
    words = words or [str(run) for run in find_runs("runs")]
    if not words:
        raise ValueError(
            "no network to serve: give --checkpoint (a run folder, a .safetensors file or a hub id), or start in a "
            "folder whose runs/ holds trained ones; `make demo` trains one in two minutes (demo/run)"
        )
    named = {}
    for word in words:
        name, _, place = word.rpartition("=")
        path = Path(place)
        if not name:
            name = path.resolve().parent.name if path.name in FILE_NAMES else path.stem
        if name in named:
            raise ValueError(f"two networks are called {name!r}; give one another name: --checkpoint NAME={place}")
        named[name] = place
    return named


def serve(
    predictors: "Mapping[str, Predictor]",
    host: str = LOOPBACK[1],
    port: int = 8765,
    *,
    max_upload_mb: int = 2048,
    max_disk_mb: int = 20480,
    keep_minutes: float = 60,
    open_browser: bool = False,
    collect: str | Path | None = None,
    metrics_open: bool = False,
) -> None:
    """Serve the page until Ctrl-C, and say where.

    Args:
        predictors: by the name that people choose from.
        host: address to listen on; on any but a loopback one a token is demanded.
        port: 0 takes a free one.
        max_upload_mb: size of an upload, in MiB.
        max_disk_mb: size of all uploads and results together, in MiB.
        keep_minutes: how long a result stays that nobody asks for.
        open_browser: show the page.
        collect: folder that edits are collected in as training data.
        metrics_open: answer `/metrics` without the token.

    Raises:
        FileNotFoundError: the package was built without its viewer.
        ValueError: the address is taken, or not this machine's.
    """
    import uvicorn

    from mamba_unet.serve.connection import Connection

    if not viewer.installed():
        raise FileNotFoundError(
            "the page's viewer is not here: the package was built without network. `mamba-unet serve --install-viewer` "
            "fetches it from the npm registry, once"
        )
    listener = _listen(host, port)
    address, port = listener.getsockname()[:2]
    local = ipaddress.ip_address(address).is_loopback
    token = None if local else secrets.token_urlsafe(24)
    shown = socket.gethostname() if ipaddress.ip_address(address).is_unspecified else host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/" + (f"?token={token}" if token else "")
    print(f"Serving {', '.join(predictors)} at {url}", flush=True)
    if local:
        print("Only this machine can reach it. Ctrl-C stops it.", flush=True)
    else:
        print("Other machines can reach it: whoever has this address, token included, may use it.")
        print("The connection is not encrypted; across an untrusted network use ssh -L. Ctrl-C stops it.", flush=True)
    app = create_app(
        predictors,
        token=token,
        hosts=(*LOOPBACK, host),
        max_upload_bytes=max_upload_mb * 2**20,
        max_disk_bytes=max_disk_mb * 2**20,
        keep_s=60 * keep_minutes,
        collect=collect,
        metrics_open=metrics_open,
    )
    if open_browser:
        webbrowser.open(url)
    config = uvicorn.Config(
        app,
        http=Connection,
        log_config=None,  # its warnings go where all others go
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = uvicorn.Server(config)
    event(log, "serve_started", version=__version__, networks=len(predictors))
    try:
        with _hang_up_stops(server):
            server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has shut down by then, and passes the signal on
        pass
    event(log, "serve_stopped")
    print("Stopped; uploads and results are deleted.")


def _listen(host: str, port: int) -> socket.socket:
    """A socket on this address.

    Raises:
        ValueError: it is taken, forbidden, or not this machine's.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}: ports are 0 to 65535")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = (
                f"port {port} of {host} is in use, perhaps by another `mamba-unet serve`; give another one, "
                "or --port 0 to take a free one"
            )
        elif error.errno == errno.EACCES:
            reason = f"port {port} needs the rights of an administrator; give one above 1023"
        else:  # EADDRNOTAVAIL, or a name that nobody knows
            reason = (
                f"--host {host}: not an address of this machine; 127.0.0.1 is for this machine alone, 0.0.0.0 stands "
                "for all its addresses"
            )
    raise ValueError(reason)


@contextmanager
def _hang_up_stops(server: "uvicorn.Server") -> Iterator[None]:
    """A closed terminal stops the server as Ctrl-C does, unless it was started with `nohup`."""
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # Windows has none
        yield
        return
    before = signal.signal(signal.SIGHUP, server.handle_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
