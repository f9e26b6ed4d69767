"""What people hand in, and the one thread that takes it through the network in turn.

A job owns a folder in a temporary directory, in which every file has a name of ours. The folder goes when its owner
says so, when nobody has asked for it for a while, and when the server stops.
"""

import errno
import logging
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamba_unet.monitoring import Counter, Gauge, Histogram, event
from mamba_unet.serve.folder import ServerFolder
from mamba_unet.serve.job import EDITS, MOVING, Job, State
from mamba_unet.serve.readers import Readers
from mamba_unet.serve.result import FILES as RESULTS
from mamba_unet.serve.result import write_image, write_result
from mamba_unet.serve.thumbnail import thumbnail
from mamba_unet.volumes.formats import FILES as VOLUME_FILES
from mamba_unet.volumes.formats import ZIP, ending
from mamba_unet.words import printable

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor
    from mamba_unet.volumes.find import VolumeFile
    from mamba_unet.volumes.volume import Volume

log = logging.getLogger(__name__)

ENDINGS = (*VOLUME_FILES, *ZIP)  # what has none of these is taken for DICOM, whose files often have none
JOBS = 100  # at a time, of all people together
FILES = 20_000  # in one upload: a long DICOM study
UPLOAD_S = 300  # an upload goes that has been neither continued nor started for so long
OUTCOMES = ("done", "failed", "refused", "cancelled")  # of a volume; refused: before the network
DISK_FULL = "The server's disk is full."


