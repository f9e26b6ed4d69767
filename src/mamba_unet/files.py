"""Files that are never half-written: write beside the target, then rename."""

import csv
import io
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.")  # how the names begin that `atomic_path` gives


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it replaces `path`, on an error it is removed.

    The sibling keeps the target's suffixes (`.nii.gz`), because writers choose the format by them. Its content is on
    the disk before it takes the name: a disk that turns out to be full is an error, and a machine that loses its power
    leaves no empty file under the name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # not named by the process: machines that share a folder may number theirs alike; names have 255 bytes at most
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name[-40:]}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:  # a full disk is told without the file, by numpy without the reason too
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        if re.fullmatch(r"\d+ requested and \d+ written", str(error)):
            raise OSError(f"{path} could not be written; is the disk full? ({error})") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


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


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys, of which the first line holds the names; None is an empty cell."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
