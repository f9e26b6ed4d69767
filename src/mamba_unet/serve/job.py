"""One upload and what became of it."""

import asyncio
import hashlib
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mamba_unet.serve.readers import Readers
from mamba_unet.volumes.formats import UnreadableError, ending, stem

if TYPE_CHECKING:
    from mamba_unet.volumes.find import VolumeFile
    from mamba_unet.volumes.volume import Volume

LARGE = 2**26  # bytes of an upload whose volume is read alone
DETACHED = (".mhd", ".nhdr")  # headers whose voxels lie in another file

State = Literal["uploading", "reading", "choosing", "queued", "running", "done", "failed", "cancelled"]
EDITS = "edits"  # folder in that of a job, see `edits.save_edit`
MOVING = ("reading", "queued", "running")


@dataclass(eq=False)
class Job:
    """One upload and what became of it.

    Attributes:
        id: cannot be guessed; who knows it owns the job.
        folder: `input/` holds the upload, the result lies beside it.
        names: stored path -> what its owner calls it.
        size: bytes uploaded.
        written: bytes of what the server made of it.
        arriving: files that are being uploaded now.
        volumes: found in the upload.
        volume: which of them is meant.
        model, slice_axis, uncertainty: as asked for.
        start: a mark of the newest start, see `Jobs.start`; None before the first and after a cancel.
        state: `choosing` waits for the owner to say which of several volumes is meant.
        slices: (done, all) while the network runs.
        error: why it failed, in words for its owner.
        image: how to show the volume, see `result.write_image`; None until it has been read.
        result: see `result.write_result`; None until it is done.
        edits: what people made of the result, see `edits.save_edit`.
        touched: when somebody last asked for it, on the clock `time.monotonic`.
        users: how many are at work in its folder.
        turn: of those who read it, one after another.
    """

    id: str
    folder: Path
    names: dict[Path, str] = field(default_factory=dict)
    size: int = 0
    written: int = 0
    arriving: int = 0
    volumes: "list[VolumeFile]" = field(default_factory=list)
    volume: int = 0
    model: str = ""
    slice_axis: str | None = None
    uncertainty: bool = False
    start: object | None = None
    state: State = "uploading"
    slices: tuple[int, int] = (0, 0)
    error: str = ""
    image: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    edits: list[dict[str, Any]] = field(default_factory=list)
    touched: float = field(default_factory=time.monotonic)
    users: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    @property
    def log_name(self) -> str:
        """What the log calls it: not the id, which opens the job to whoever knows it, and nothing of its owner's."""
        return hashlib.sha256(self.id.encode()).hexdigest()[:12]

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
        """Of its volumes, with the names that its owner gave in place of ours."""
        if len(self.names) > 1 and all(one.path in self.names for one in self.volumes):  # files, not a DICOM series
            return [_called(self.names[one.path]) for one in self.volumes]
        ours = stem(next(iter(self.names))) if len(self.names) == 1 else self.upload.name
        return [one.name.replace(ours, self.called, 1) for one in self.volumes]

    @property
    def series(self) -> "list[dict[str, Any] | None]":
        """Of each of its volumes what the DICOM header says, to choose it by; None where there is none."""
        keys = ("modality", "number", "description", "images")
        return [one.series and {key: getattr(one.series, key) for key in keys} for one in self.volumes]

    @property
    def name(self) -> str:
        """Of the volume; before it is known, of the upload."""
        return self.titles[self.volume] if self.volumes else self.called

    @property
    def large(self) -> bool:
        """Whether its volume is to be read while no other large one is."""
        return self.size > LARGE

    def read(self, readers: Readers) -> "Volume":
        """The volume that is meant, read in a process of its own.

        Raises:
            UnreadableError: it cannot be read, wants more memory than the limit, or is a header without its voxels.
        """
        volume = self.volumes[self.volume]
        if end := ending(volume.path, DETACHED):
            kind = ".mha" if end == ".mhd" else ".nrrd"
            raise UnreadableError(volume.path, f"a header whose voxels are in another file; save it as one {kind} file")
        return replace(readers.read(volume.read, volume.path), name=self.name)

    def words(self, error: BaseException) -> str:
        """An error's text, with the names that the owner gave in place of ours, and without those of Python."""
        text = str(error)
        if isinstance(error, OSError) and error.strerror:
            text = f"{self.name}: {error.strerror.lower()}"
        for path, name in self.names.items():
            text = text.replace(str(path), name).replace(path.name, name)
        text = text.replace(str(self.upload), "the upload").replace(str(self.folder), "the upload")
        return re.sub(r"\b[A-Za-z]*(Error|Exception|BadZipFile): ", "", text)


def _called(name: str) -> str:
    file = Path(re.split(r"[/\\]", name)[-1])
    return re.sub(r"[^\w.-]+", "_", stem(file).removesuffix("_0000")).strip("._") or "volume"
