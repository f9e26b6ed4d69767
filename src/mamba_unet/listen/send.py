"""Results on their way to an archive: again and again, less and less often, until it has taken them."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mamba_unet.listen.events import event
from mamba_unet.listen.store import Store
from mamba_unet.listen.tls import Tls

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0
CONNECT_S, ANSWER_S = 10, 300  # archives may take their time for an answer


class NotTakenError(OSError):
    """An archive answers, and does not take a file."""


class Destination(Protocol):
    """An archive.

    Attributes:
        name: for the log, and for the record of what it has.
    """

    name: str

    def opened(self) -> AbstractContextManager[Callable[[Path], None]]:
        """A connection: a function that sends one file. Both raise OSError; `NotTakenError` where it would go on."""


@dataclass(frozen=True)
class Archive:
    """An archive that speaks DICOM's own protocol.

    Attributes:
        host, port, title: where it is, and its AE title.
        calling: our AE title.
        tls: None speaks in the clear.
    """

    host: str
    port: int
    title: str
    calling: str
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, word: str, calling: str, tls: Tls | None = None) -> "Archive":
        """Of `HOST:PORT:AET`; an IPv6 address stands in brackets.

        Raises:
            ValueError: none of this form.
        """
        host, port, title = ["", "", "", *word.rsplit(":", 2)][-3:]
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"--send-to {word}: expected HOST:PORT:AET, such as pacs.example:104:ARCHIVE")
        return cls(host.strip("[]"), int(port), check_title(title), calling, tls and tls.client())

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}:{self.title}"

    @contextmanager
    def opened(self) -> Iterator[Callable[[Path], None]]:
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
        from pynetdicom import AE
        from pynetdicom.sop_class import ComprehensiveSRStorage, SegmentationStorage

        entity = AE(ae_title=self.calling)
        entity.connection_timeout, entity.dimse_timeout, entity.network_timeout = CONNECT_S, ANSWER_S, ANSWER_S
        for stored in (SegmentationStorage, ComprehensiveSRStorage):
            entity.add_requested_context(stored, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        secured = self.tls and (self.tls, self.host)
        association = entity.associate(self.host, self.port, ae_title=self.title, tls_args=secured)
        if not association.is_established:
            known = f"rejected; does it know the AE title {self.calling}, and is {self.title} its own?"
            raise OSError(f"no association: {known if association.is_rejected else 'no answer'}")
        try:
            yield lambda file: _store(association, file)
        finally:
            if association.is_established:
                association.release()


def _store(association: Any, file: Path) -> None:
    try:
        answer = association.send_c_store(file)
    except ValueError as error:  # it takes no such objects
        raise NotTakenError(f"it does not take {file.name} ({error})") from error
    except RuntimeError as error:
        raise OSError(f"the association ended ({error})") from error
    if "Status" not in answer:
        raise OSError("it gave no answer")
    if answer.Status not in (0x0000, 0xB000, 0xB006, 0xB007):
        raise NotTakenError(f"status {answer.Status:04X} {answer.get('ErrorComment', '')}".strip())


def check_title(title: str) -> str:
    """An AE title.

    Raises:
        ValueError: it is none.
    """
    if not 1 <= len(title) <= 16 or title != title.strip() or not title.isascii() or not title.isprintable() \
            or "\\" in title:  # fmt: skip
        raise ValueError(f"AE title {title!r}: expected 1 to 16 ASCII characters without a backslash")
    return title


class Sender(threading.Thread):
    """Sends what is in the outbox to one destination. Close it.

    Args:
        store: whose outbox it is.
        destination: who takes it.
    """

    def __init__(self, store: Store, destination: Destination) -> None:
        super().__init__(name=f"to {destination.name}", daemon=True)
        self.store, self.destination = store, destination
        self._closed = threading.Event()

    def run(self) -> None:
        wait = FIRST_WAIT_S
        while not self._closed.is_set():
            sent, waiting, problem = self._round()
            if not waiting and problem is None:
                with self.store.changed:
                    self.store.changed.wait(timeout=1)
                continue
            if problem is None:
                wait = FIRST_WAIT_S
                continue
            wait = FIRST_WAIT_S if sent else wait
            event("not_sent", warn=True, destination=self.destination.name, waiting=waiting - sent,
                  reason=problem, next_try_s=wait)  # fmt: skip
            self._closed.wait(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)

    def _round(self) -> tuple[int, int, Exception | None]:
        """Try each file once: how many were taken, of how many, and the last problem."""
        sent, waiting, problem = 0, [], None
        try:
            waiting = self.store.outbox.unsent(self.destination.name)
            with self.destination.opened() if waiting else nullcontext() as send:
                for result in waiting:
                    if self._closed.is_set():
                        break
                    try:
                        send(result.path)
                    except NotTakenError as error:
                        problem = error
                        continue
                    self.store.outbox.sent(self.destination.name, result)
                    self.store.counts["sent"] += 1
                    event("sent", series=result.series, file=result.path.name, destination=self.destination.name)
                    sent += 1
        except Exception as error:  # whatever it is, the file is still there and is tried again
            problem = error
        return sent, len(waiting), problem

    def close(self) -> None:
        """Stop after the file that is on its way."""
        self._closed.set()
        with self.store.changed:
            self.store.changed.notify_all()
        self.join(timeout=5)
