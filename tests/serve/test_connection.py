"""The server behind real sockets, with people who leave it waiting."""

import socket
import time

import pytest

from mamba_unet.serve import connection, create_app

WHOLE = b"GET /api/about HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PATIENCE_S = 0.5
TIMEOUT_S = 30  # of a busy machine


@pytest.fixture
def address(predictor, monkeypatch, listening):
    monkeypatch.setattr(connection, "PATIENCE_S", PATIENCE_S)
    monkeypatch.setattr(connection, "WAITING", 5)
    app = create_app({"heart": predictor})
    with listening(app) as address:
        yield address, app.state.jobs


def connect(address, words=b""):
    caller = socket.create_connection(address, timeout=TIMEOUT_S)
    caller.sendall(words)
    return caller


def ended(caller) -> bool:
    """Whether the server ends the connection, without an answer."""
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "words",
    [
        b"",
        WHOLE[:-2],
        b"POST /api/jobs/x/start HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{",
    ],
    ids=["nothing", "half a header", "half a body"],
)
def test_half_a_request_does_not_hold_its_connection(address, words):
    with connect(address[0], words) as caller:
        assert ended(caller)


def test_half_a_second_request_does_not_hold_its_connection(address):
    with connect(address[0], WHOLE) as caller:
        assert caller.recv(100_000).startswith(b"HTTP/1.1 200")
        caller.sendall(WHOLE[:10])
        caller.settimeout(TIMEOUT_S)
        while data := _received(caller):
            assert b"HTTP/1.1" not in data


def _received(caller) -> bytes:
    try:
        return caller.recv(100_000)
    except ConnectionResetError:
        return b""


def test_an_upload_may_take_long_but_not_stand_still(address):
    where, jobs = address
    job = jobs.create()
    head = f"PUT /api/jobs/{job.id}/upload?name=a.nii HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"
    with connect(where, head.encode()) as caller:
        begin = time.monotonic()
        while time.monotonic() - begin < 3 * PATIENCE_S:
            caller.sendall(b"x")
            time.sleep(PATIENCE_S / 10)
        assert job.size and job.folder.exists()
        assert ended(caller)
    begin = time.monotonic()
    while job.folder.exists() and time.monotonic() - begin < TIMEOUT_S:
        time.sleep(0.01)
    assert not job.folder.exists()


def test_many_half_requests_keep_nobody_out(address, monkeypatch):
    monkeypatch.setattr(connection, "PATIENCE_S", 600)
    callers = [connect(address[0], WHOLE[:10]) for _ in range(20)]
    with connect(address[0], WHOLE) as caller:
        assert caller.recv(100).startswith(b"HTTP/1.1 200")
    assert all(map(ended, callers[:10]))
    for one in callers:
        one.close()
