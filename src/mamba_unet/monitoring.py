"""What an administrator sees of a service: numbers for Prometheus, and a log that programs read.

Nothing of a patient is in either: no names of files, no identifiers of volumes, no text of an error.
"""

import json
import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from traceback import extract_tb
from typing import Any, Protocol

from mamba_unet.words import printable

PREFIX = "mamba_unet_"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format
SECONDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # upper bounds of the buckets


class Metric(Protocol):
    """Numbers under one name."""

    name: str
    help: str
    kind: str

    def samples(self) -> Iterable[tuple[str, float]]:
        """(what stands behind the name, value) of each number."""


@dataclass
class Counter:
    """How often something happened, by what came of it.

    Args:
        name: without the prefix; ends in `_total`.
        help: one sentence.
        label: what tells the numbers apart.
        values: of the label; each is counted from 0, and there are no others.
    """

    name: str
    help: str
    label: str
    values: Sequence[str]
    kind = "counter"
    _counts: dict[str, int] = field(init=False, repr=False)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._counts = dict.fromkeys(self.values, 0)

    def add(self, value: str) -> None:
        """Count one. Raises KeyError for a value that was not declared."""
        with self._lock:
            self._counts[value] += 1

    def samples(self) -> Iterable[tuple[str, float]]:
        return [(f'{{{self.label}="{value}"}}', count) for value, count in self._counts.items()]


@dataclass
class Gauge:
    """A number as it is when it is asked for."""

    name: str
    help: str
    read: Callable[[], float]
    kind = "gauge"

    def samples(self) -> Iterable[tuple[str, float]]:
        return [("", self.read())]


@dataclass
class Histogram:
    """How long something took, in seconds."""

    name: str
    help: str
    bounds: Sequence[float] = SECONDS
    kind = "histogram"
    _counts: list[int] = field(init=False, repr=False)
    _sum: float = field(init=False, repr=False, default=0.0)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._counts = [0] * (len(self.bounds) + 1)

    def add(self, seconds: float) -> None:
        with self._lock:
            self._counts[bisect_left(self.bounds, seconds)] += 1
            self._sum += seconds

    def samples(self) -> Iterable[tuple[str, float]]:
        with self._lock:
            counts, total = list(self._counts), self._sum
        below = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
            below += count
            yield f'_bucket{{le="{bound}"}}', below
        yield "_sum", total
        yield "_count", below


def prometheus(metrics: Iterable[Metric]) -> str:
    """The numbers in Prometheus' text format."""
    lines = []
    for metric in metrics:
        name = PREFIX + metric.name
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        lines += [f"{name}{rest} {value:.10g}" for rest, value in metric.samples()]
    return "\n".join(lines) + "\n"


def event(log: logging.Logger, name: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log that something happened, in one line; a value with spaces is quoted.

    Args:
        log: where to.
        name: of the kind of event.
        level: of `logging`.
        fields: what is known of it; nothing of a patient.
    """
    text = " ".join([name, *(f"{key}={_word(value)}" for key, value in fields.items())])
    log.log(level, "%s", text, extra={"event": name, "fields": fields})


def _word(value: Any) -> str:
    text = printable(f"{value:.1f}" if isinstance(value, float) else str(value))
    return text if text and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)


class JsonLines(logging.Formatter):
    """One JSON object per line: time (UTC), level, event, and the event's fields.

    Of a record that is no `event`, as other packages write them, only the place in the code is told: its text could
    name a patient. So it is with an exception's text.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "log"),
        }
        fields: Mapping[str, object] | None = getattr(record, "fields", None)
        line |= {"logger": record.name, "at": f"{record.filename}:{record.lineno}"} if fields is None else fields
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, traceback = record.exc_info
            line["error"] = kind.__name__
            line["traceback"] = [f"{Path(it.filename).name}:{it.lineno} {it.name}" for it in extract_tb(traceback)]
        return json.dumps(line, default=str)


def log_json() -> None:
    """Write all that is logged as `JsonLines` to stderr, warnings included."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.captureWarnings(True)
    logging.getLogger().handlers = [handler]
    logging.getLogger("mamba_unet").handlers = []  # what it logs goes up to the one above
