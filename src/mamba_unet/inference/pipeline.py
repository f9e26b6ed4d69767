"""Many images to files: reading, the networks and writing at the same time, in bounded memory.

One thread reads an image ahead, the networks run in the caller's thread, one thread writes. So at any moment there are
the image being read, those whose tiles are in the networks' batch and the one being written, however many the inputs.
"""

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from tqdm import tqdm

from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.environment import describe_environment
from mamba_unet.files import read_record, sha256, write_json
from mamba_unet.inference.jobs import Job, JobReader, find_jobs
from mamba_unet.inference.outputs import AUTO, OutputFolder, results_in, stamp
from mamba_unet.inference.predictor import Predictor, PreparedVolume
from mamba_unet.inference.segmentation import Segmentation
from mamba_unet.volumes.formats import TIFF, ZIP, UnreadableError, ending
from mamba_unet.volumes.geometry import SLICE_AXES
from mamba_unet.volumes.isolated import Reader
from mamba_unet.words import printable

log = logging.getLogger(__name__)

REPORT = {"checkpoints", "cases", "skipped", "failures"}  # keys by which an earlier report is told


@dataclass(frozen=True)
class Predicted:
    """What `predict_files` did.

    Attributes:
        written: case -> its files.
        skipped: cases that were finished before.
        failures: input -> why there is no result.
    """

    written: dict[str, list[Path]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What is done with every case. Another process may be given it.

    Attributes:
        folder: where results go, and what they are.
        prepared: the data set of the cases that come from one.
        slice_axis: as for `Predictor.prepare`.
        isolated: read images in a process of its own.
        report: make a record of each case, with the SHA-256 of its inputs.
    """

    folder: OutputFolder
    prepared: PreparedDataset | None
    slice_axis: str | None
    isolated: bool
    report: bool


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        case: its name.
        files: that were written.
        failure: why there are none; empty where there are.
        record: what was made of it, and the seconds it took; ready for JSON.
    """

    case: str
    files: Sequence[Path] = ()
    failure: str = ""
    record: dict[str, Any] = field(default_factory=dict)


Done = Callable[[Outcome], None]


class Workers(Protocol):
    """Other processes that segment cases in place of this one; `cluster.predict` has one."""

    def run(self, predictor: Predictor, task: Task, jobs: Sequence[Job], done: Done) -> dict[str, Any]:
        """Segment cases by these networks and settings, in any order; returns their `device` and `batch_size`."""


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str | Path],
    out: str | Path,
    prepared: PreparedDataset | None = None,
    identifiers: Sequence[str] = (),
    progress: bool = True,
    *,
    outputs: Collection[str] = (AUTO,),
    cardiac: bool = False,
    slice_axis: str | None = None,
    part: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    report: str | Path | None = None,
    isolated: bool | None = None,
    workers: Workers | None = None,
) -> Predicted:
    """Segment images into `out`, each under its own name; a bad one does not stop the others.

    A case that is finished there is skipped. Tiles of different images share batches. What is written, and what makes
    a case finished: see `inference.outputs`.

    Args:
        predictor: the networks.
        inputs: files, folders, zips and globs as `volumes.find.find_volumes` takes them.
        out: folder to write; several machines may share it.
        prepared: a data set some of whose cases to segment as well,
        identifiers: namely these.
        progress: show a bar.
        outputs: what to write of a case, words of `inference.outputs.OUTPUTS`.
        cardiac: also write the hearts' function over all finished cases.
        slice_axis: "x", "y" or "z" to cut slices across, as NIfTI counts axes; None finds the through-plane axis.
        part: (k, n) takes every n-th case of the list sorted by name, beginning with the k-th.
        overwrite: redo finished cases, and replace results of other networks, settings or inputs, and files that were
            changed since or that this did not write.
        report: file for a machine-readable report of this run, new or an earlier report; inputs are hashed for it.
        isolated: read images in a process of its own, so that a file at which a library crashes, hangs or takes all
            memory is one failed case; None does so unless all inputs are single files.
        workers: segment elsewhere; None does so in this process.

    Returns:
        What was written and what failed. Failures are also in `out/failures.json`, those of a part in
        `out/failures_<k>_of_<n>.json`.

    Raises:
        ValueError: there is no input, two inputs have one name, the folder holds results of other networks or files
            that this did not write, or the report cannot be written or would replace something else.
    """
    start = time.perf_counter()
    k, n = part
    if prepared is not None:
        predictor.require_data(prepared)
    if not 1 <= k <= n:
        raise ValueError(f"part {k}/{n}: expected k/n with k from 1 to n")
    if isolated is None:
        isolated = not all(Path(given).is_file() and not ending(Path(given), ZIP) for given in inputs)
    jobs = find_jobs(inputs, predictor.preprocessing.channels, prepared, identifiers, without=results_in(out))
    settings = {"tta": predictor.tta, "slice_axis": slice_axis}
    names = predictor.metadata.class_names
    folder = OutputFolder(out, outputs, cardiac, {"checkpoints": predictor.hashes, **settings}, names, overwrite)
    if report is not None:
        _check_report(Path(report), folder, jobs)
    folder.claim(jobs)

    share = sorted(jobs, key=lambda job: job.name)[k - 1 :: n]
    todo = [job for job in share if not folder.finished(job)]
    outcomes: dict[str, Outcome] = {}
    said = (workers or Here(progress)).run(
        predictor,
        Task(folder, prepared, slice_axis, isolated, report is not None),
        todo,
        lambda outcome: outcomes.update({outcome.case: outcome}),
    )
    done = [(job, outcomes[job.name]) for job in todo]
    written = {job.name: list(outcome.files) for job, outcome in done if not outcome.failure}
    often = Counter(job.source for job in todo)  # several series may be in one
    failures: dict[str, str] = {}
    for job, outcome in done:
        if outcome.failure:
            failure = outcome.failure
            if left := folder.outdated(job):
                files = printable(", ".join(map(str, left)))
                failure += f"; results of the file that was there before are kept: {files}"
            shown = str(job.source) if often[job.source] == 1 else f"{job.source} ({job.name})"
            failures[printable(shown)] = failure
    try:
        hearts = folder.merge({job.name for job in jobs if folder.outdated(job)})  # also those of other parts
    except OSError as error:  # a full disk; the failures are told all the same
        hearts, failures["tables of all cases"] = {}, str(error)
    if part == (1, 1):  # the other frame of a heart may be in another part
        failures |= {f"cardiac measures of {name}": reason for name, reason in hearts.items()}
    _write_failures(folder.folder / ("failures.json" if part == (1, 1) else f"failures_{k}_of_{n}.json"), failures)
    skipped = [job.name for job in share if job.name not in outcomes]
    if report is not None:
        networks = zip(predictor.checkpoints, predictor.hashes, strict=True)
        write_json(
            report,
            {
                "environment": describe_environment(),
                "device": said["device"],
                "checkpoints": [{"path": str(path), "sha256": digest} for path, digest in networks],
                "class_names": list(names),
                "settings": {
                    **settings,
                    "batch_size": said["batch_size"],
                    "outputs": folder.outputs,
                    "cardiac": cardiac,
                    "part": list(part),
                    "overwrite": overwrite,
                },
                "out": str(out),
                "cases": [outcome.record for _, outcome in done if not outcome.failure],
                "skipped": skipped,
                "failures": failures,
                "seconds": time.perf_counter() - start,
            },
        )
    return Predicted(written, skipped, failures)


