"""Being asked to stop: by a person, a cluster's scheduler, or a machine that shuts down."""

import signal
import threading
from types import FrameType, TracebackType

NAMES = ("SIGTERM", "SIGUSR1")  # the second is what SLURM sends ahead of a time limit


class TrainingStopped(SystemExit):
    """A signal ended the training, which can be resumed. Exit code 143, as a shell gives for SIGTERM.

    Processes beside the first end with 0: a failure there would make the first one be killed while it still writes.
    """

    def __init__(self, is_first_process: bool = True) -> None:
        super().__init__(128 + signal.SIGTERM if is_first_process else 0)


class StopSignals:
    """Inside the block, SIGTERM and SIGUSR1 do no more than to be noted in `received`."""

    def __init__(self) -> None:
        self.received = ""
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for name in NAMES:
                if hasattr(signal, name):  # Windows has no SIGUSR1
                    number = getattr(signal, name)
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
