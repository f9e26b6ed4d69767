"""The cases to segment: what each is called, what it is read from, and how it is brought to the networks."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.inference.predictor import Predictor, PreparedVolume
from mamba_unet.volumes.find import find_volumes
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.text_header import data_files
from mamba_unet.volumes.volume import Volume, join_channels


@dataclass(frozen=True)
class Job:
    """A case to segment. Another process may be given it.

    Attributes:
        name: of its outputs.
        source: the file, folder or zip it is read from,
        inputs: its files in it.
        read: reads the image; None for a case of the prepared data set.
    """

    name: str
    source: Path
    inputs: Sequence[Path]
    read: Callable[[], Volume] | None = None


def find_jobs(
    inputs: Sequence[str | Path],
    channels: int,
    prepared: PreparedDataset | None,
    identifiers: Sequence[str],
    without: Collection[Path],
) -> list[Job]:
    """The cases that inputs stand for, and those of a prepared data set.

    Args:
        inputs: as `volumes.find.find_volumes` takes them.
        channels: that the networks take.
        prepared, identifiers: a data set, and which of its cases.
        without: as `find_volumes` takes it.

    Raises:
        ValueError: there is none, or two have one name.
    """
    files = find_volumes(inputs, channels, without=without) if inputs or not identifiers else []
    jobs = [Job(file.name, file.path, file.files, file.read) for file in files]
    for name in identifiers:
        case = prepared.case(name)
        files = [file for one in case.sources for file in (one, *data_files(one))]
        jobs.append(Job(name, case.source, files))
    first: dict[str, Job] = {}
    for job in jobs:
        if (other := first.setdefault(job.name, job)) is not job:
            raise ValueError(f"{other.source} and {job.source} would both be called {job.name!r}; predict them apart")
    return jobs


@dataclass(frozen=True)
class JobReader:
    """Reads a case and brings it to the networks.

    Args:
        predictor: the networks.
        prepared: the data set of the cases that have no `read`.
        slice_axis, probabilities: as for `Predictor.prepare`.
        apart: the process to read in; None reads in this one.
    """

    predictor: Predictor
    prepared: PreparedDataset | None
    slice_axis: str | None
    probabilities: bool
    apart: Reader | None

    def __call__(self, job: Job) -> PreparedVolume:
        """Raises UnreadableError, as readers do."""
        if job.read is None:
            volume, scaled = self._case(job.name)
        else:
            volume, scaled = replace(self._read(job.read, job.source), name=job.name), False
        return self.predictor.prepare(volume, self.slice_axis, self.probabilities, scaled)

    def _read(self, read: Callable[[], Volume], path: Path) -> Volume:
        return read() if self.apart is None else self.apart.read(read, path)

    def _case(self, identifier: str) -> tuple[Volume, bool]:
        """Its NIfTI file. A source without geometry may be one slice of many: then the prepared, scaled array."""
        case = self.prepared.case(identifier)
        if case.affine is None:
            array = case.image[None]
            return Volume(identifier, array, spacing_mm=case.spacing_mm, slices_along=0, source=case.source), True
        read = join_channels([self._read(partial(read_volume, file), file) for file in case.sources])
        read = read.frames_as_channels() if case.frames_are_channels else read
        return self.predictor.preprocessing.as_trained(replace(read, name=identifier)), False
