"""A prepared data set as Lightning takes it: training batches of slices, validation on whole volumes."""

import os
from collections.abc import Iterator

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.samples import Samples
from mamba_unet.data.splits import split_name
from mamba_unet.views.slices import Slices

Draw = tuple[int, tuple[int, int]]  # (slice, what seeds its augmentation)


class StepSampler(Sampler[list[Draw]]):
    """Batches as a function of the iteration alone, so that a resumed run goes on with the very next one.

    The slices come as one endless row of shuffled passes; iteration t takes its `batch_size` draws from place
    t * batch_size on, and the place seeds the augmentation. With several processes each takes its share of the batch.

    Args:
        size: number of slices.
        batch_size: slices per iteration over all processes; a multiple of `world_size`.
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


class SegmentationDataModule(LightningDataModule):
    """Training and validation loaders over a `PreparedDataset`.

    Args:
        prepared: the data, with splits `train` and `val`.
        view: what the network sees of a case.
        batch_size: slices per iteration over all devices.
        iterations: of the whole run.
        augment: the paper's rotations and flips.
        seed: of order and augmentation.
        workers: loading processes; None fits the machine.
        fold: train and validate on this fold's splits; None on `train` and `val`.

    Raises:
        ValueError: a split is absent or empty.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        view: Slices,
        batch_size: int,
        iterations: int,
        augment: bool = True,
        seed: int = 0,
        workers: int | None = None,
        fold: int | None = None,
    ) -> None:
        super().__init__()
        train, val = (split_name(name, fold) for name in ("train", "val"))
        for split in (train, val):
            if not prepared.splits.get(split):
                way_out = "a split that has training and validation patients" if fold is None else "--folds"
                raise ValueError(
                    f"{prepared.folder} has no cases in split {split!r}, only {', '.join(sorted(prepared.splits))}; "
                    f"prepare it again with {way_out}"
                )
        self.prepared, self.batch_size, self.iterations, self.seed = prepared, batch_size, iterations, seed
        self.train_slices = Samples(prepared, prepared.splits[train], view, augment)
        self.validation_cases = prepared.splits[val]
        self.workers = _default_workers() if workers is None else workers

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        sampler = StepSampler(
            len(self.train_slices), self.batch_size, self.iterations, self.seed, trainer.global_rank, trainer.world_size
        )
        sampler.first_step = trainer.global_step
        return DataLoader(
            self.train_slices,
            batch_sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
        )

    def val_dataloader(self) -> DataLoader:
        # identifiers: a case is memory-mapped where it is used. Every process validates every case, so that all of them
        # know the result without telling one another
        return DataLoader(self.validation_cases, batch_size=None)


def _default_workers() -> int:
    """Beside a GPU all cores but one, at most 8; without one few, for training itself is their better use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        return min(8, max(1, cores - 1))
    return 0 if cores <= 4 else min(8, cores - 2)
