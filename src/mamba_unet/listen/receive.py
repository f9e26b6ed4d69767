"""What comes by DICOM's own protocol: C-ECHO and C-STORE, by pynetdicom.

Source: DICOM PS3.4, B (storage); PS3.7, 9.1.1 (C-STORE); PS3.8, 9 (associations).
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from socket import socket
from typing import TYPE_CHECKING, Any

from mamba_unet.listen.events import event
from mamba_unet.listen.instance import IGNORED, Refused
from mamba_unet.listen.store import Store
from mamba_unet.listen.tls import NO_TLS, Tls

if TYPE_CHECKING:
    from pynetdicom import AE

ASSOCIATIONS = 10  # at a time
SILENCE_S = 60.0  # after which a connection is ended,
GREETING_S = 10.0  # and one that never said who it is
PDU_BYTES = 128 << 10  # that senders are told to send at a time
LARGEST_PDU = 1 << 20  # that is read; its length is the sender's word


@dataclass(eq=False)
class _Sender:
    """An association that has sent something."""

    caller: str
    id: str = field(default_factory=lambda: token_hex(8))
    counts: Counter[str] = field(default_factory=Counter)


class Receiver:
    """A server that answers C-ECHO and stores what comes by C-STORE. Close it.

    Args:
        store: where instances go.
        title: its AE title, which callers must use.
        host, port: to listen on; port 0 takes a free one.
        allow: AE titles of callers; empty: any.
        tls: with a certificate, only TLS is spoken.
        at_release: what an association has sent is complete when it is released.

    Attributes:
        port: that it listens on.

    Raises:
        ValueError: the address is not free, or not this machine's; a TLS file cannot be used; pynetdicom is absent.
    """

    def __init__(
        self,
        store: Store,
        title: str,
        host: str,
        port: int,
        allow: Sequence[str] = (),
        tls: Tls = NO_TLS,
        at_release: bool = False,
    ) -> None:
        try:
            from pynetdicom import evt
        except ImportError as error:
            raise ValueError(f'a DICOM node needs pynetdicom ({error}): pip install "mamba-unet[dicom]"') from error
        self.store, self.at_release = store, at_release
        self._senders: dict[Any, _Sender] = {}
        self._sockets: dict[Any, socket] = {}
        self._change = threading.Lock()
        self._entity = _entity(title, allow)
        handlers = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_PDU_RECV, self._count),
            (evt.EVT_REJECTED, self._rejected),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_RELEASED, lambda happened: self._end(happened.assoc, True)),
            (evt.EVT_ABORTED, lambda happened: self._end(happened.assoc, False)),
        ]
        try:
            self._server = self._entity.start_server(
                (host, port), block=False, evt_handlers=handlers, ssl_context=tls.server()
            )
        except OSError as error:
            raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error
        self.port = self._server.server_address[1]

    def close(self) -> None:
        """Cut off whoever is sending, and listen no more."""
        self._server.shutdown()
        for association in list(self._sockets):
            if association.is_established:
                association.abort()
        for association in list(self._senders):
            association.join(timeout=5)  # what it is writing
            self._end(association, False)
        for connection in self._sockets.values():
            connection.close()

    def tidy(self) -> None:
        """Take leave of associations whose thread has ended, with or without a word."""
        for association in [one for one in list(self._sockets) if one.ident is not None and not one.is_alive()]:
            self._end(association, False)
            self._sockets.pop(association).close()

    def _opened(self, happened: Any) -> None:
        """Bound what one connection can hold: pynetdicom reads as much as a PDU claims, and waits for it for ever."""
        connection = happened.assoc.dul.socket
        self._sockets[happened.assoc] = connection.socket
        connection.socket.settimeout(SILENCE_S)
        read = connection.recv

        def bounded(size: int) -> bytearray:
            if size > LARGEST_PDU:
                raise OSError(f"a PDU of {size} bytes, expected {LARGEST_PDU} at most")
            return read(size)

        connection.recv = bounded

    def _sender(self, association: Any) -> _Sender:
        with self._change:
            return self._senders.setdefault(association, _Sender(association.requestor.ae_title.strip()))

    def _store(self, happened: Any) -> int | Any:
        from pydicom import Dataset

        sender, request = self._sender(happened.assoc), happened.request
        try:
            data = happened.encoded_dataset()
            self.store.put(sender.id, data, str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        except Refused as error:
            kind = "ignored" if error.status == IGNORED else "refused"
            sender.counts[kind] += 1
            if kind == "refused":
                instance, status = request.AffectedSOPInstanceUID, f"{error.status:04X}"
                event("refused", warn=True, caller=sender.caller, instance=instance, status=status, reason=error)
            answer = Dataset()
            answer.Status, answer.ErrorComment = error.status, str(error).encode("ascii", "replace").decode()[:64]
            return answer
        except Exception:  # pynetdicom answers with a failure
            self.store.lost(sender.id)
            raise
        sender.counts["stored"] += 1
        return 0x0000

    def _echo(self, happened: Any) -> int:
        event("echo", caller=happened.assoc.requestor.ae_title.strip())
        return 0x0000

    def _rejected(self, happened: Any) -> None:
        caller = happened.assoc.requestor
        event("rejected", warn=True, caller=caller.ae_title.strip(), address=caller.address,
              called=caller.primitive.called_ae_title.strip())  # fmt: skip

    def _count(self, happened: Any) -> None:
        """Abort whoever sends more than an instance may have, or goes on without waiting for answers."""
        service = happened.assoc.dimse
        arriving = service.message and service.message.data_set
        size = arriving.tell() if arriving else 0
        if size > self.store.limits.instance_bytes or service.msg_queue.qsize() > 1:
            caller, limit = happened.assoc.requestor.ae_title.strip(), self.store.limits.instance_bytes >> 20
            event(
                "aborted", warn=True, caller=caller, reason=f"an instance of more than {limit} MiB, or a flood of them"
            )
            happened.assoc.abort()

    def _end(self, association: Any, clean: bool) -> None:
        with self._change:
            sender = self._senders.pop(association, None)
        if sender is None:
            return
        self.store.end(sender.id, clean, complete=self.at_release)
        self.store.counts.update(sender.counts)
        event(
            "released" if clean else "cut_off",
            warn=not clean,
            caller=sender.caller,
            **dict(sorted(sender.counts.items())),
        )


def _entity(title: str, allow: Sequence[str]) -> "AE":
    from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes, RLELossless
    from pynetdicom import AE, DEFAULT_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config
    from pynetdicom.sop_class import Verification

    _config.LOG_HANDLER_LEVEL = "none"  # it would describe every PDU, for no reader
    entity = AE(ae_title=title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(allow)
    entity.maximum_associations = ASSOCIATIONS
    entity.maximum_pdu_size = PDU_BYTES
    entity.network_timeout = entity.dimse_timeout = SILENCE_S
    entity.acse_timeout = GREETING_S
    entity.add_supported_context(Verification)
    # what volumes.dicom.decode reads; for another one the sender converts, or knows at once that it cannot send
    compressed = [RLELossless, *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, JPEG2000Lossless, JPEG2000]
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, [*DEFAULT_TRANSFER_SYNTAXES, *compressed])
    return entity
