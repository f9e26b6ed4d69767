"""A run folder: the one place that spells the names of its files and reads its JSON.

recipe.yaml          the recipe, every key resolved
split.json           split -> identifiers of its cases
annotation.json      whose labels or scribbles training learns from, and whose images without
versions.json        versions and hardware
pretrained.txt       what a pretrained checkpoint filled, where there was one
logs/ tensorboard/   losses and validation, as CSV and for TensorBoard
curves.png           the same as a figure
progress.json        how far the training is
best.safetensors     the weights that did best on the validation patients
best_<name>.safetensors  the same of each other network that was trained beside it, for objectives with several
pseudo_labels/       what was taken for labels, at three moments of the training
last.ckpt            what --resume goes on from; previous.ckpt is the one before
evaluation_<split>/  what `evaluate` wrote, with predictions/<case>.npz
report.html          what `report` wrote
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mamba_unet.evaluation.summary import MADE_BY
from mamba_unet.files import LOCK, locked, read_json, read_record, remove_temporaries, sha256
from mamba_unet.models.checkpoint import FILE_NAMES, read_metadata

REMEDY = "remove it where the rest of the run is whole, or train into another --out"  # of what is damaged


class RunFolder:
    """The files of one training run.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.split = self.path / "split.json"
        self.annotation = self.path / "annotation.json"
        self.versions = self.path / "versions.json"
        self.pretrained = self.path / "pretrained.txt"
        self.progress = self.path / "progress.json"
        self.curves = self.path / "curves.png"
        self.best = self.path / FILE_NAMES[0]
        self.last = self.path / "last.ckpt"
        self.previous = self.path / "previous.ckpt"
        self.report = self.path / "report.html"

    def best_of(self, name: str) -> Path:
        """Where the weights of another network than the one in `best` are kept."""
        return self.path / f"best_{name}.safetensors"

    def pseudo_labels(self, moment: int) -> Path:
        """What was taken for labels at a moment of the training, counted from 0."""
        return self.path / "pseudo_labels" / f"moment_{moment}.npz"

    def __str__(self) -> str:
        return str(self.path)

    @property
    def exists(self) -> bool:
        """Whether a training was begun here."""
        return self.recipe.is_file()

    def read_recipe(self) -> str:
        """The text of recipe.yaml. Raises ValueError where no training was begun, or it is damaged."""
        if not self.exists:
            raise ValueError(
                f"{self}: expected a run folder that `mamba-unet train` wrote, but {self.recipe.name} is not there"
            )
        try:
            return self.recipe.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.recipe}: damaged, expected text in UTF-8; copy it again") from error

    def read_split(self) -> dict[str, list[str]]:
        """Split -> identifiers of its cases; empty where it is not written. Raises ValueError where it is damaged."""
        splits = _read_json(self.split)
        if wrong := [name for name, cases in splits.items() if not isinstance(cases, list)]:
            raise ValueError(f"{self.split}: damaged, {wrong[0]!r} is no list of cases; {REMEDY}")
        return splits

    def read_annotation(self) -> dict[str, Any]:
        """As `training.batches.TrainingData.describe` says it; empty where it is not written."""
        return _read_json(self.annotation)

    def read_versions(self) -> dict[str, Any]:
        """Versions and hardware; empty where they are not written."""
        return _read_json(self.versions)

    def read_progress(self) -> dict[str, Any]:
        """`iteration`, `iterations`, `hours`, ...; empty before the first validation, or where it cannot be read."""
        return read_record(self.progress)

    @property
    def is_complete(self) -> bool:
        """Whether the training reached its last iteration, or the end of its time, and was validated there."""
        progress = self.read_progress()
        if not progress or progress.get("validated", progress["iteration"]) != progress["iteration"]:
            return False
        return progress["iteration"] == progress["iterations"] or progress.get("out_of_time", False)

    @property
    def metrics(self) -> list[Path]:
        """The CSV logs, one for each start of the training."""
        return list(self.path.glob("logs/version_*/metrics.csv"))

    def evaluation(self, split: str) -> Path:
        """Where the evaluation of a split is written; `fold0/test` becomes `evaluation_fold0_test`."""
        return self.path / f"evaluation_{split.replace('/', '_')}"

    @property
    def evaluations(self) -> dict[str, Path]:
        """Split as folder names spell it -> folder, of the evaluations that are finished; the test split first."""
        folders = sorted(path.parent for path in self.path.glob("evaluation_*/summary.json"))
        named = {folder.name.removeprefix("evaluation_"): folder for folder in folders}
        return dict(sorted(named.items(), key=lambda item: item[0] != "test"))

    def is_current(self, evaluation: Path) -> bool:
        """Whether an evaluation is of the best checkpoint as it is, on the data of the training; True where nothing
        tells."""
        made = read_record(evaluation / MADE_BY)
        if not made or not self.best.is_file():
            return True
        metadata = read_metadata(self.best)
        weights = sha256([self.best])
        same_data = metadata is None or made.get("fingerprint") == metadata.fingerprint
        return made.get("checkpoint_sha256") == weights and same_data

    def remove_temporaries(self) -> None:
        """Remove the half-written files of a run that was killed."""
        for folder in (self.path, self.pseudo_labels(0).parent):
            remove_temporaries(folder)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder, so that no second training writes into it. The system frees it when the process ends.

        Raises:
            ValueError: another process holds it; the message names process and host.
        """
        with locked(self.path, "training", "wait for it to end, or choose another --out"):
            yield

    def lock_host(self) -> str:
        """The machine whose process says that it holds the folder; empty where none does."""
        with suppress(OSError):
            return (self.path / LOCK).read_text(encoding="utf-8").rpartition(" on ")[2].strip()
        return ""

    def break_lock(self) -> None:
        """Free the folder where its holder is known to be dead: a network's file system may not notice."""
        (self.path / LOCK).unlink(missing_ok=True)


def find_runs(folder: str | Path) -> list[RunFolder]:
    """The runs with a trained network that lie in a folder, by name."""
    return [RunFolder(path.parent) for path in sorted(Path(folder).glob(f"*/{FILE_NAMES[0]}"))]


def _read_json(path: Path) -> dict[str, Any]:
    """Empty where there is no such file. Raises ValueError where it is damaged."""
    return read_json(path, REMEDY) if path.is_file() else {}
