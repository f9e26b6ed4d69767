"""Many images to files: reading, the networks and writing at the same time, in bounded memory.

One thread reads an image ahead, the networks run in the caller's thread, one thread writes. So at any moment there are
the image being read, those whose tiles are in the networks' batch and the one being written, however many the inputs.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.environment import describe_environment
from mamba_unet.files import write_json
from mamba_unet.inference.outputs import AUTO, OutputFolder, results_in, sha256
from mamba_unet.inference.predictor import Predictor, PreparedVolume
from mamba_unet.inference.segmentation import Segmentation
from mamba_unet.volumes.find import VolumeFile, find_volumes
from mamba_unet.volumes.formats import ZIP, UnreadableError, ending, printable
from mamba_unet.volumes.geometry import SLICE_AXES
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.volume import Volume, join_channels

log = logging.getLogger(__name__)


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
class Job:
    """A case to segment: the name of its outputs, the file, folder or zip it is read from, its files in it, and how."""

    name: str
    source: Path
    inputs: Sequence[Path]
    read: Callable[[], PreparedVolume]


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
        overwrite: redo finished cases, and replace results of other networks or settings.
        report: file for a machine-readable report of this run; inputs are hashed for it.
        isolated: read images in a process of its own, so that a file at which a library crashes, hangs or takes all
            memory is one failed case; None does so unless all inputs are single files.

    Returns:
        What was written and what failed. Failures are also in `out/failures.json`, those of a part in
        `out/failures_<k>_of_<n>.json`.

    Raises:
        ValueError: there is no input, two inputs have one name, or the folder holds results of other networks.
    """
    start = time.perf_counter()
    k, n = part
    if prepared is not None:
        predictor.require_data(prepared)
    if not 1 <= k <= n:
        raise ValueError(f"part {k}/{n}: expected k/n with k from 1 to n")
    if isolated is None:
        isolated = not all(Path(given).is_file() and not ending(Path(given), ZIP) for given in inputs)
    with Reader() if isolated else nullcontext() as reader:
        keep = not {"probabilities", "uncertainty"}.isdisjoint(outputs)
        jobs = _jobs(predictor, inputs, out, prepared, identifiers, slice_axis, keep, reader)
        checkpoints = [sha256([path]) for path in predictor.checkpoints]
        settings = {"tta": predictor.tta, "slice_axis": slice_axis}
        names = predictor.metadata.class_names
        folder = OutputFolder(out, outputs, cardiac, {"checkpoints": checkpoints, **settings}, names)
        folder.claim({job.name: job.source for job in jobs}, overwrite)

        share = sorted(jobs, key=lambda job: job.name)[k - 1 :: n]
        todo = [job for job in share if overwrite or not folder.finished(job.name, job.source, job.inputs)]
        pipeline = Pipeline(predictor, folder, todo, hash_inputs=report is not None)
        pipeline.run(progress)
    failures = pipeline.failures
    try:
        hearts = folder.merge()
    except OSError as error:  # a full disk; the failures are told all the same
        hearts, failures["tables of all cases"] = {}, str(error)
    if part == (1, 1):  # the other frame of a heart may be in another part
        failures |= {f"cardiac measures of {name}": reason for name, reason in hearts.items()}
    _write_failures(folder.folder / ("failures.json" if part == (1, 1) else f"failures_{k}_of_{n}.json"), failures)
    skipped = [job.name for job in share if job.name not in pipeline.jobs]
    if report is not None:
        networks = zip(predictor.checkpoints, checkpoints, strict=True)
        write_json(
            report,
            {
                "environment": describe_environment(),
                "device": str(predictor.device),
                "checkpoints": [{"path": str(path), "sha256": digest} for path, digest in networks],
                "class_names": list(names),
                "settings": {
                    **settings,
                    "batch_size": predictor.batch_size,
                    "outputs": folder.outputs,
                    "cardiac": cardiac,
                    "part": list(part),
                    "overwrite": overwrite,
                },
                "out": str(out),
                "cases": list(pipeline.cases.values()),
                "skipped": skipped,
                "failures": failures,
                "seconds": time.perf_counter() - start,
            },
        )
    return Predicted(pipeline.written, skipped, failures)


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

    Attributes:
        written: case -> its files.
        failures: input -> why there is no result.
        cases: what was made of each case that was written, and the seconds it took; ready for JSON.
    """

    def __init__(self, predictor: Predictor, folder: OutputFolder, jobs: Sequence[Job], hash_inputs: bool) -> None:
        self.predictor, self.folder, self.hash_inputs = predictor, folder, hash_inputs
        self.jobs = {job.name: job for job in jobs}
        self.written: dict[str, list[Path]] = {}
        self.failures: dict[str, str] = {}
        self.cases: dict[str, dict[str, Any]] = {}
        self._inputs = Counter(job.source for job in jobs)  # several series may be in one

    def run(self, progress: bool) -> None:
        """Work through all cases. An interruption lets the case being written be finished."""
        bar = tqdm(total=len(self.jobs), desc="predict", unit="case", disable=not progress)
        tiles = 0

        def count(done: int) -> None:
            nonlocal tiles
            tiles += done
            bar.set_postfix(tiles=tiles)

        with bar, _thread() as reader, _thread() as writer:
            writing: deque[tuple[Job, Future[list[Path]]]] = deque()
            for segmentation in self.predictor.segment(self._read_ahead(reader, bar), count):
                self._settle(writing, bar)
                job = self.jobs[segmentation.volume.name]
                writing.append((job, writer.submit(self._write, job, segmentation)))
                del segmentation  # the writing thread's alone
            self._settle(writing, bar)

    def _read_ahead(self, reader: ThreadPoolExecutor, bar: tqdm) -> Iterator[PreparedVolume]:
        """Images in order, the next one being read meanwhile."""
        reading: deque[tuple[Job, Future[PreparedVolume]]] = deque()
        for job in (*self.jobs.values(), None):
            if job is not None:
                reading.append((job, reader.submit(self._read, job)))
            if reading and (len(reading) > 1 or job is None):
                before, future = reading.popleft()
                try:
                    volume = future.result()
                except Exception as error:  # whatever a file does to its reader, the others go on
                    self._fail(before, error, bar)
                    continue
                del future
                yield volume
                del volume

    def _read(self, job: Job) -> PreparedVolume:
        start = time.perf_counter()
        self.folder.check_names(job.name, job.source)
        volume = job.read()
        if "dicom-seg" in self.folder.outputs:
            self._check_seg(job, volume)
        self.cases[job.name] = {
            "case": job.name,
            "input": str(job.source),
            "sha256": sha256(job.inputs) if self.hash_inputs else None,
            "shape": list(volume.volume.array.shape),
            "spacing_mm": volume.volume.spacing_mm,
            "slice_axis": SLICE_AXES[volume.turn.axes[0]],
            "slices": volume.volume.frames * volume.volume.shape[volume.turn.axes[0]],
            "seconds": {"reading": time.perf_counter() - start},
        }
        return volume

    def _check_seg(self, job: Job, volume: PreparedVolume) -> None:
        """Refuse what no DICOM segmentation can be written of, before the networks run."""
        from mamba_unet.volumes.dicom.seg import check_seg_possible

        try:
            check_seg_possible(volume.volume, self.predictor.metadata.class_names)
        except ValueError as error:
            raise UnreadableError(job.source, f"{error}; or leave dicom-seg out of --output-type") from error

    def _write(self, job: Job, segmentation: Segmentation) -> list[Path]:
        start = time.perf_counter()
        if segmentation.warning:
            log.warning("%s: %s", segmentation.volume.where, segmentation.warning)
        files = self.folder.write(segmentation, job.source, job.inputs)
        self.cases[job.name] |= {"outputs": [file.name for file in files], "misfits": list(segmentation.misfits)}
        seconds = {"network": segmentation.network_seconds, "writing": time.perf_counter() - start}
        self.cases[job.name]["seconds"] |= seconds
        return files

    def _settle(self, writing: "deque[tuple[Job, Future[list[Path]]]]", bar: tqdm) -> None:
        """Wait until everything is written that was handed to the writing thread."""
        while writing:
            job, future = writing.popleft()
            try:
                self.written[job.name] = future.result()
            except Exception as error:  # a full disk or a series that a segmentation cannot refer to
                self._fail(job, error, bar)
            else:
                bar.update()

    def _fail(self, job: Job, error: Exception, bar: tqdm) -> None:
        name = printable(str(job.source) if self._inputs[job.source] == 1 else f"{job.source} ({job.name})")
        if isinstance(error, UnreadableError) and error.file == job.source:
            self.failures[name] = error.reason
        else:
            known = isinstance(error, (OSError, ValueError))
            self.failures[name] = str(error) if known else f"{type(error).__name__}: {error}"
        self.cases.pop(job.name, None)
        bar.update()


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    """One thread; leaving waits for what it is doing and drops what it has not begun."""
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _jobs(
    predictor: Predictor,
    inputs: Sequence[str | Path],
    out: str | Path,
    prepared: PreparedDataset | None,
    identifiers: Sequence[str],
    slice_axis: str | None,
    probabilities: bool,
    reader: Reader | None,
) -> list[Job]:
    def read_apart(read: Callable[[], Volume], path: Path) -> Volume:
        return read() if reader is None else reader.read(read, path)

    def read_file(file: VolumeFile) -> PreparedVolume:
        volume = read_apart(file.read, file.path)
        return predictor.prepare(replace(volume, name=file.name), slice_axis, probabilities)

    def read_case(identifier: str) -> PreparedVolume:
        """Its NIfTI file. A source without geometry may be one slice of many: then the prepared array."""
        case = prepared.case(identifier)
        if case.affine is None:
            volume = Volume(
                identifier, case.image[None], spacing_mm=case.spacing_mm, slices_along=0, source=case.source
            )
        else:
            read = join_channels([read_apart(partial(read_volume, file), file) for file in case.sources])
            read = read.frames_as_channels() if case.frames_are_channels else read
            volume = predictor.preprocessing.as_trained(replace(read, name=identifier))
        return predictor.prepare(volume, slice_axis, probabilities, scaled=case.affine is None)

    files = []
    if inputs or not identifiers:
        files = find_volumes(inputs, predictor.preprocessing.channels, without=results_in(out))
    jobs = [Job(file.name, file.path, file.files, partial(read_file, file)) for file in files]
    for name in identifiers:
        case = prepared.case(name)
        jobs.append(Job(name, case.source, list(case.sources), partial(read_case, name)))
    first: dict[str, Job] = {}
    for job in jobs:
        if (other := first.setdefault(job.name, job)) is not job:
            raise ValueError(f"{other.source} and {job.source} would both be called {job.name!r}; predict them apart")
    return jobs
