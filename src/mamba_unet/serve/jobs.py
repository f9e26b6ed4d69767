"""What people hand in, and the one thread that takes it through the network in turn.

A job is one upload and what became of it. It owns a folder in a temporary directory, in which every file has a name of
ours; the folder goes when its owner says so, when nobody has asked for it for a while, and when the server stops.
"""

import errno
import logging
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mamba_unet.serve.result import write_image, write_result
from mamba_unet.serve.size import count_voxels
from mamba_unet.volumes.formats import FILES as IMAGE_FILES
from mamba_unet.volumes.formats import ZIP, UnreadableError, ending, stem

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor
    from mamba_unet.volumes.find import VolumeFile
    from mamba_unet.volumes.volume import Volume

log = logging.getLogger(__name__)

ENDINGS = (*IMAGE_FILES, *ZIP)  # what has none of these is taken for DICOM, whose files often have none
JOBS = 100  # at a time, of all people together
FILES = 20_000  # in one upload: a long DICOM study
VOXELS = 2**30  # in one scan: 1024 slices of 1024 x 1024; the network takes some 16 bytes for each
FULL = "The server's disk is full."
FOLDER = "mamba-unet-serve-"

State = Literal["uploading", "reading", "choosing", "queued", "running", "done", "failed", "cancelled"]
MOVING = ("reading", "queued", "running")


class Refused(ValueError):
    """A request that cannot be met; the text is for the person who made it, the number for the browser."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class _Cancelled(Exception):
    pass


@dataclass(eq=False)
class Job:
    """One upload and what became of it.

    Attributes:
        id: cannot be guessed; who knows it owns the job.
        folder: `input/` holds the upload, the result lies beside it.
        names: stored path -> what its owner calls it.
        size: bytes uploaded.
        scans: found in the upload.
        scan: which of them is meant.
        model, slice_axis: as asked for.
        state: `choosing` waits for the owner to say which of several scans is meant.
        slices: (done, all) while the network runs.
        error: why it failed, in words for its owner.
        image: how to show the scan, see `result.write_image`; None until it has been read.
        result: see `result.write_result`; None until it is done.
        touched: when somebody last asked for it, on the clock `time.monotonic`.
        users: how many are at work in its folder.
    """

    id: str
    folder: Path
    names: dict[Path, str] = field(default_factory=dict)
    size: int = 0
    scans: "list[VolumeFile]" = field(default_factory=list)
    scan: int = 0
    model: str = ""
    slice_axis: str | None = None
    state: State = "uploading"
    slices: tuple[int, int] = (0, 0)
    error: str = ""
    image: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    touched: float = field(default_factory=time.monotonic)
    users: int = 0

    @property
    def upload(self) -> Path:
        return self.folder / "input"

    @property
    def called(self) -> str:
        """The upload: its only file's name, or that of the folder its files were dropped in, fit for a file name."""
        if not self.names:
            return ""
        first = next(iter(self.names.values()))
        return _called(first if len(self.names) == 1 else re.split(r"[/\\]", first)[0])

    @property
    def titles(self) -> list[str]:
        """Of its scans, with the names that its owner gave in place of ours."""
        if len(self.names) > 1 and all(scan.path in self.names for scan in self.scans):  # files, not a DICOM series
            return [_called(self.names[scan.path]) for scan in self.scans]
        ours = stem(next(iter(self.names))) if len(self.names) == 1 else self.upload.name
        return [scan.name.replace(ours, self.called, 1) for scan in self.scans]

    @property
    def name(self) -> str:
        """Of the scan; before it is known, of the upload."""
        return self.titles[self.scan] if self.scans else self.called

    def read(self) -> "Volume":
        """The scan that is meant.

        Raises:
            UnreadableError: it cannot be read, or unpacks to more than `VOXELS`.
        """
        scan, voxels = self.scans[self.scan], 0
        with suppress(Exception):  # a damaged file: the reader says what is wrong with it
            voxels = count_voxels(scan.path)
        if voxels > VOXELS:
            raise UnreadableError(scan.path, f"it holds {voxels:,} voxels, and {VOXELS:,} are the limit here; crop it")
        return replace(scan.read(), name=self.name)

    def words(self, error: BaseException) -> str:
        """An error's text, with the names that the owner gave in place of ours."""
        text = str(error)
        for path, name in self.names.items():
            text = text.replace(str(path), name).replace(path.name, name)
        return text.replace(str(self.upload), "the upload").replace(str(self.folder), "the upload")


