"""Reading in a process of its own, for files that others sent: a crash, a hang or a memory bomb is one failed file.

It guards against faults of libraries, not against code: the process has the rights of the one that started it.

Both sides speak over pipes: a length and a pickle, then the arrays of a volume, each as it lies in memory. Arrays are
received into their own memory, so nothing is copied and no shared memory is needed, of which containers have little.
"""

import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mamba_unet.volumes import limits
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.volume import Volume
from mamba_unet.words import printable

DEADLINE_S = 600.0
ROOM = 2 << 30  # bytes for libraries and for what readers need beside the volume
_LENGTH = struct.Struct("<Q")


class Reader:
    """A process that reads volumes, one at a time; started at the first, and again after one that it did not survive.

    Threads may share it. Close it, or use it as a context manager.

    Args:
        deadline_s: how long the reading of one volume may take.
    """

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self.deadline_s = deadline_s
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        with self._turn:
            self._stop()

    def read(self, read: Callable[[], Volume], path: Path) -> Volume:
        """What `read` returns, which is called in the process.

        Args:
            read: a function that can be pickled, such as `functools.partial(read_volume, path)`.
            path: the input, which errors name.

        Raises:
            UnreadableError: that of `read`; or the process died, took too long or needed too much memory.
            ValueError: that of `read`.
        """
        with self._turn:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            process = self._process
            late = threading.Event()

            def end() -> None:
                late.set()
                process.kill()

            watch = threading.Timer(self.deadline_s, end)
            watch.daemon = True
            watch.start()
            try:
                _send(process.stdin, (read, limits.max_bytes))
                kind, answer = _receive(process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                self._stop()
                raise UnreadableError(path, self._epitaph(process.returncode, late.is_set()), True) from None
            except BaseException:  # interrupted between question and answer: the next answer would be this one's
                self._stop()
                raise
            finally:
                watch.cancel()
        if kind == "volume":
            return answer
        if kind == "wrong":
            raise ValueError(answer)
        raise UnreadableError(*(answer if kind == "unreadable" else (path, answer, True)))

    def _start(self) -> "subprocess.Popen[bytes]":
        # modules are looked for where this process does, whatever started it
        start = f"import sys; sys.path[:] = {sys.path!r}; from mamba_unet.volumes import isolated; isolated.main()"
        return subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"OPENBLAS_NUM_THREADS": "1", **os.environ},
        )

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def _epitaph(self, code: int | None, late: bool) -> str:
        if late:
            return f"not read within {self.deadline_s:g} s; damaged, or on a disk that does not answer"
        name = f"exit code {code}"
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"reading it ended the process that read it ({name}); damaged, or more than the memory"


def _send(stream: BinaryIO, message: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    stream.write(_LENGTH.pack(len(head)) + head + _LENGTH.pack(len(views)))
    for view in views:
        stream.write(_LENGTH.pack(view.nbytes))
        stream.write(view)
    stream.flush()


def _receive(stream: BinaryIO) -> Any:
    head = _exactly(stream, _number(stream))
    buffers = [_exactly(stream, _number(stream)) for _ in range(_number(stream))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")  # odd values in users' files, which reading has judged
        return pickle.loads(head, buffers=buffers)


def _number(stream: BinaryIO) -> int:
    return _LENGTH.unpack(_exactly(stream, _LENGTH.size))[0]


def _exactly(stream: BinaryIO, size: int) -> bytearray:
    buffer = bytearray(size)
    view, done = memoryview(buffer), 0
    while done < size:
        count = stream.readinto(view[done:])
        if not count:
            raise EOFError
        done += count
    return buffer


def _limit_memory(bytes_more: int) -> None:
    """Let this process take so much more than it has; where the system cannot say so, `require_memory` alone holds."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + bytes_more
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def _serve(questions: BinaryIO, answers: BinaryIO) -> None:
    limited = 0
    while True:
        try:
            read, max_bytes = _receive(questions)
        except EOFError:
            return
        limits.max_bytes = max_bytes
        if max_bytes != limited:
            _limit_memory(2 * max_bytes + ROOM)
            limited = max_bytes
        try:
            answer = ("volume", read())
        except UnreadableError as error:
            answer = ("unreadable", (error.file, error.reason, error.damaged))
        except MemoryError:
            answer = ("failed", "needs more memory than the limit (--max-memory)")
        except ValueError as error:
            answer = ("wrong", str(error))
        except Exception as error:
            answer = ("failed", printable(f"cannot be read ({type(error).__name__}: {error})"))
        del read
        _send(answers, answer)
        del answer


def main() -> None:
    """Read until the other side closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started this
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except ImportError:
        pass
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    try:
        _serve(sys.stdin.buffer, answers)
    except BrokenPipeError:  # the other side is gone
        os._exit(0)