def _check_report(path: Path, folder: OutputFolder, jobs: Sequence[Job]) -> None:
    """Refuse a report that would replace something else or cannot be written, before anything is."""
    remedy = "give another file (--report)"
    if folder.reserves(path, jobs):
        raise ValueError(f"{path} is the name of a result or a record in {folder.folder}; {remedy}")
    if os.path.lexists(path) and not (path.is_file() and read_record(path).keys() >= REPORT):
        raise ValueError(f"{path} is there already, and is no report of predict; {remedy}")
    above = next(one for one in path.absolute().parents if one.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ValueError(f"{path} cannot be written: {above} is no folder, or not yours to write to; {remedy}")


def _write_failures(file: Path, failures: dict[str, str]) -> None:
    """Replace the list of a run before; where it cannot be written, the caller's has that too."""
    try:
        file.unlink(missing_ok=True)
        if failures:
            write_json(file, failures)
    except OSError as error:
        failures[str(file)] = str(error)


class Pipeline:
    """Reads, segments and writes cases, a thread each for reading and writing.

    Close it, or use it as a context manager.

    Args:
        predictor: the networks; nobody else uses them meanwhile.
        task: what is done with every case.
    """

    def __init__(self, predictor: Predictor, task: Task) -> None:
        self.predictor, self.task = predictor, task
        self._apart = Reader() if task.isolated else None
        keep = not {"probabilities", "uncertainty"}.isdisjoint(task.folder.outputs)
        self._reader = JobReader(predictor, task.prepared, task.slice_axis, keep, self._apart)
        # name -> the case, the stamp of its files, and what is known of it
        self._begun: dict[str, tuple[Job, dict[str, Any], dict[str, Any]]] = {}

    def __enter__(self) -> "Pipeline":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process that reads, if there is one."""
        if self._apart is not None:
            self._apart.close()

    def run(self, jobs: Iterable[Job], done: Done, progress: Callable[[int], None] | None = None) -> None:
        """Work through cases. An interruption lets the case being written be finished.

        Args:
            jobs: the next is taken while the one before is in the networks.
            done: told of each case once it is written or has failed, from this thread or that which writes.
            progress: called with the number of tiles of each batch that was done.
        """
        with _thread() as reader, _thread() as writer:
            writing: Future[None] | None = None

            def failed(prepared: PreparedVolume, error: Exception) -> None:
                job, *_ = self._begun.pop(prepared.volume.name)
                done(Outcome(job.name, failure=_reason(job, error)))

            for segmentation in self.predictor.segment(self._read_ahead(reader, jobs, done), progress, failed):
                if writing is not None:
                    writing.result()  # no more than one waits to be written
                writing = writer.submit(self._write, segmentation, done)
                del segmentation  # the writing thread's alone
            if writing is not None:
                writing.result()

    def _read_ahead(self, reader: ThreadPoolExecutor, jobs: Iterable[Job], done: Done) -> Iterator[PreparedVolume]:
        """Images in order, the next one being read meanwhile."""
        reading: deque[tuple[Job, Future[PreparedVolume]]] = deque()
        for job in chain(jobs, (None,)):
            if job is not None:
                reading.append((job, reader.submit(self._read, job)))
            if reading and (len(reading) > 1 or job is None):
                before, future = reading.popleft()
                try:
                    volume = future.result()
                except Exception as error:  # whatever a file does to its reader, the others go on
                    done(Outcome(before.name, failure=_reason(before, error)))
                    continue
                del future
                yield volume
                del volume

    def _read(self, job: Job) -> PreparedVolume:
        start = time.perf_counter()
        self.task.folder.check(job)
        made_from, content = stamp(job.inputs), sha256(job.inputs) if self.task.report else None
        volume = self._reader(job)
        if "dicom-seg" in self.task.folder.outputs:
            self._check_seg(job, volume)
        if "picture" in self.task.folder.words(job.source):
            self._check_picture(job, volume)
        record = {
            "case": job.name,
            "input": str(job.source),
            "sha256": content,
            "shape": list(volume.volume.array.shape),
            "spacing_mm": volume.volume.spacing_mm,
            "slice_axis": SLICE_AXES[volume.turn.axes[0]],
            "slices": volume.volume.frames * volume.volume.shape[volume.turn.axes[0]],
            "seconds": {"reading": time.perf_counter() - start},
        }
        self._begun[job.name] = (job, made_from, record)
        return volume

    def _check_seg(self, job: Job, volume: PreparedVolume) -> None:
        """Refuse what no DICOM segmentation can be written of, before the networks run."""
        from mamba_unet.volumes.dicom.seg import check_seg_possible

        try:
            check_seg_possible(volume.volume, self.predictor.metadata.class_names)
        except ValueError as error:
            raise UnreadableError(job.source, f"{error}; or leave dicom-seg out of --output-type") from error

    def _check_picture(self, job: Job, volume: PreparedVolume) -> None:
        """Refuse what does not fit into one picture, before the networks run."""
        frames, slices = volume.volume.frames, volume.volume.shape[0]
        if frames > 1 or (slices > 1 and not ending(job.source, TIFF)):
            what = f"{frames} frames" if frames > 1 else f"{slices} slices"
            raise UnreadableError(
                job.source, f"{what} do not fit into one picture: leave picture out of --output-type; nifti holds them"
            )

    def _write(self, segmentation: Segmentation, done: Done) -> None:
        start = time.perf_counter()
        job, made_from, record = self._begun.pop(segmentation.volume.name)
        if segmentation.warning:
            log.warning("%s: %s", segmentation.volume.where, segmentation.warning)
        try:
            files = self.task.folder.write(segmentation, job.source, made_from)
        except Exception as error:  # a full disk or a series that a segmentation cannot refer to
            done(Outcome(job.name, failure=_reason(job, error)))
            return
        record |= {"outputs": [file.name for file in files], "misfits": list(segmentation.misfits)}
        record["seconds"] |= {"network": segmentation.network_seconds, "writing": time.perf_counter() - start}
        done(Outcome(job.name, files, record=record if self.task.report else {}))


def _reason(job: Job, error: Exception) -> str:
    if isinstance(error, UnreadableError) and error.file == job.source:
        return error.reason
    known = isinstance(error, (OSError, ValueError)) and str(error)
    return str(error) if known else f"{type(error).__name__}: {error}"


class Here:
    """Segments in this process, and shows a bar where it is asked to."""

    def __init__(self, progress: bool) -> None:
        self.progress = progress

    def run(self, predictor: Predictor, task: Task, jobs: Sequence[Job], done: Done) -> dict[str, Any]:
        """As `Workers` says it."""
        bar, tiles, lock = tqdm(total=len(jobs), desc="predict", unit="case", disable=not self.progress), 0, Lock()

        def count(more: int) -> None:
            nonlocal tiles
            tiles += more
            bar.set_postfix(tiles=tiles)

        def tell(outcome: Outcome) -> None:
            done(outcome)
            with lock:
                bar.update()

        with bar, Pipeline(predictor, task) as pipeline:
            pipeline.run(jobs, tell, count)
        return {"device": str(predictor.device), "batch_size": predictor.batch_size}


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    """One thread; leaving waits for what it is doing and drops what it has not begun."""
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