class Refused(ValueError):
    """A request that cannot be met; the text is for the person who made it, the number for the browser."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class _Cancelled(Exception):
    pass


class Jobs:
    """All jobs of a server. Every method may be called from any thread; only `find` and `read` take long.

    Args:
        predictors: by the name that people choose from; only this object's thread calls them.
        keep_s: a job goes when nobody has asked for it for so long.
        upload_bytes: of one upload.
        disk_bytes: of all uploads and results together.

    Attributes:
        metrics: numbers for those who watch the server.
    """

    def __init__(
        self, predictors: "Mapping[str, Predictor]", keep_s: float, upload_bytes: int, disk_bytes: int
    ) -> None:
        self.predictors = predictors
        self.keep_s = keep_s
        self.upload_bytes, self.disk_bytes = upload_bytes, disk_bytes
        self._folder = ServerFolder()
        self._readers = Readers()
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._closed = False
        self._change = threading.Condition()  # guards all of the above and the jobs' states; never held for long
        self._cases = Counter("cases_total", "Volumes that were started, by what came of them.", "outcome", OUTCOMES)
        self._seconds = Histogram("case_seconds", "Time of a volume in the network, files written.")
        self.metrics = (
            Gauge("up", "Whether the thread that runs the network lives.", lambda: self.alive),
            Gauge("networks", "Networks that are loaded.", lambda: len(self.predictors)),
            Gauge("queue", "Volumes that wait for the network.", lambda: self.waiting),
            Gauge("running", "Volumes in the network.", lambda: self._running is not None),
            Gauge("held_bytes", "Uploads and results on the disk.", self._held),
            self._cases,
            self._seconds,
        )
        self._thread = threading.Thread(target=self._work, name="mamba-unet-serve", daemon=True)
        self._thread.start()

    def create(self) -> Job:
        """A new job. Of too many, the one without a result that nobody has asked for the longest makes room."""
        self._expire()
        oldest = None
        with self._change:
            if len(self._jobs) >= JOBS:
                idle = [job for job in self._jobs.values() if _idle(job) and job.result is None]
                if not idle:
                    raise Refused(503, "The server holds as many volumes as it can. Try again later.")
                oldest = min(idle, key=lambda job: job.touched)
                self._forget(oldest)
            if not self._folder.path.is_dir():  # something has cleaned the temporary directory
                self._folder = ServerFolder()
            job = Job(secrets.token_urlsafe(16), self._folder.path / secrets.token_hex(8))
            job.folder.mkdir()
            job.upload.mkdir()
            self._jobs[job.id] = job
        if oldest:
            self._discard(oldest)
        return job

    def get(self, identifier: str) -> Job:
        with self._change:
            job = self._jobs.get(identifier)
            if job is None:
                raise Refused(404, "This volume is no longer here: results are removed after a while. Drop it again.")
            job.touched = time.monotonic()
            return job

    @contextmanager
    def using(self, job: Job) -> Iterator[None]:
        """Keep a job's folder to the end of the block, even if its owner removes the job meanwhile."""
        with self._change:
            job.users += 1
        try:
            yield
        finally:
            with self._change:
                job.users -= 1
            self._discard(job)

    @contextmanager
    def adding(self, job: Job, name: str) -> Iterator[Path]:
        """Where to write an upload's next file; the person's name for it decides nothing but the ending.

        The job does not start before the end of the block.
        """
        with self._change:
            if job.state != "uploading":
                raise Refused(409, "This upload is complete. Start another one.")
            if len(job.names) >= FILES:
                raise Refused(413, f"More than {FILES:,} files at once. Drop one series at a time.")
            path = job.upload / f"{len(job.names):06d}{ending(Path(name), ENDINGS) or ''}"
            job.names[path] = printable(name)
            job.arriving += 1
        try:
            with self.using(job):
                yield path
        finally:
            with self._change:
                job.arriving -= 1

    def make_room(self, job: Job, size: int) -> None:
        """Refuse bytes that the job, or all jobs together, may not have."""
        if job.size + size > self.upload_bytes:
            raise Refused(413, f"Larger than {_mib(self.upload_bytes)}, which is the limit here.")
        if self._held() + size > self.disk_bytes:
            limit = f"The server holds {_mib(self.disk_bytes)} of uploads and results at most"
            raise Refused(507, f"{limit}. Remove a volume, or try again later.")

    def _held(self) -> int:
        with self._change:
            return sum(one.size + one.written for one in self._jobs.values())

    @property
    def alive(self) -> bool:
        """Whether the thread that all volumes wait for is there."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """How many volumes wait for the network."""
        return len(self._queue)

    def _ended(self, job: Job, outcome: str, level: int = logging.INFO, **fields: str | float) -> None:
        """Tell those who watch the server what came of a volume."""
        self._cases.add(outcome)
        event(log, f"volume_{outcome}", level, job=job.log_name, **fields)

    def start(self, job: Job, model: str, slice_axis: str | None = None, uncertainty: bool = False) -> object:
        """Take a job on, to be read next.

        Args:
            job: uploaded, or with a result that another one is to replace.
            model: name of a predictor.
            slice_axis: x, y or z, where the automatic choice is wrong.
            uncertainty: say how sure the network is of each voxel.

        Returns:
            A mark of this start, which `job.start` is until the job is cancelled or started again. Who works or waits
            for this start goes on only while it is.

        Raises:
            Refused: there is no such model, or the job is not ready for it.
        """
        if model not in self.predictors:
            raise Refused(422, f"There is no model {model!r}; there are {', '.join(self.predictors)}.")
        with self._change:
            if job.state in MOVING:
                raise Refused(409, "This volume is already on its way.")
            if job.arriving:
                raise Refused(409, "A file of this upload is still on its way. Start when it is here.")
            job.start = start = object()  # first: who takes the old result looks at this afterwards
            job.state, job.error, job.slices, job.image, job.result = "reading", "", (0, 0), None, None
            job.model, job.slice_axis, job.volume, job.uncertainty = model, slice_axis, 0, uncertainty
            job.edits = []
            for file in RESULTS:  # of another volume, or of another network
                (job.folder / file).unlink(missing_ok=True)
        shutil.rmtree(job.folder / EDITS, ignore_errors=True)
        return start

    def find(self, job: Job, start: object, volume: int | None = None) -> None:
        """Find out what was uploaded, and wait for a choice where there are several volumes.

        Args:
            job: started, and perhaps cancelled or started again since.
            start: from `start`.
            volume: index in `job.volumes`, where it holds several.

        Raises:
            Refused: the upload cannot be read, or there is no such volume.
        """
        with self._reading(job, start):
            _check(job, start)
            volumes = job.volumes or self._find(job)
            with self._change:
                _check(job, start)
                job.volumes = volumes
                if (volume or 0) >= len(volumes):
                    raise ValueError(f"There is no volume {volume}; the upload holds {len(volumes)}, counted from 0.")
                job.volume = volume or 0
                if volume is None and len(volumes) > 1:
                    job.state = "choosing"

    def read(self, job: Job, start: object) -> None:
        """Read a job's volume for the viewer, and queue it for the network.

        Args:
            job: as `find` left it, and perhaps cancelled or started again since.
            start: from `start`.

        Raises:
            Refused: it cannot be read.
        """
        with self._reading(job, start):
            _check(job, start)
            volume = job.read(self._readers)
            _check(job, start)
            image = write_image(job.folder, volume, self.predictors[job.model], job.slice_axis)
            self._weigh(job)
            with self._change:
                _check(job, start)
                job.image, job.state = image, "queued"
                self._queue.append(job)
                self._change.notify_all()
                event(log, "volume_queued", job=job.log_name)

    def thumbnail(self, job: Job, volume: int) -> bytes:
        """A small picture (PNG) of one of its volumes.

        Raises:
            Refused: it cannot be read.
        """
        with self.failing(job):
            return thumbnail(job.volumes[volume], self._readers)

    def read_again(self, job: Job) -> "Volume":
        """A job's volume as its network had it."""
        return self.predictors[job.model].preprocessing.fit_channels(job.read(self._readers))

    def add_edit(self, job: Job, of: dict[str, Any], edit: dict[str, Any], size: int) -> None:
        """Take an edit of a job's result, whose files of `size` bytes lie in the job's folder, into the job.

        Raises:
            Refused: the job was started again meanwhile, or there is no room.
        """
        self.make_room(job, size)
        with self._change:
            if job.result is not of:
                raise Refused(409, "This volume was segmented again meanwhile; the edit is of the result before.")
            job.edits.append(edit)
            job.written += size

    @contextmanager
    def failing(self, job: Job) -> Iterator[None]:
        """Keep the job's folder in the block, and say a failure in it in words; the job is as it was."""
        with self.using(job):
            try:
                yield
            except Refused:
                raise
            except Exception as error:
                full = isinstance(error, OSError) and error.errno == errno.ENOSPC
                raise Refused(507 if full else 422, _said(job, error)) from error

    @contextmanager
    def _reading(self, job: Job, start: object) -> Iterator[None]:
        """A failure in the block is the job's, and said to its owner; unless the start is over, see `_check`."""
        with self.using(job):
            try:
                yield
            except Exception as error:
                with self._change:
                    if job.start is not start:
                        return
                    said = _said(job, error)
                    job.state, job.error = "failed", said
                self._ended(job, "refused", logging.WARNING, error=type(error).__name__)
                raise Refused(422, said) from error

    def _find(self, job: Job) -> "list[VolumeFile]":
        from mamba_unet.volumes.find import find_volumes

        if not job.names:
            raise ValueError("No file came with this upload.")
        channels = self.predictors[job.model].preprocessing.channels
        return find_volumes([next(iter(job.names)) if len(job.names) == 1 else job.upload], channels, job.names)

    def _weigh(self, job: Job) -> None:
        """Count what was written for a job, and take it away again where there is no room for it."""
        files = [file for file in job.folder.glob("*") if file.is_file()]
        job.written = sum(file.stat().st_size for file in files)
        try:
            self.make_room(job, 0)
        except Refused:
            for file in files:
                file.unlink()
            job.written = 0
            raise

    def ahead(self, job: Job) -> int:
        """How many volumes come before this one."""
        with self._change:
            return self._queue.index(job) + (self._running is not None) if job in self._queue else 0

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or stop the network at its next slices."""
        with self._change:
            if job in self._queue:
                self._queue.remove(job)
            moving = job.state in MOVING
            if moving:
                job.state, job.start = "cancelled", None
        if moving:
            self._ended(job, "cancelled")

    def remove(self, job: Job) -> None:
        """Cancel a job and delete everything of it, once nobody is at work in its folder."""
        self._forget(job)
        self._discard(job)

    def close(self) -> None:
        """Stop the thread and delete everything."""
        with self._change:
            self._closed = True
            jobs = list(self._jobs.values())
            self._change.notify_all()
        for job in jobs:
            self.remove(job)
        self._thread.join()
        self._readers.close()
        self._folder.close()

    def _forget(self, job: Job) -> None:
        with self._change:
            self.cancel(job)
            self._jobs.pop(job.id, None)

    def _discard(self, job: Job) -> None:
        with self._change:
            unused = job.id not in self._jobs and not job.users
        if unused:
            shutil.rmtree(job.folder, ignore_errors=True)

    def _work(self) -> None:
        while True:
            self._expire()
            with self._change:
                if not self._queue and not self._closed:
                    self._change.wait(timeout=min(self.keep_s, 30))
                if self._closed:
                    return
                if not self._queue:
                    continue
                job = self._running = self._queue.popleft()
                job.state = "running"
            outcome: State = "done"
            error, result, fields, since = "", None, {}, time.monotonic()
            with self.using(job):
                try:
                    result = self._segment(job)
                except _Cancelled:
                    outcome = "cancelled"
                except Exception as failure:  # whatever it is, it must not end the thread that all others wait for
                    outcome, error = "failed", _said(job, failure)
                    fields["error"] = type(failure).__name__
            seconds = round(time.monotonic() - since, 3)
            with self._change:
                self._running = None
                job.touched = time.monotonic()
                ours = job.state == "running"  # not cancelled, and perhaps started again, meanwhile
                if ours:
                    job.state, job.error, job.result = outcome, error, result
            if ours:
                level = logging.ERROR if outcome == "failed" else logging.INFO
                self._ended(job, outcome, level, seconds=seconds, **fields)
                if outcome == "done":
                    self._seconds.add(seconds)

    def _segment(self, job: Job) -> dict[str, Any]:
        def progress(done: int, total: int) -> None:
            if job.state != "running":
                raise _Cancelled
            job.slices = (done, total)

        segmentation = self.predictors[job.model](
            job.read(self._readers), slice_axis=job.slice_axis, probabilities=job.uncertainty, progress=progress
        )
        result = write_result(job.folder, segmentation)
        self._weigh(job)
        return result

    def _expire(self) -> None:
        now = time.monotonic()
        with self._change:
            old = [job for job in self._jobs.values() if _idle(job) and job.touched < now - self._patience(job)]
            for job in old:
                self._forget(job)
        for job in old:
            self._discard(job)

    def _patience(self, job: Job) -> float:
        return min(self.keep_s, UPLOAD_S) if job.state == "uploading" else self.keep_s


def _check(job: Job, start: object) -> None:
    """Raise `_Cancelled` where a start is over: the job was cancelled or started again meanwhile."""
    if job.start is not start:
        raise _Cancelled


def _idle(job: Job) -> bool:
    return job.state not in MOVING and not job.arriving


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _said(job: Job, error: Exception) -> str:
    """What went wrong, for the job's owner; what only we can mend goes to the log."""
    if isinstance(error, MemoryError):
        return f"{job.name}: too large for the memory of this machine."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return DISK_FULL
    if isinstance(error, (ValueError, OSError)):
        return job.words(error)
    log.error("%s: %s", job.name, error, exc_info=error)
    return f"{job.name}: the server failed at this volume; its log says more."
