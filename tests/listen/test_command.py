"""`mamba-unet listen` as a process: its words, its end by signals and by being killed."""

import os
import re
import signal
import subprocess
import sys

import pytest

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra dicom)")

from mamba_unet.cli import main

SEND = ["--send-to", "127.0.0.1:104:PACS"]
# the command, with a network whose answer is known
CODE = """
import sys, torch
from mamba_unet.models import loading
from mamba_unet.cli import main

class Threshold(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.cat([0.5 - x, x - 0.5], dim=1) * self.weight

loading.build_model = lambda *args, **kwargs: Threshold()
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def listen(save_threshold, tmp_path, monkeypatch):
    """The command in this process; it returns when it finds something wrong."""
    monkeypatch.setenv("PYTHONWARNINGS", "")  # what it sets is undone
    run = save_threshold()
    words = ["listen", str(run), "--aet", "MAMBA", "--folder", str(tmp_path / "node"), "--device", "cpu"]
    return lambda *more: main([*words, *more])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--send-to"),
        ([*SEND, "--host", "0.0.0.0"], "--allow"),
        (["--send-to", "pacs"], "HOST:PORT:AET"),
        (["--send-to", "pacs:x:PACS"], "HOST:PORT:AET"),
        (["--send-to", "pacs:104:A TITLE THAT IS TOO LONG"], "AE title"),
        ([*SEND, "--only", "modality"], "modality=CT"),
        ([*SEND, "--poll", "pacs"], "https://host/dicom-web"),
        ([*SEND, "--allow", "a\\b"], "AE title"),
        ([*SEND, "--tls-cert", "absent.pem"], "absent.pem"),
    ],
)
def test_a_mistake_is_one_clear_line(words, message, capsys, listen):
    assert listen(*words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_without_pynetdicom_it_says_what_to_install(capsys, monkeypatch, listen):
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    assert listen(*SEND) == 2
    assert 'pip install "mamba-unet[dicom]"' in capsys.readouterr().err


class Process:
    """The command in a process of its own."""

    def __init__(self, run, folder, port: int) -> None:
        words = ["listen", run, "--aet", "MAMBA", "--port", "0", "--send-to", f"127.0.0.1:{port}:ARCHIVE"]
        words += ["--folder", folder, "--device", "cpu", "--quiet-seconds", "0.5"]
        self.log = folder.with_name("log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CODE, *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        self.port = int(re.search(r"port (\d+)", self.process.stdout.readline())[1])

    def said(self, word: str) -> int:
        return len(re.findall(rf"^\S+Z \w+ {word} ", self.log.read_text(), re.M))

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self.process.stdout.close()
        return code


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_at_any_moment_nothing_is_lost_and_nothing_is_sent_twice(
    archive, save_threshold, write_series, send, associate, until, image, tmp_path
):
    run, folder = save_threshold(image_size=(8, 8)), tmp_path / "node"
    files, others = write_series(tmp_path / "a", image), write_series(tmp_path / "b", image)
    archive.stop()

    node = Process(run, folder, archive.port)
    association = associate(node.port)
    assert [association.send_c_store(file).Status for file in files[:2]] == [0, 0]
    node.end(signal.SIGKILL)  # while it receives

    node = Process(run, folder, archive.port)
    assert send(node.port, others) == [0, 0, 0]
    until(lambda: node.said("complete") == 1)
    node.end(signal.SIGKILL)  # while it segments, or just after

    node = Process(run, folder, archive.port)
    assert send(node.port, files) == [0, 0, 0]
    until(lambda: node.said("segmented") >= 2 and node.said("not_sent"))
    assert node.end(signal.SIGTERM) == 0  # with all results unsent

    archive.start()
    node = Process(run, folder, archive.port)
    until(lambda: len(archive.got) >= 4)
    until(lambda: list((folder / "outbox").iterdir()) == [])
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # these tests were started with nohup, or by "&"
    assert node.end(signal.SIGTERM if ignored else signal.SIGINT) == 0
    assert len(archive.of("SEG")) == len(archive.of("SR")) == 2
    assert "Test^Synthetic" not in node.log.read_text() and node.said("stopped") == 2
