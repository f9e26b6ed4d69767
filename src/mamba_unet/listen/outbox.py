"""Results that wait until every destination has taken them.

<time>-<series UID>/*.dcm        results that are to be sent
                    job.json     of which images they were made
                    sent.json    destination -> what it has taken
"""

import secrets
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamba_unet.files import read_record, write_json
from mamba_unet.listen.disk import remove_folder, sync_folder
from mamba_unet.listen.events import event


@dataclass(frozen=True)
class Result:
    """A file to send, made of a series."""

    series: str
    path: Path


class Outbox:
    """A folder of results. Every method may be called from any thread.

    Args:
        folder: made if needed; what a killed node left half-written in it is removed.
        destinations: names of those that results go to.

    Attributes:
        bytes: of all results.
        origins: series -> what its results were made of, of those that were here at the start.
    """

    def __init__(self, folder: Path, destinations: Sequence[str]) -> None:
        self.folder, self.destinations = folder, list(destinations)
        self.bytes = 0
        self._change = threading.Lock()
        self._told: set[Path] = set()  # what was told to wait for long
        folder.mkdir(exist_ok=True)
        for left in folder.glob(".*"):
            shutil.rmtree(left)
        jobs = [read_record(job / "job.json") for job in self._jobs()]
        self.origins: dict[str, Any] = {job["series"]: job["of"] for job in jobs if job}
        for job in self._jobs():
            self._tidy(job)
        self._weigh()

    def draft(self) -> Path:
        """A new folder to write results to, for `add`."""
        folder = self.folder / f".{secrets.token_hex(8)}"
        folder.mkdir()
        return folder

    def add(self, draft: Path, series: str, of: dict[str, Any]) -> None:
        """Take the results of a series, made of what `of` tells."""
        write_json(draft / "job.json", {"series": series, "of": of})
        with self._change:
            draft.rename(self.folder / f"{time.time_ns():020d}-{series}")
            sync_folder(self.folder)
            self._weigh()

    def unsent(self, destination: str) -> list[Result]:
        """What a destination has not taken yet, the oldest first."""
        with self._change:
            results = []
            for job in self._jobs():
                taken = read_record(job / "sent.json").get(destination, ())
                files = [file for file in sorted(job.glob("*.dcm")) if file.name not in taken]
                results += [Result(_series_of(job), file) for file in files]
            return results

    @property
    def waiting(self) -> int:
        """How many results at least one destination has not taken."""
        return len({result.path for one in self.destinations for result in self.unsent(one)})

    def sent(self, destination: str, result: Result) -> None:
        """A destination has taken a result; when all have taken all of a series, nothing of it stays."""
        with self._change:
            record = result.path.with_name("sent.json")
            taken = read_record(record)
            taken.setdefault(destination, []).append(result.path.name)
            write_json(record, taken)
            self._tidy(record.parent)

    def tell_old(self, before: float) -> None:
        """Log each series once whose results wait since a time before this one, on the clock `time.time`."""
        with self._change:
            old = {job for job in self._jobs() if int(job.name.partition("-")[0]) / 1e9 < before}
        for job in sorted(old - self._told):
            event("unsent", warn=True, series=_series_of(job), note="its results are kept until they are sent")
        self._told = old

    def _jobs(self) -> list[Path]:
        return sorted(folder for folder in self.folder.iterdir() if not folder.name.startswith("."))

    def _tidy(self, job: Path) -> None:
        taken, files = read_record(job / "sent.json"), {file.name for file in job.glob("*.dcm")}
        if all(files <= set(taken.get(one, ())) for one in self.destinations):
            remove_folder(job)
            self._weigh()

    def _weigh(self) -> None:
        self.bytes = sum(file.stat().st_size for job in self._jobs() for file in job.glob("*.dcm"))


def _series_of(job: Path) -> str:
    return job.name.partition("-")[2]