class Jobs:
    """All jobs of a server. Every method may be called from any thread; only `read` takes long.

    Args:
        predictors: by the name that people choose from; only this object's thread calls them.
        keep_s: a job goes when nobody has asked for it for so long.
    """

    def __init__(self, predictors: "Mapping[str, Predictor]", keep_s: float) -> None:
        self.predictors = predictors
        self.keep_s = keep_s
        self._folder = _locked_folder()
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        self._running: Job | None = None
        self._closed = False
        self._change = threading.Condition()  # guards all of the above and the jobs' states; never held for long
        self._thread = threading.Thread(target=self._work, name="mamba-unet-serve", daemon=True)
        self._thread.start()

    def create(self) -> Job:
        with self._change:
            if len(self._jobs) >= JOBS:
                raise Refused(503, "The server holds as many scans as it can. Try again later.")
            job = Job(secrets.token_urlsafe(16), Path(self._folder.name) / secrets.token_hex(8))
            job.upload.mkdir(parents=True)
            self._jobs[job.id] = job
            return job

    def get(self, identifier: str) -> Job:
        with self._change:
            job = self._jobs.get(identifier)
            if job is None:
                raise Refused(404, "This scan is no longer here: results are removed after a while. Drop it again.")
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

    def add_file(self, job: Job, name: str) -> Path:
        """Where to write an upload's next file; the person's name for it decides nothing but the ending."""
        with self._change:
            if job.state != "uploading":
                raise Refused(409, "This upload is complete. Start another one.")
            if len(job.names) >= FILES:
                raise Refused(413, f"More than {FILES:,} files at once. Drop one series at a time.")
            path = job.upload / f"{len(job.names):06d}{ending(Path(name), ENDINGS) or ''}"
            job.names[path] = name
            return path

    def start(self, job: Job, model: str, slice_axis: str | None = None) -> None:
        """Take a job on, to be read next.

        Args:
            job: uploaded, or with a result that another one is to replace.
            model: name of a predictor.
            slice_axis: x, y or z, where the automatic choice is wrong.

        Raises:
            Refused: there is no such model, or the job is on its way.
        """
        if model not in self.predictors:
            raise Refused(422, f"There is no model {model!r}; there are {', '.join(self.predictors)}.")
        with self._change:
            if job.state in MOVING:
                raise Refused(409, "This scan is already on its way.")
            job.state, job.error, job.slices, job.image, job.result = "reading", "", (0, 0), None, None
            job.model, job.slice_axis, job.scan = model, slice_axis, 0

    def read(self, job: Job, scan: int | None = None) -> None:
        """Find out what was uploaded, read it and queue it; or wait for a choice where there are several scans.

        To be called for one job at a time, so that one scan is in memory beside the one in the network.

        Args:
            job: started, and perhaps cancelled since.
            scan: index in `job.scans`, where it holds several.

        Raises:
            Refused: the upload cannot be read, or there is no such scan.
        """
        if job.state != "reading":
            return
        with self.using(job):
            try:
                job.scans = job.scans or self._find(job)
                choose = scan is None and len(job.scans) > 1
                if (scan or 0) >= len(job.scans):
                    raise ValueError(f"There is no scan {scan}; the upload holds {len(job.scans)}.")
                job.scan = scan or 0
                if not choose:
                    job.image = write_image(job.folder, job.read(), self.predictors[job.model], job.slice_axis)
            except Exception as error:
                with self._change:
                    if job.state != "reading":  # cancelled
                        return
                    job.state, job.error = "failed", _said(job, error)
                raise Refused(422, job.error) from error
        with self._change:
            if job.state == "reading":  # not cancelled
                job.state = "choosing" if choose else "queued"
                if not choose:
                    self._queue.append(job)
                    self._change.notify_all()

    def _find(self, job: Job) -> "list[VolumeFile]":
        from mamba_unet.volumes.find import find_volumes

        if not job.names:
            raise ValueError("No file came with this upload.")
        return find_volumes([next(iter(job.names)) if len(job.names) == 1 else job.upload])

    def ahead(self, job: Job) -> int:
        """How many scans come before this one."""
        with self._change:
            return self._queue.index(job) + (self._running is not None) if job in self._queue else 0

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue, or stop the network at its next slices."""
        with self._change:
            if job in self._queue:
                self._queue.remove(job)
            if job.state in MOVING:
                job.state = "cancelled"

    def remove(self, job: Job) -> None:
        """Cancel a job and delete everything of it, once nobody is at work in its folder."""
        with self._change:
            self.cancel(job)
            self._jobs.pop(job.id, None)
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
        self._folder.cleanup()

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
            error, result = "", None
            with self.using(job):
                try:
                    result = self._segment(job)
                except _Cancelled:
                    outcome = "cancelled"
                except Exception as failure:  # whatever it is, it must not end the thread that all others wait for
                    outcome, error = "failed", _said(job, failure)
            with self._change:
                self._running = None
                job.touched = time.monotonic()
                if job.state == "running":  # not cancelled, and perhaps started again, meanwhile
                    job.state, job.error, job.result = outcome, error, result

    def _segment(self, job: Job) -> dict[str, Any]:
        def progress(done: int, total: int) -> None:
            if job.state != "running":
                raise _Cancelled
            job.slices = (done, total)

        segmentation = self.predictors[job.model](job.read(), slice_axis=job.slice_axis, progress=progress)
        return write_result(job.folder, segmentation)

    def _expire(self) -> None:
        deadline = time.monotonic() - self.keep_s
        with self._change:
            old = [job for job in self._jobs.values() if job.touched < deadline and job.state not in MOVING]
        for job in old:
            self.remove(job)


def _locked_folder() -> tempfile.TemporaryDirectory:
    """A folder that is locked as long as this process lives.

    Those whose lock is free are of servers that were killed: they hold patients' scans, and are deleted.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return tempfile.TemporaryDirectory(prefix=FOLDER)

    def locked(folder: Path) -> int | None:
        """The open folder with its lock, which goes with this process; None where another process has it."""
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # another user's, or gone meanwhile
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        return descriptor

    for left in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        if (descriptor := locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
    ours = tempfile.TemporaryDirectory(prefix=FOLDER)
    locked(Path(ours.name))
    return ours


def _called(name: str) -> str:
    file = Path(re.split(r"[/\\]", name)[-1])
    return re.sub(r"[^\w.-]+", "_", stem(file).removesuffix("_0000")).strip("._") or "scan"


def _said(job: Job, error: Exception) -> str:
    """What went wrong, for the job's owner; what only we can mend goes to the log."""
    if isinstance(error, MemoryError):
        return f"{job.name}: too large for the memory of this machine."
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return FULL
    if isinstance(error, (ValueError, OSError)):
        return job.words(error)
    log.error("%s: %s", job.name, error, exc_info=error)
    return f"{job.name}: the server failed at this scan ({type(error).__name__}); its log says more."
