import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from mamba_unet.models import build_model
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.serve import viewer
from mamba_unet.serve.run import named_checkpoints, serve
from mamba_unet.views.intensity import MINMAX
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices


@pytest.fixture
def runs(tmp_path):
    """A folder with runs/heart in it."""
    config = {"in_channels": 1, "num_classes": 2, "size": "nano"}
    preprocessing = Preprocessing((MINMAX,), None, Slices((32, 32))).to_json()
    metadata = CheckpointMetadata("mamba_unet", config, ["background", "heart"], preprocessing)
    save_checkpoint(tmp_path / "runs" / "heart" / "best.safetensors", build_model("mamba_unet", **config), metadata)
    return tmp_path


def started(folder, *words, log=None):
    """The command, the address that it prints, and all that it says until it serves; `log` is a file for its log."""
    command = [sys.executable, "-m", "mamba_unet", "serve", "--port", "0", "--device", "cpu", *words]
    environment = os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    said = ""
    while "Ctrl-C" not in said:
        line = server.stdout.readline()
        assert line, f"it ended: {said}"
        said += line
    return server, re.search(r"http\S+", said)[0], said


def stopped(server, by=signal.SIGINT):
    server.send_signal(by)
    said, _ = server.communicate(timeout=60)
    assert server.returncode == 0
    return said


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
@pytest.mark.skipif(not viewer.installed(), reason="the viewer is not here: mamba-unet serve --install-viewer")
@pytest.mark.parametrize("by", ["SIGINT", "SIGHUP"])
def test_it_says_where_it_is_and_who_may_come_and_stops_cleanly(runs, by):
    if signal.getsignal(getattr(signal, by)) is signal.SIG_IGN:
        pytest.skip(f"these tests were started so that {by} is ignored (nohup), and so is it by what they start")
    server, url, said = started(runs)
    assert re.match(r"Serving heart at http://127\.0\.0\.1:\d+/\nOnly this machine", said)
    assert b"Mamba-UNet" in urllib.request.urlopen(url, timeout=60).read()
    urllib.request.urlopen(urllib.request.Request(f"{url}api/jobs", method="POST"), timeout=60)
    assert list(runs.glob("mamba-unet-serve-*/*"))
    assert "deleted" in stopped(server, getattr(signal, by))
    assert not list(runs.glob("mamba-unet-serve-*"))


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
@pytest.mark.skipif(not viewer.installed(), reason="the viewer is not here: mamba-unet serve --install-viewer")
def test_on_another_address_it_demands_the_token_that_it_prints(runs):
    words = ("--host", "0.0.0.0", "--checkpoint", "mine=runs/heart", "--metrics-open", "--log-format", "json")
    with open(runs / "log", "w") as log:
        server, url, said = started(runs, *words, log=log)
    port, token = re.search(r":(\d+)/\?token=(\S+)", url).groups()
    here = f"http://127.0.0.1:{port}/"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(here, timeout=60)
    assert urllib.request.urlopen(f"{here}?token={token}", timeout=60).status == 200
    assert b"mamba_unet_up 1" in urllib.request.urlopen(f"{here}metrics", timeout=60).read()
    stopped(server)
    events = [json.loads(line)["event"] for line in (runs / "log").read_text().splitlines()]
    assert [name for name in events if name != "log"] == ["serve_started", "serve_stopped"]
    assert "Other machines can reach it" in said and "not encrypted" in said


def test_networks_are_called_after_their_run_file_or_as_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["runs/acdc", "runs/b/best.safetensors", "liver.safetensors", "lab/heart-mamba", "x=runs/acdc"]
    assert list(named_checkpoints(words)) == ["acdc", "b", "liver", "heart-mamba", "x"]
    with pytest.raises(ValueError, match=r"two networks are called 'acdc'.*NAME=other/acdc"):
        named_checkpoints(["runs/acdc", "other/acdc"])
    with pytest.raises(ValueError, match="give --checkpoint"):
        named_checkpoints([])
    for name in ("b", "a"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "best.safetensors").touch()
    assert named_checkpoints([]) == {"a": "runs/a", "b": "runs/b"}


def test_without_its_viewer_it_says_how_to_get_it(monkeypatch, predictor):
    monkeypatch.setattr("mamba_unet.serve.viewer.installed", lambda: False)
    with pytest.raises(FileNotFoundError, match="--install-viewer"):
        serve({"heart": predictor})


def test_an_address_that_it_cannot_have_is_said_in_a_sentence(predictor, monkeypatch):
    monkeypatch.setattr("mamba_unet.serve.viewer.installed", lambda: True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"^port {port} of 127.0.0.1 is in use.*--port 0 to take a free one"):
            serve({"heart": predictor}, port=port)
    for host in ("192.0.2.1", "no-such-machine.invalid"):
        with pytest.raises(ValueError, match=f"^--host {host}: not an address of this machine"):
            serve({"heart": predictor}, host, 0)
    with pytest.raises(ValueError, match=r"^--port 70000: ports are 0 to 65535"):
        serve({"heart": predictor}, port=70000)
