"""Training samples: what a view draws from the cases of a prepared data set."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.data.prepared import Cases
from mamba_unet.views.labels import IGNORE
from mamba_unet.views.view import View

if TYPE_CHECKING:
    from torch import Tensor


class Samples:
    """The samples that a view sees in some cases: a map-style data set for torch's DataLoader.

    It has no state: an item is asked for as (index, seed), and the seed alone decides the augmentation, so whoever
    draws the seeds can stop and go on anywhere in the same stream.

    Args:
        cases: of the data set, on the view's grid.
        identifiers: its cases, in order; the samples of each follow one another.
        view: cuts a case into samples.
        augment: how they are augmented: `none`, `paper` or `nnunet`.
        labelled: False gives `IGNORE` for every label.
    """

    def __init__(self, cases: Cases, identifiers: Sequence[str], view: View, augment: str, labelled: bool = True):
        self.cases, self.identifiers = cases, list(identifiers)
        self.view, self.augment, self.labelled = view, augment, labelled
        self._ends = np.cumsum([view.count(cases.shape(one)) for one in self.identifiers], dtype=np.int64)
        self._marks: dict[str, Any] = {}  # what the view must know of a label; filled as cases are drawn from

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.identifiers else 0

    def __getitem__(self, item: tuple[int, int | Sequence[int]]) -> "dict[str, Tensor | str]":
        """(index, seed), the seed as numpy takes it -> image (C, *size) float32, label (*size) int64, name "case/3"."""
        import torch

        index, seed = item
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        position = int(np.searchsorted(self._ends, index, side="right"))
        number = index - (int(self._ends[position - 1]) if position else 0)
        case = self.cases.case(self.identifiers[position])
        if case.identifier not in self._marks:
            self._marks[case.identifier] = self.view.marks(case.label)
        rng, marks = np.random.default_rng(seed), self._marks[case.identifier]
        image, label = self.view.draw(case.image, case.label, number, rng, self.augment, marks)
        if not self.labelled:
            label = np.full_like(label, IGNORE)  # also where the view fills in background from outside
        return {
            "image": torch.from_numpy(image),
            "label": torch.from_numpy(label).long(),
            "name": f"{case.identifier}/{number}",
        }
