"""The cases of a prepared data set with something else in the place of their label."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from mamba_unet.data.case import Case
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.views.labels import IGNORE


class Annotated:
    """Cases whose label is another annotation of them.

    Args:
        prepared: the data set.
        annotation: "scribble"; or None: `IGNORE` everywhere, so that nothing of a label that may be there shows, not
            even in where windows are cut.
    """

    def __init__(self, prepared: PreparedDataset, annotation: str | None) -> None:
        self.prepared, self.annotation = prepared, annotation

    @property
    def folder(self) -> Path:
        return self.prepared.folder

    def shape(self, identifier: str) -> tuple[int, int, int]:
        return self.prepared.shape(identifier)

    def spacing_mm(self, identifier: str) -> tuple[float, float, float] | None:
        return self.prepared.spacing_mm(identifier)

    def content_hash(self, identifier: str) -> str:
        """Of the image and what stands for its label."""
        shown = self.prepared.marked([identifier], self.annotation)[1] if self.annotation else "nothing"
        return hashlib.sha256(f"{self.prepared.content_hash(identifier)} {shown}".encode()).hexdigest()

    def case(self, identifier: str) -> Case:
        if self.annotation:
            label = self.prepared.annotation(identifier, self.annotation)
        else:
            label = np.broadcast_to(np.uint8(IGNORE), self.prepared.shape(identifier))
        return replace(self.prepared.case(identifier), label=label)
