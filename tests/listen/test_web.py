"""DICOMweb against a small server of our own: what an archive may answer, and what it may answer wrong."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra dicom)")

from mamba_unet.listen.rules import Rule
from mamba_unet.listen.send import NotTakenError
from mamba_unet.listen.web import Dicomweb, WebArchive, single_part


class Service:
    """A DICOMweb service that holds series, and keeps what is posted."""

    def __init__(self) -> None:
        self.series: dict[str, dict[str, bytes]] = {}
        self.headers: dict[str, dict] = {}
        self.posted, self.asked, self.logins = [], [], set()
        self.answer: tuple[int, bytes] | None = None  # in place of the right one
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                service.asked.append(self.path)
                service.logins.add(self.headers.get("Authorization"))
                self.reply(*(service.answer or service.find(self.path)))

            def do_POST(self):
                service.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.reply(*(service.answer or (200, b"{}")))

            def reply(self, status, content):
                self.send_response(status)
                kind = 'multipart/related; type="application/dicom"; boundary="x"'
                self.send_header("Content-Type", kind if content.startswith(b"--x") else "application/dicom+json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/dicom-web/"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, files, **headers) -> str:
        import pydicom

        read = {file: pydicom.dcmread(file) for file in files}
        uid = str(next(iter(read.values())).SeriesInstanceUID)
        self.series[uid] = {str(one.SOPInstanceUID): file.read_bytes() for file, one in read.items()}
        self.headers[uid] = {"00080060": "MR", **headers}
        return uid

    def find(self, path: str) -> tuple[int, bytes]:
        parts, _, query = path.removeprefix("/dicom-web/").partition("?")
        words = parts.split("/")
        if words == ["series"]:
            found = list(self.series) if "offset=0" in query else []
            tags = [{"0020000D": "1.2", "0020000E": uid, **self.headers[uid]} for uid in found]
        else:
            images = self.series[words[3]]
            if len(words) == 6:
                return 200, b"--x\r\nContent-Type: application/dicom\r\n\r\n" + images[words[5]] + b"\r\n--x--\r\n"
            tags = [{"00080018": uid} for uid in images]
        return 200, json.dumps([{tag: {"Value": [value]} for tag, value in one.items()} for one in tags]).encode()


@pytest.fixture
def service():
    service = Service()
    yield service
    service.close()


@pytest.fixture
def polling(node, service):
    """Starts a node that polls the service and sends to the archive."""

    def start(**changes):
        return node(poll=[Dicomweb(service.url)], poll_s=0.1, quiet_s=1000, **changes)

    return start


def test_series_are_fetched_segmented_and_not_fetched_again(
    service, polling, archive, write_series, until, image, tmp_path
):
    service.add(write_series(tmp_path / "in", image))
    service.add(write_series(tmp_path / "results", image), **{"00080060": "SEG"})
    running = polling()
    until(lambda: len(archive.got) == 2)
    fetched = [path for path in service.asked if path.count("/") == 7]
    assert len(fetched) == 3
    running.close()
    again = polling()
    asked = len(service.asked)
    until(lambda: len(service.asked) > asked + 6)
    assert len([path for path in service.asked if path.count("/") == 7]) == 3
    assert again.store.counts["stored"] == 0
    assert "StudyDate=" in service.asked[0] and "limit=" in service.asked[0]


def test_a_series_that_still_grows_is_left_until_it_does_not(
    service, polling, archive, write_series, until, image, tmp_path
):
    uid = service.add(write_series(tmp_path / "in", image))
    everything, right, shown = dict(service.series[uid]), service.find, iter([1, 2])

    def growing(path):
        if path.endswith("/instances"):
            service.series[uid] = dict(list(everything.items())[: next(shown, 3)])
        return right(path)

    service.find = growing
    running = polling()
    until(lambda: len(archive.got) == 2)
    assert running.store.counts["stored"] == 3


def test_a_server_that_fails_in_the_middle_loses_nothing(
    service, polling, archive, write_series, until, image, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("mamba_unet.listen.web.LONGEST", 1)  # else it is asked less and less often
    uid = service.add(write_series(tmp_path / "in", image))
    right, failures = service.find, []

    def failing(path):
        if path.count("/") == 7 and len(failures) < 12:
            failures.append(path)
            return (500, b"") if len(failures) > 1 else (200, b"--x\r\ncut")
        return right(path)

    service.find = failing
    polling()
    until(lambda: len(archive.got) == 2)
    assert len(failures) == 12 and uid in caplog.text


def test_only_chosen_series_are_fetched(service, polling, archive, write_series, until, image, tmp_path):
    service.add(write_series(tmp_path / "a", image, Modality="CT"), **{"00080060": "CT"})
    service.add(write_series(tmp_path / "b", image))
    polling(rules=[[Rule.parse("modality=CT")]])
    until(lambda: len(archive.got) == 2)
    assert len({path.split("/")[5] for path in service.asked if path.count("/") == 7}) == 1


@pytest.mark.parametrize("answer", [(200, b"nonsense"), (200, b"[1]"), (500, b""), (401, b""), (200, b'{"a": 1}')])
def test_answers_that_make_no_sense_are_one_error(service, answer):
    service.answer = answer
    with pytest.raises(OSError, match=r"HTTP|no list in JSON"):
        Dicomweb(service.url).search("/series")


def test_a_file_is_posted_as_it_is(service, tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0DICM\r\n--")
    with WebArchive(Dicomweb(service.url)).opened() as send:
        send(tmp_path / "a.dcm")
    (posted,) = service.posted
    assert posted.split(b"\r\n\r\n", 1)[1].rpartition(b"\r\n--")[0].endswith(b"\0DICM\r\n--")


def test_what_the_service_does_not_store_was_not_taken(service, tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"x")
    failed = json.dumps({"00081198": {"vr": "SQ", "Value": [{}]}}).encode()
    with WebArchive(Dicomweb(service.url)).opened() as send:
        for answer, error in (((409, b""), NotTakenError), ((202, failed), NotTakenError), ((503, b""), OSError)):
            service.answer = answer
            with pytest.raises(error) as caught:
                send(tmp_path / "a.dcm")
            assert type(caught.value) is error


def test_a_login_comes_from_netrc_and_an_answer_has_a_limit(service, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = Dicomweb(service.url)
    assert asked.search("/series", offset=0) == []
    assert service.logins == {"Basic " + base64.b64encode(b"me:secret").decode()}
    service.answer = (200, b"[" + b" " * 100 + b"]")
    with pytest.raises(OSError, match="more than"):
        asked.request("/series", 50, "*/*")


@pytest.mark.parametrize("url", ["ftp://host/x", "host/dicom-web", "https://me:secret@host/", "http://host/?a=b"])
def test_an_address_that_is_none_or_holds_a_password_is_refused_without_it(url):
    with pytest.raises(ValueError, match="netrc") as caught:
        Dicomweb(url)
    assert "secret" not in str(caught.value)


def test_the_first_part_of_a_multipart_answer_is_the_file():
    kind = 'multipart/related; boundary=x; type="application/dicom"'
    assert single_part(kind, b"preamble\r\n--x\r\nA: b\r\n\r\nDICM\r\n\r\n--\r\n--x--") == b"DICM\r\n\r\n--"
    assert single_part("application/dicom", b"DICM") == b"DICM"
    for cut in (b"", b"--x\r\nA: b\r\n\r\nDICM", b"--x\r\n"):
        with pytest.raises(OSError, match="cut short"):
            single_part(kind, cut)
