"""What a run folder holds, gathered for its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.drawing.figures import Curves, read_curves
from mamba_unet.evaluation.summary import MADE_BY, SUMMARY, Evaluation
from mamba_unet.files import read_record
from mamba_unet.runs import RunFolder

if TYPE_CHECKING:
    from mamba_unet.data.prepared import PreparedDataset
    from mamba_unet.models.checkpoint import CheckpointMetadata


@dataclass(frozen=True)
class Run:
    """What a run folder holds; what is absent is None or empty.

    Attributes:
        folder: that `train` wrote.
        recipe: recipe.yaml as text and as a mapping.
        split: split -> identifiers of its cases.
        annotation, versions, progress: as `train` wrote them.
        curves: of the logs.
        checkpoint: the metadata of best.safetensors.
        evaluation: the one reported.
        evaluation_dir: where it lies.
        prepared: the data.
        why_no_data: why `prepared` is None.
    """

    folder: Path
    recipe_text: str
    recipe: Mapping[str, Any]
    split: Mapping[str, Sequence[str]]
    annotation: Mapping[str, Any]
    versions: Mapping[str, Any]
    progress: Mapping[str, Any]
    curves: Curves
    checkpoint: "CheckpointMetadata | None"
    evaluation: Evaluation | None
    evaluation_dir: Path | None
    prepared: "PreparedDataset | None"
    why_no_data: str
    is_current: bool

    @property
    def model(self) -> str:
        """The network that is evaluated, where several learned together."""
        return self.checkpoint.model if self.checkpoint else self.recipe["model"]["name"]

    @property
    def class_names(self) -> Sequence[str]:
        for source in (self.evaluation, self.checkpoint):
            if source is not None:
                return source.class_names
        return ()

    @property
    def dataset(self) -> str:
        for name in (self.prepared and self.prepared.name, self.checkpoint and self.checkpoint.dataset):
            if name:
                return name
        return Path(self.recipe.get("data") or "unknown data").name

    @property
    def split_title(self) -> str:
        """What was evaluated, "test cases"."""
        name = self.evaluation_dir.name
        return f"{name.removeprefix('evaluation_')} cases" if name.startswith("evaluation_") else name

    @property
    def synthetic(self) -> bool:
        """Whether the data calls itself synthetic; without the data, whether it is named as our phantom is."""
        if self.prepared is not None:
            return "synthetic" in f"{self.prepared.name} {self.prepared.description}".lower()
        return "phantom" in self.dataset.lower() or "synthetic" in self.dataset.lower()

    def prediction_path(self, case: str) -> Path:
        return self.evaluation_dir / "predictions" / f"{case}.npz"

    def prediction(self, case: str) -> np.ndarray:
        """The stored prediction of an evaluated case, (D, H, W)."""
        with np.load(self.prediction_path(case)) as file:
            return file["label"]

    def with_pictures(self) -> list[str] | str:
        """Evaluated cases whose image, label and prediction are all at hand; or the sentence that says why none are."""
        if self.prepared is None:
            return f"No pictures: the images are not at hand ({self.why_no_data})."
        if not (self.evaluation_dir / "predictions").is_dir():
            return "No pictures: the evaluation kept no predictions; run `mamba-unet evaluate` again."
        known = set(self.prepared.identifiers)
        cases = [
            case
            for case in self.evaluation.cases
            if case in known
            and self.prediction_path(case).is_file()
            and self.prediction(case).shape == self.prepared.shape(case)[-3:]
        ]
        return cases or f"No pictures: the evaluated cases are not those in {self.prepared.folder}."

    def patients(self, cases: Sequence[str]) -> list[str]:
        """Whose cases these are; empty without the data."""
        if self.prepared is None:
            return []
        members = set(cases)
        return [patient for patient, theirs in self.prepared.patients.items() if members & set(theirs)]


def read_run(run_dir: str | Path, evaluation_dir: str | Path | None = None) -> Run:
    """Gather what a run folder holds.

    Raises:
        ValueError: `run_dir` is no run folder, or `evaluation_dir` no evaluation.
    """
    import yaml

    folder = RunFolder(run_dir)
    recipe_text = folder.read_recipe()
    recipe = yaml.safe_load(recipe_text)

    if evaluation_dir is None:
        found = list(folder.evaluations.values())
        evaluation_dir = next(filter(folder.is_current, found), next(iter(found), None))
    elif not (Path(evaluation_dir) / SUMMARY).is_file():
        raise ValueError(f"{evaluation_dir}: expected what `mamba-unet evaluate` writes, but {SUMMARY} is not there")

    checkpoint = None
    if folder.best.is_file():
        from mamba_unet.models.checkpoint import read_metadata

        checkpoint = read_metadata(folder.best)
    prepared, why_no_data = None, ""
    try:
        from mamba_unet.data.prepared import PreparedDataset

        prepared = PreparedDataset(recipe["data"])
    except ValueError as error:
        why_no_data = str(error)
    made = read_record(Path(evaluation_dir) / MADE_BY) if evaluation_dir is not None else {}
    measured = made.get("fingerprint") or (checkpoint and checkpoint.fingerprint)
    if prepared is not None and measured and measured != prepared.fingerprint:
        prepared, why_no_data = None, f"{prepared.folder} holds other data than were measured; evaluate on them again"

    return Run(
        folder=folder.path,
        recipe_text=recipe_text,
        recipe=recipe,
        split=folder.read_split(),
        annotation=folder.read_annotation(),
        versions=folder.read_versions(),
        progress=folder.read_progress(),
        curves=read_curves(folder.metrics),
        checkpoint=checkpoint,
        evaluation=None if evaluation_dir is None else Evaluation.read(evaluation_dir),
        evaluation_dir=None if evaluation_dir is None else Path(evaluation_dir),
        prepared=prepared,
        why_no_data=why_no_data,
        is_current=evaluation_dir is None or folder.is_current(Path(evaluation_dir)),
    )
