"""A prepared data set as training takes it: named streams of batches of samples, and the cases of validation."""

import os
import re
import signal
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from mamba_unet.data.annotated import Annotated
from mamba_unet.data.prepared import Cases, PreparedDataset
from mamba_unet.data.resampled import CasesOnGrid
from mamba_unet.data.samples import Samples
from mamba_unet.data.splits import split_name
from mamba_unet.training.labelled import choose_labelled
from mamba_unet.training.objectives.base import Batch
from mamba_unet.training.signals import NAMES
from mamba_unet.views.view import View
from mamba_unet.words import some

Draw = tuple[int, tuple[int, int]]  # (sample, what seeds its augmentation)

OUTLIVE_S = 300  # of a loading process, beyond a signal to stop

# how torch tells that workers cannot hand their batches over
NO_SHARED_MEMORY = re.compile(r"Bus error|shared memory|/torch_\d", re.IGNORECASE)


class StepSampler(Sampler[list[Draw]]):
    """Batches as a function of the iteration alone, so that a resumed run goes on with the very next one.

    The samples come as one endless row of shuffled passes; iteration t takes its `batch_size` draws from place
    t * batch_size on, and the place seeds the augmentation. With several processes each takes its share of the batch.

    Args:
        size: number of samples.
        batch_size: samples per iteration over all processes; a multiple of `world_size`.
        iterations: of the whole run; `len()` of this sampler.
        seed: of order and augmentation.
        rank, world_size: of this process.

    Attributes:
        first_step: iteration that the next pass over this sampler starts at.
    """

    def __init__(
        self, size: int, batch_size: int, iterations: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size % world_size:
            raise ValueError(
                f"batch_size {batch_size} is not a multiple of the {world_size} processes it is shared by; "
                f"take {batch_size // world_size * world_size or world_size}"
            )
        self.size, self.batch_size, self.iterations, self.seed = size, batch_size, iterations, seed
        self.rank, self.world_size = rank, world_size
        self.first_step = 0

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[list[Draw]]:
        current_pass, order = -1, None
        for step in range(self.first_step, self.iterations):
            batch = []
            for place in range(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.world_size):
                if place // self.size != current_pass:
                    current_pass = place // self.size
                    order = np.random.default_rng((self.seed, current_pass)).permutation(self.size)
                batch.append((int(order[place % self.size]), (self.seed, place)))
            yield batch


class TrainingData:
    """Streams of training samples and the validation cases of a `PreparedDataset`.

    Args:
        prepared: the data, with splits `train` and `val`.
        view: what the network sees of a case.
        augment: how samples are augmented: `none`, `paper` or `nnunet`.
        seed: of order and augmentation.
        workers: loading processes; None fits the machine.
        fold: train and validate on this fold's splits; None on `train` and `val`.
        labelled: how many of the training patients are used with their labels, or who; None: all.
        annotation: "label" or "scribble", which training learns from; validation takes the labels.
        streams: those that are learned from, "labelled" and "unlabelled"; None: all that the data has.

    Attributes:
        samples: stream -> the samples that its batches are drawn from.
        training_cases: identifiers of those that are learned from with their labels.
        unlabelled_cases: of those that are learned from without; none is of a patient that is validated or tested, and
            none is there where no such stream is learned from.
        validation_cases: identifiers.

    Raises:
        ValueError: a split is absent or empty, or there are no such patients, or no scribbles.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        view: View,
        augment: str = "paper",
        seed: int = 0,
        workers: int | None = None,
        fold: int | None = None,
        labelled: int | Sequence[str] | None = None,
        annotation: str = "label",
        streams: Iterable[str] | None = None,
    ) -> None:
        train, val = (split_name(name, fold) for name in ("train", "val"))
        for split in (train, val):
            if not prepared.splits.get(split):
                remedy = "a split that has training and validation patients" if fold is None else "--folds"
                raise ValueError(
                    f"{prepared.folder} has no cases in split {split!r}, only {', '.join(sorted(prepared.splits))}; "
                    f"prepare it again with {remedy}"
                )
        self.prepared, self.seed = prepared, seed
        self.validation_cases, self.annotation = prepared.splits[val], annotation
        self.training_cases, self.unlabelled_cases = choose_labelled(prepared, fold, labelled, annotation, seed)
        if streams is not None and "unlabelled" not in streams:
            self.unlabelled_cases = []  # no image is counted as seen, or resampled, that is not
        given = [("labelled", self.training_cases, annotation), ("unlabelled", self.unlabelled_cases, None)]
        self.samples: dict[str, Samples] = {}
        for stream, identifiers, kind in given:
            cases: Cases = prepared if kind == "label" else Annotated(prepared, kind)
            if view.spacing_mm is not None:
                cases = CasesOnGrid(cases, view)
                cases.write(identifiers)
            if identifiers:
                self.samples[stream] = Samples(cases, identifiers, view, augment, labelled=kind is not None)
        self.workers = _default_workers() if workers is None else workers

    @cached_property
    def validated_classes(self) -> list[str]:
        """Foreground classes that some label of the validation cases shows: checkpoints are chosen by them.

        Of the others one false voxel makes a Dice of 0 and none makes no Dice at all: with them the mean would be over
        other classes from one validation to the next.

        Raises:
            ValueError: there is none, so that no checkpoint could be chosen.
        """
        labels = (np.asarray(self.prepared.case(case).label) for case in self.validation_cases)
        absent = self._absent(labels)
        if len(absent) == self.prepared.num_classes - 1:
            raise ValueError(
                "no foreground class is in any label of the validation cases "
                f"({', '.join(self.validation_cases[:5])}{', ...' if len(self.validation_cases) > 5 else ''}), so no "
                "checkpoint can be chosen on them; prepare the data with a split whose validation patients show one"
            )
        return [name for name in self.prepared.class_names[1:] if name not in absent]

    def absent_classes(self) -> list[str]:
        """Classes that no label, or scribble, of the training cases shows. The background is one where pixels are open.

        Raises:
            ValueError: nothing is marked.
        """
        first = 0 if self.annotation == "scribble" or self.prepared.has_ignored else 1
        labels = (np.asarray(self.prepared.annotation(case, self.annotation)) for case in self.training_cases)
        absent = self._absent(labels, first)
        if len(absent) == self.prepared.num_classes:
            raise ValueError(
                f"no pixel of the training cases' {self.annotation}s is marked "
                f"({some(self.training_cases)}), so nothing can be learned; mark some of every class, the "
                "background among them, and prepare the data again"
            )
        return absent

    def _absent(self, labels: Iterable[np.ndarray], first: int = 1) -> list[str]:
        """Classes from the `first` on that none of the labels shows."""
        absent = set(range(first, self.prepared.num_classes))
        for label in labels:
            absent = {index for index in absent if not (label == index).any()}
            if not absent:
                break
        return [self.prepared.class_names[index] for index in sorted(absent)]

    def patients(self) -> dict[str, int]:
        """How many patients the network is trained on and chosen on."""
        cases = {"train": self.training_cases, "val": self.validation_cases}
        return {split: len({self.prepared.case(case).patient for case in held}) for split, held in cases.items()}

    def hashes(self) -> list[str]:
        """Of the images that the network is trained and chosen on; they tell an image whatever its case is called."""
        cases = (*self.training_cases, *self.unlabelled_cases, *self.validation_cases)
        return [self.prepared.image_hash(case) for case in cases]

    def describe(self) -> dict[str, Any]:
        """What training learns from, for the run folder: the data, patients with labels, those without, which labels,
        and a hash of the voxel sizes."""
        share, contents = self.prepared.marked(self.training_cases, self.annotation)
        patients = [
            sorted({self.prepared.patient(case) for case in cases})
            for cases in (self.training_cases, self.unlabelled_cases)
        ]
        return {
            "annotation": self.annotation,
            "marked": share,
            "sha256": contents,
            **self.prepared.identity,
            "labelled_patients": patients[0],
            "unlabelled_patients": [patient for patient in patients[1] if patient not in patients[0]],
            "labelled_cases": list(self.training_cases),
            "unlabelled_cases": list(self.unlabelled_cases),
        }

    def require(self, streams: Iterable[str]) -> None:
        """Raise ValueError if this data has not all of these streams."""
        if unknown := set(streams) - self.samples.keys():
            raise ValueError(
                f"{self.prepared.folder} has no {' and no '.join(sorted(unknown))} images to train on; label fewer "
                "patients (--labelled N, N below their number), or prepare data with images that have no label"
            )

    def batches(
        self, streams: Mapping[str, int], first_step: int, iterations: int, rank: int, world_size: int, pin_memory: bool
    ) -> Iterator[dict[str, Batch]]:
        """The batches of the iterations from `first_step` on, each with one part for every stream.

        Raises:
            ValueError: this data has no such stream, or a stream's samples cannot be shared by the processes.
            OSError: the loading processes have too little shared memory.
        """
        self.require(streams)
        loaders = []
        for name, samples in streams.items():
            # the labelled stream has the run's own seed; others must not draw the same order
            seed = self.seed if name == "labelled" else zlib.crc32(f"{self.seed}/{name}".encode())
            sampler = StepSampler(len(self.samples[name]), samples, iterations, seed, rank, world_size)
            sampler.first_step = first_step
            loaders.append(
                DataLoader(
                    self.samples[name],
                    batch_sampler=sampler,
                    num_workers=self.workers,
                    pin_memory=pin_memory,
                    worker_init_fn=_outlive_signals,
                )
            )
        try:
            for parts in zip(*loaders, strict=True):
                yield dict(zip(streams, parts, strict=True))
        except RuntimeError as error:
            if self.workers and NO_SHARED_MEMORY.search(str(error)):
                raise OSError(
                    f"the {self.workers} loading processes have too little shared memory (/dev/shm; containers often "
                    "have 64 MB): give --workers 0, or the container more (docker run --shm-size 2g)"
                ) from error
            raise


def _outlive_signals(worker: int) -> None:
    """A loading process that gets the training's signal, as all of a job may, works on until the training has stopped.

    If it died, the training would end with an error instead. What hangs ends by its alarm.
    """
    for name in NAMES:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: hasattr(signal, "alarm") and signal.alarm(OUTLIVE_S))


def _default_workers() -> int:
    """Beside a GPU all cores but one, at most 8; without one few, for training itself is their better use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        return min(8, max(1, cores - 1))
    return 0 if cores <= 4 else min(8, cores - 2)
