"""Complete series through the network, one after another."""

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mamba_unet.listen.events import event
from mamba_unet.listen.store import Store, Task
from mamba_unet.monitoring import Histogram
from mamba_unet.volumes.dicom.files import opened
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.read import read_volume

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor, Segmentation

PAUSE_S = 0.2


class _Stopped(Exception):
    pass


class Worker(threading.Thread):
    """Segments what is due, and removes what is old. Close it.

    Images are read in a process of its own: a file at which a library crashes, hangs or takes all memory is one failed
    series. One that ends the whole program is given up at the third try.

    Args:
        store: where series come from and results go.
        predictor: only this thread calls it.
        keep_s: see `Store.expire`.

    Attributes:
        seconds: that series took, from reading to writing.
    """

    def __init__(self, store: Store, predictor: "Predictor", keep_s: float) -> None:
        super().__init__(name="mamba-unet-listen", daemon=True)
        self.store, self.predictor, self.keep_s = store, predictor, keep_s
        self.seconds = Histogram("case_seconds", "Time of a series, from reading it to writing its results.")
        self._closed = threading.Event()

    def run(self) -> None:
        with Reader() as reader:
            while not self._closed.is_set():
                with self._postponing():
                    self.store.expire(self.keep_s)
                with self._postponing():
                    task = self.store.due()
                    if task is not None:
                        self._segment(task, reader)
                        continue
                self._closed.wait(PAUSE_S)

    @contextmanager
    def _postponing(self) -> Iterator[None]:
        """What goes wrong in the block is told, and tried again: nothing is lost, and the others go on."""
        try:
            yield
        except Exception as error:  # of the disk, most likely
            event("postponed", warn=True, reason=f"{type(error).__name__}: {error}")

    def _segment(self, task: Task, reader: Reader) -> None:
        start = time.monotonic()
        try:
            volume = reader.read(partial(read_volume, task.images), task.images)
            segmentation = self.predictor(replace(volume, name=task.series.uid), progress=self._check)
            write_results(segmentation, task.folder)
            seconds = time.monotonic() - start
            self.seconds.add(seconds)
            event("segmented", series=task.series.uid, seconds=seconds, unlike_training=bool(segmentation.misfits))
            self.store.deliver(task)
        except _Stopped:
            self.store.put_back(task)
        except OSError:
            self.store.put_back(task)
            raise
        except Exception as error:  # whatever it is, the other series go on
            self.store.fail(task, without_patient(f"{error}" or type(error).__name__, task.images))

    def _check(self, *_: int) -> None:
        if self._closed.is_set():
            raise _Stopped

    def close(self) -> None:
        """Stop at the next batch; the series stays in the queue."""
        self._closed.set()
        self.join(timeout=30)  # reading a file may take longer, and the series is in the queue all the same


def write_results(segmentation: "Segmentation", folder: Path) -> list[Path]:
    """Write the segmentations (of a cine one for each phase, in one series) and the report."""
    from pydicom.uid import generate_uid

    frames = len(segmentation.labels)
    uid, files = generate_uid(), [folder / f"segmentation_{frame:03}.dcm" for frame in range(frames)]
    for frame, file in enumerate(files):
        segmentation.save_dicom_seg(file, frame, uid)
    report = folder / "volumes.dcm"  # sent after what it refers to: in the order of names
    segmentation.save_dicom_report(report, files)
    return [*files, report]


def without_patient(text: str, images: Path) -> str:
    """A text without the values of the patient's attributes, should an error quote one of them.

    Args:
        text: for the log.
        images: folder of the series.
    """
    for value in _patient(images):
        text = text.replace(value, "***")
    return text


def _patient(images: Path) -> Sequence[str]:
    """Values of group 0010 in the first image, the longest first; names whole and in parts."""
    try:
        with opened(images) as files:
            header = files.read(next(iter(files.sizes)), ["PatientName", "PatientID", "PatientBirthDate"])
        said = [str(element.value) for element in header]
    except Exception:  # it may be damaged in any way
        return ()
    parts = {part for value in said for part in (value, *re.split(r"[\s^=]+", value)) if len(part) > 2}
    return sorted(parts, key=len, reverse=True)
