"""Being asked to stop: by a person, a cluster's scheduler, or a machine that shuts down."""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

ENDS_SOON = "SIGUSR1"  # what SLURM is told to send ahead of a time limit
NAMES = ("SIGINT", ENDS_SOON, "SIGTERM")

log = logging.getLogger(__name__)


class TrainingStopped(SystemExit):
    """A signal ended the training, which can be resumed. Exit code 143, as a shell gives for SIGTERM.

    Processes beside the first end with 0: a failure there would make the first one be killed while it still writes.

    Attributes:
        received: name of the signal.
        is_first_process: whether this is the first process, or the only one.
    """

    def __init__(self, received: str, is_first_process: bool = True) -> None:
        super().__init__(128 + signal.SIGTERM if is_first_process else 0)
        self.received, self.is_first_process = received, is_first_process


class StopSignals:
    """Inside the block, SIGTERM, SIGUSR1 and the first SIGINT (Ctrl-C) do no more than to be noted in `received`.

    A SIGINT that is ignored, as a shell has it of what runs in the background, stays so.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for name in NAMES:
                number = getattr(signal, name, None)  # Windows has no SIGUSR1
                if number is not None and (name != "SIGINT" or signal.getsignal(number) != signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if number == signal.SIGINT:  # a second one ends the training at once
            signal.signal(number, self._before[number])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def requeued() -> Iterator[None]:
    """A SLURM job that stops in the block because its time ends, in a training or between two, is put back into the
    queue.

    Only SIGUSR1 does that. SIGTERM is what `scancel` sends, and who cancels a job does not want it back; a job that is
    preempted, or whose machine fails, is put back by SLURM itself.
    """
    job = os.environ.get("SLURM_JOB_ID")
    catches = job and hasattr(signal, ENDS_SOON) and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGUSR1, _stop) if catches else None  # a training takes it over, see `StopSignals`
    try:
        yield
    except TrainingStopped as stopped:
        if job and stopped.is_first_process and stopped.received == ENDS_SOON:
            _requeue(job)
        raise
    finally:
        if catches:
            signal.signal(signal.SIGUSR1, before)


def _stop(number: int, frame: FrameType | None) -> None:
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    raise TrainingStopped(ENDS_SOON, is_first_process=rank == "0")


def _requeue(job: str) -> None:
    words = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        why = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        log.warning("the job could not be put back into the queue (%s): do it by `%s`", why, " ".join(words))
    else:
        log.info("job %s is back in the queue", job)
