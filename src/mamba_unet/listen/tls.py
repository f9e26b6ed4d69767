"""Who may speak, and that nobody listens in: TLS for both directions."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tls:
    """This node's certificate with its key, and the authority whose certificates it trusts.

    Attributes:
        certificate, key: PEM files; the key may stand in the certificate's file.
        authority: PEM file. Then whoever connects must show a certificate that it signed. Without one, anyone may
            connect, and servers are checked by the system's authorities.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    def server(self) -> ssl.SSLContext | None:
        """For those who connect; None without a certificate.

        Raises:
            ValueError: a file cannot be used.
        """
        if self.certificate is None:
            return None
        context = _LateHandshake(ssl.PROTOCOL_TLS_SERVER)
        if self.authority is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return self._loaded(context)

    def client(self) -> ssl.SSLContext:
        """For connections that this node makes.

        Raises:
            ValueError: a file cannot be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.authority is None:
            context.load_default_certs()
        return self._loaded(context)

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
            if self.authority is not None:
                context.load_verify_locations(self.authority)
        except OSError as error:  # ssl.SSLError among them
            files = ", ".join(str(file) for file in (self.certificate, self.key, self.authority) if file is not None)
            raise ValueError(
                f"TLS cannot be used with {files}: {error}; expected PEM files, and the key of the certificate"
            ) from error
        return context


NO_TLS = Tls()


class _LateHandshake(ssl.SSLContext):
    """Shakes hands at the first byte that is read, in the connection's own thread.

    pynetdicom wraps a socket in the thread that accepts connections: one peer that says nothing would stop them all.
    """

    def wrap_socket(self, sock: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(sock, **options, do_handshake_on_connect=False)
