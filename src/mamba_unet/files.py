"""Files that are never half-written: write beside the target, then rename."""

import csv
import hashlib
import io
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.")  # how the names begin that `atomic_path` gives
STALE_S = 60  # since a half-written file was changed: then nobody writes it any more, on this machine or another
LOCK = ".lock"  # the file in a folder that a process holds


@contextmanager
def atomic_path(path: str | Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it replaces `path`, on an error it is removed.

    The sibling keeps the target's suffixes (`.nii.gz`), because writers choose the format by them. Its content is on
    the disk before it takes the name: a disk that turns out to be full is an error, and a machine that loses its power
    leaves no empty file under the name.

    Args:
        path: the file to write.
        keep: the name that the file gets which was there before; nothing is renamed before the new one is whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if keep is not None and path.exists():
                os.replace(path, keep)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name the file, or the folder, in an error of the disk that does not: a full one is told without it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        if re.fullmatch(r"\d+ requested and \d+ written", str(error)):  # numpy, without the reason too
            raise OSError(f"{path} could not be written; is the disk full? ({error})") from error
        raise


def _sibling(path: Path) -> Path:
    # not named by the process: machines that share a folder may number theirs alike; names have 255 bytes at most
    return path.with_name(f".{secrets.token_hex(4)}.{path.name[-40:]}")


def remove_temporaries(folder: str | Path, older_than_s: float = 0) -> None:
    """Remove what processes that were killed have left half-written in a folder.

    Args:
        folder: may be absent; folders in it are left alone.
        older_than_s: seconds since the last change, where another process may be writing there now.
    """
    for path in Path(folder).glob(".*"):
        with suppress(OSError):  # another process was faster, or it is not ours to remove
            if TEMPORARY.match(path.name) and path.stat().st_mtime <= time.time() - older_than_s:
                path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 with `\\n` line ends, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinities are refused: JSON has none."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text.encode("utf-8", "backslashreplace").decode())  # half a character of a file's name


def write_json_once(path: str | Path, value: Any) -> bool:
    """`write_json` unless the file is there; whether it was written. Of several processes at once, one writes it."""
    path = Path(path)
    whole = _sibling(path)
    try:
        write_json(whole, value)
        os.link(whole, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without such links
        write_json(path, value)
    finally:
        whole.unlink(missing_ok=True)
    return True


def read_json(path: str | Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged, or holds something else; names the file and what to do.
    """
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, no JSON ({str(error)[:100]}); {remedy}") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path}: damaged, {type(said).__name__} where a description was expected; {remedy}")
    return said


def read_record(path: str | Path) -> dict[str, Any]:
    """What a record of finished work says; nothing where there is none, or none that can be read: then it is not
    finished."""
    try:
        return read_json(path, "")
    except (FileNotFoundError, ValueError):
        return {}


def sha256(files: Sequence[Path]) -> str:
    """Of a file; of several, over their names and contents."""
    digest = hashlib.sha256()
    for file in files:
        if len(files) > 1:
            digest.update(f"{file.name}\n".encode("utf-8", "surrogateescape"))
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@contextmanager
def locked(folder: str | Path, work: str, remedy: str) -> Iterator[None]:
    """Hold a folder, so that no second process does such work in it. The system frees it when the process ends.

    Args:
        folder: made if needed, and removed again if it is empty then.
        work: what is done in it, for the other one's message.
        remedy: what the other one can do.

    Raises:
        ValueError: another process holds it; the message names process and host.
    """
    folder = Path(folder)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (folder / LOCK).open("a+", encoding="utf-8") as file:
            if not _try_lock(file):
                file.seek(0)
                raise ValueError(
                    f"another {work} writes into {folder} now ({file.read().strip() or 'holder unknown'}); {remedy}"
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            _held.append(file)
            try:
                yield
            finally:
                if file in _held:
                    _held.remove(file)
                    with suppress(OSError):  # Windows does not remove an open file
                        (folder / LOCK).unlink()
    finally:
        if is_new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


_held: list[TextIO] = []


def _let_go() -> None:
    """In a forked process, such as a worker that reads data: it may outlive its parent, and must not hold the lock."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _try_lock(file: TextIO) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: two processes in one folder are not told apart
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    # a file that its holder removed between our opening and locking it protects nothing
    return os.path.exists(file.name) and os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))


@contextmanager
def one_at_a_time(path: str | Path) -> Iterator[None]:
    """Wait for those who are in such a block with the same file, which stays behind.

    The system lets the next one in when a process ends, however it ends. Nobody waits where there are no locks: on
    Windows, on some network file systems.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys, of which the first line holds the names; None is an empty cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
