"""The second way, DICOMweb: results out by STOW-RS, series in by QIDO-RS and WADO-RS. By urllib: it is three requests.

Source: DICOM PS3.18, 10.4 (WADO), 10.5 (STOW), 10.6 (QIDO).
"""

import hashlib
import http.client
import json
import netrc
import re
import secrets
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from mamba_unet.files import read_record, write_json
from mamba_unet.listen.events import event
from mamba_unet.listen.instance import IGNORED, Refused
from mamba_unet.listen.rules import KEYWORDS, chosen
from mamba_unet.listen.send import NotTakenError
from mamba_unet.listen.store import Store
from mamba_unet.listen.tls import NO_TLS, Tls

ANSWER_S = 60
LIST_BYTES = 64 << 20  # of one answer to a search
PAGE = 200  # series that are asked for at a time
LONGEST = 64  # questions until a series that could not be fetched is asked for again
TAGS = {"StudyInstanceUID": "0020000D", "SeriesInstanceUID": "0020000E", "SOPInstanceUID": "00080018",
        "Modality": "00080060", "SeriesDescription": "0008103E", "BodyPartExamined": "00180015"}  # fmt: skip
FAILED = "00081198"  # FailedSOPSequence
NO_IMAGES = {"SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "DOC", "REG"}


class Dicomweb:
    """An archive that speaks DICOMweb.

    Args:
        url: of its service, `https://host/dicom-web`. A login for its host is taken from ~/.netrc.
        tls: what to trust and to show at https.

    Raises:
        ValueError: no such address.
    """

    def __init__(self, url: str, tls: Tls = NO_TLS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
            raise ValueError(
                f"{parts.scheme}://{parts.hostname}: expected an address such as https://host/dicom-web, without a "
                "login (it stands in ~/.netrc) and without a query"
            )
        self.url = url.rstrip("/")
        self._login = _login(parts.hostname)
        handlers = [urllib.request.HTTPSHandler(context=tls.client())] if parts.scheme == "https" else []
        self._opener = urllib.request.build_opener(*handlers)

    def request(
        self, path: str, limit: int, accept: str, body: bytes | None = None, kind: str = ""
    ) -> tuple[str, bytes]:
        """The type and the content of an answer.

        Args:
            path: below the service.
            limit: bytes of the answer at most.
            accept: types that are taken.
            body, kind: what is posted, and its type.

        Raises:
            NotTakenError: the server answers with an error of the request.
            OSError: it cannot be reached, fails, or answers with too much.
        """
        asked = urllib.request.Request(self.url + path, data=body, headers={"Accept": accept})
        if kind:
            asked.add_header("Content-Type", kind)
        if self._login:
            asked.add_unredirected_header("Authorization", self._login)
        try:
            with self._opener.open(asked, timeout=ANSWER_S) as answer:
                content = answer.read(limit + 1)
                found = answer.headers.get("Content-Type", "")
        except urllib.error.HTTPError as error:
            with error:
                wrong = 400 <= error.code < 500 and error.code not in (401, 403, 408, 429)
            raise (NotTakenError if wrong else OSError)(f"HTTP {error.code} {error.reason}") from error
        except (ValueError, http.client.HTTPException) as error:
            raise OSError(f"no answer of HTTP ({error})") from error
        if len(content) > limit:
            raise OSError(f"an answer of more than {limit >> 20} MiB")
        return found, content

    def search(self, path: str, **query: Any) -> list[dict[str, str]]:
        """Series or instances: keyword of `TAGS` -> value, what is absent is empty."""
        asked = f"{path}?{urlencode(query, doseq=True)}" if query else path
        _, content = self.request(asked, LIST_BYTES, "application/dicom+json")
        try:
            return [{word: _first(one.get(tag)) for word, tag in TAGS.items()} for one in json.loads(content or "[]")]
        except (ValueError, AttributeError, TypeError) as error:
            raise OSError("an answer that is no list in JSON") from error

    def instance(self, path: str, limit: int) -> bytes:
        """A DICOM file, in the transfer syntax that it is stored in."""
        kind, content = self.request(path, limit, 'multipart/related; type="application/dicom"; transfer-syntax=*')
        return single_part(kind, content)


class WebArchive:
    """A destination of results: STOW-RS."""

    def __init__(self, service: Dicomweb) -> None:
        self.service, self.name = service, service.url

    @contextmanager
    def opened(self) -> Iterator[Callable[[Path], None]]:
        """See `send.Destination`."""
        yield self._post

    def _post(self, file: Path) -> None:
        boundary = secrets.token_hex(16)
        head, tail = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n", f"\r\n--{boundary}--\r\n"
        body = head.encode() + file.read_bytes() + tail.encode()
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        _, answer = self.service.request("/studies", LIST_BYTES, "application/dicom+json", body, kind)
        with suppress(ValueError, AttributeError):  # an answer in words, after success
            if json.loads(answer or "{}").get(FAILED, {}).get("Value"):
                raise NotTakenError("it did not store the file")


class Poller(threading.Thread):
    """Asks an archive for new series again and again, and fetches those that are chosen. Close it.

    A series is complete when it has the same images at two questions in a row. What was fetched is not fetched
    again unless it has changed; the record is in the store's folder.

    Args:
        store: where instances go.
        service: the archive.
        every_s: between two questions.
        days: studies from so many days before today on.
    """

    def __init__(self, store: Store, service: Dicomweb, every_s: float, days: int) -> None:
        super().__init__(name=f"from {service.url}", daemon=True)
        self.store, self.service, self.every_s, self.days = store, service, every_s, days
        self._closed = threading.Event()
        self._record = store.folder / f"fetched_{hashlib.sha256(service.url.encode()).hexdigest()[:8]}.json"
        self._fetched: dict[str, list[str]] = read_record(self._record)
        self._before: dict[str, list[str]] = {}
        self._round = 0
        # series that could not be fetched -> how often, and the question at which it is tried again
        self._failed: dict[str, tuple[int, int]] = {}

    def run(self) -> None:
        while not self._closed.is_set():
            with self._told("every series"):
                self._ask()
            self._closed.wait(self.every_s)

    @contextmanager
    def _told(self, series: str) -> Iterator[None]:
        """Whatever goes wrong in the block is told, and tried again at the next question."""
        try:
            yield
        except Exception as error:  # a server may answer anything
            event("not_polled", warn=True, series=series, url=self.service.url, reason=error)

    def _ask(self) -> None:
        now, self._round = {}, self._round + 1
        found = list(self._series())
        for series in found:
            if self._closed.is_set():
                return
            uid, path = series["SeriesInstanceUID"], _path(series)
            if series["Modality"] in NO_IMAGES or not chosen(self.store.rules, series):
                continue
            with self._told(uid):
                images = sorted(one["SOPInstanceUID"] for one in self.service.search(f"{path}/instances"))
                now[uid] = images
                _, again = self._failed.get(uid, (0, 0))
                is_new = images and images == self._before.get(uid) and images != self._fetched.get(uid)
                if is_new and again <= self._round:
                    self._fetch(uid, path, images)
        self._before = now
        listed = {series["SeriesInstanceUID"] for series in found}
        self._fetched = {uid: images for uid, images in self._fetched.items() if uid in listed}
        self._failed = {uid: failed for uid, failed in self._failed.items() if uid in listed}

    def _series(self) -> Iterator[dict[str, str]]:
        """Chosen by the date of their study, page by page."""
        first = date.today() - timedelta(days=self.days)
        wanted = {"StudyDate": f"{first:%Y%m%d}-", "includefield": [TAGS[word] for word in KEYWORDS.values()]}
        seen: set[str] = set()
        for offset in range(0, 100 * PAGE, PAGE):
            page = self.service.search("/series", **wanted, limit=PAGE, offset=offset)
            new = [series for series in page if _path(series) and series["SeriesInstanceUID"] not in seen]
            yield from new
            if len(page) < PAGE or not new:  # or a server that knows no pages
                return
            seen |= {series["SeriesInstanceUID"] for series in new}

    def _fetch(self, uid: str, path: str, images: Sequence[str]) -> None:
        sender, counts, whole = secrets.token_hex(8), Counter(), False
        try:
            for image in images:
                if self._closed.is_set():
                    return
                data = self.service.instance(f"{path}/instances/{image}", self.store.limits.instance_bytes)
                try:
                    self.store.put(sender, data)
                    counts["stored"] += 1
                except Refused as error:
                    if error.status != IGNORED:
                        raise OSError(f"{image}: {error}") from error
                    counts["ignored"] += 1
            whole = True
        finally:
            self.store.end(sender, clean=whole, complete=True, whole=whole)
            self.store.counts.update(counts)
            if whole:
                self._failed.pop(uid, None)
                self._fetched[uid] = list(images)
                write_json(self._record, self._fetched)
            else:  # less and less often
                count, _ = self._failed.get(uid, (0, 0))
                self._failed[uid] = count + 1, self._round + min(2**count, LONGEST)
        event("fetched", series=uid, url=self.service.url, **dict(sorted(counts.items())))

    def close(self) -> None:
        """Stop after the image that is on its way."""
        self._closed.set()
        self.join(timeout=5)


def _path(series: Mapping[str, str]) -> str:
    """Of a series below the service; empty where its UIDs are none."""
    study, uid = series["StudyInstanceUID"], series["SeriesInstanceUID"]
    return f"/studies/{study}/series/{uid}" if all(re.fullmatch(r"[0-9.]{1,64}", one) for one in (study, uid)) else ""


def _first(element: Any) -> str:
    values = (element or {}).get("Value") or [""]
    return str(values[0])


def _login(host: str) -> str:
    with suppress(OSError, netrc.NetrcParseError):
        if known := netrc.netrc().authenticators(host):
            return "Basic " + b64encode(f"{known[0]}:{known[2]}".encode()).decode()
    return ""


def single_part(kind: str, content: bytes) -> bytes:
    """The only part of a multipart answer; an answer of another type is the file itself.

    Raises:
        OSError: cut short.
    """
    if not kind.lower().startswith("multipart/"):
        return content
    found = re.search(r'boundary="?([^";]+)"?', kind)
    mark = b"--" + found[1].strip().encode() if found else b""
    start = content.find(b"\r\n\r\n", content.find(mark)) + 4
    end = content.find(b"\r\n" + mark, start)
    if not found or start < 4 or end < 0:
        raise OSError("a multipart answer that is cut short")
    return content[start:end]
