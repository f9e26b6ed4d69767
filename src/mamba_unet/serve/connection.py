"""Connections that end when their other side leaves the server waiting.

uvicorn alone waits for ever for the rest of a request, and for a reader of its answer.
"""

import time

from uvicorn.protocols.http.h11_impl import H11Protocol

from mamba_unet.serve.guard import uploads

PATIENCE_S = 30  # for a whole request; for the next bytes of an upload; for a reader of an answer
WAITING = 100  # connections without a whole request; of more, the oldest ends


class Connection(H11Protocol):
    """HTTP/1.1 with deadlines."""

    since: float | None = None  # when the wait for the other side began
    timer = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._wait()
        waiting = [one for one in self.connections if one.since is not None]
        if len(waiting) > WAITING:
            oldest = min(waiting, key=lambda one: one.since)
            oldest._go_on()
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                return self._go_on()
            if uploads(self.scope["method"], self.scope["path"]):
                self._go_on()
        if self.since is None:
            self._wait()

    def on_response_complete(self) -> None:
        self._go_on()  # uvicorn ends idle connections itself
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._go_on()
        super().connection_lost(error)

    def _wait(self) -> None:
        self._go_on()
        self.since = time.monotonic()
        self.timer = self.loop.call_later(PATIENCE_S, self._end)

    def _go_on(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.since = None

    def _end(self) -> None:
        if self.flow.read_paused and not self.flow.write_paused:  # the other side waits for us
            self._wait()
        else:
            self.transport.abort()
