"""A trained network measured on a split of a prepared data set."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mamba_unet.data.case import Case
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.evaluation.cases import evaluate_cases
from mamba_unet.evaluation.metrics import DEFAULT_CONVENTIONS, Conventions
from mamba_unet.evaluation.summary import MADE_BY, SUMMARY, Evaluation, refuse_other_cases
from mamba_unet.files import STALE_S, atomic_path, remove_temporaries, write_json
from mamba_unet.inference import Predictor
from mamba_unet.models.checkpoint import HUB, find_checkpoint, read_metadata
from mamba_unet.runs import RunFolder


def evaluate_checkpoint(
    checkpoint: str | Path,
    prepared: PreparedDataset,
    split: str = "test",
    out: str | Path | None = None,
    *,
    conventions: Conventions = DEFAULT_CONVENTIONS,
    device: str = "auto",
    progress: bool = False,
) -> Evaluation:
    """Segment and measure the cases of a split; write `predictions/<case>.npz` and the evaluation.

    Args:
        checkpoint: run folder or checkpoint.
        prepared: the data.
        split: which cases.
        out: folder to write; None takes `evaluation_<split>` beside the checkpoint, with the data set's name in it
            where it is not the one of the training.
        conventions: which HD95 and ASD, see docs/metrics.md.
        device: as `inference.choose_device` takes it.
        progress: show a bar.

    Raises:
        ValueError: the network knows other classes or intensities than the data has, or was trained on a case of the
            split while the split's name ends in "test"; `out` holds an evaluation of other cases.
    """
    weights = find_checkpoint(checkpoint)
    identifiers = prepared.split(split)
    if out is None:
        out = evaluation_folder(checkpoint, split, prepared)
    else:
        refuse_other_cases(out := Path(out), identifiers)
    _refuse_leak(weights.parent, split, identifiers)
    predictor = Predictor(weights, device)
    _refuse_leak_of_lineage(checkpoint, predictor.metadata.lineage, split, prepared)
    predictor.require_data(prepared)

    def predict(case: Case) -> np.ndarray:
        label = predictor.predict_case(case)
        for name in (MADE_BY, SUMMARY):  # unfinished from here on: its files may be of two evaluations
            (out / name).unlink(missing_ok=True)
        with atomic_path(out / "predictions" / f"{case.identifier}.npz") as temporary:
            np.savez_compressed(temporary, label=label)
        return label

    cases = (prepared.case(identifier) for identifier in identifiers)
    evaluation = evaluate_cases(predict, cases, prepared.class_names, conventions=conventions, progress=progress)
    for folder in (out, out / "predictions"):
        remove_temporaries(folder, STALE_S)
    evaluation.write(out)
    write_json(out / MADE_BY, made_by(predictor.hashes[0], prepared))
    return evaluation


def made_by(checkpoint_sha256: str, prepared: PreparedDataset) -> dict[str, str | None]:
    """What tells an evaluation from another of the same split: the checkpoint's content and the data's."""
    return {"checkpoint_sha256": checkpoint_sha256, **data_of(prepared)}


def data_of(prepared: PreparedDataset) -> dict[str, str | None]:
    """The part of `made_by` that tells the data."""
    return {"data": prepared.name, **prepared.identity}


def evaluation_folder(checkpoint: str | Path, split: str, prepared: PreparedDataset) -> Path:
    """Where the evaluation of a checkpoint on a split is written unless told otherwise.

    Other data than that of the training has its name in it, so that one result does not overwrite the other.

    Raises:
        ValueError: the checkpoint lies on the hub or ships with the package, where nothing is written.
    """
    weights = find_checkpoint(checkpoint)
    if weights.parent != Path(checkpoint) and weights != Path(checkpoint):
        where = "lies on the Hugging Face Hub" if str(checkpoint).startswith(HUB) else "ships with the package"
        raise ValueError(f"{checkpoint} {where}: say where to write with --out FOLDER")
    metadata = read_metadata(weights)
    own = metadata is None or metadata.fingerprint in ("", prepared.fingerprint)
    network = weights.stem.removeprefix("best_") + "_" if weights.stem.startswith("best_") else ""  # beside the best
    other = f"{re.sub(r'[^A-Za-z0-9.-]+', '-', prepared.name)}-{prepared.fingerprint[:8]}_"
    return RunFolder(weights.parent).evaluation(network + (split if own else other + split))


def _refuse_leak(run: Path, split: str, identifiers: list[str]) -> None:
    """A split that calls itself test holds no case that the run in this folder, if it is one, trained or chose on."""
    if not split.endswith("test"):
        return
    before = RunFolder(run).read_split()
    for name in ("train", "val"):
        if leaked := sorted(set(identifiers) & set(before.get(name, ()))):
            raise ValueError(
                f"{run}: {len(leaked)} cases of the split {split!r} were in the split {name!r} when this network was "
                f"trained ({', '.join(leaked[:5])}{', ...' if len(leaked) > 5 else ''}); measure it on the split of "
                "its own training (a fold's is --split fold0/test, ...)"
            )


def _refuse_leak_of_lineage(
    checkpoint: str | Path, lineage: Sequence[str], split: str, prepared: PreparedDataset
) -> None:
    """Nor one that a network it started from was trained or chosen on, whatever the case was called there."""
    if not split.endswith("test"):
        return
    if leaked := prepared.seen_by(lineage, prepared.split(split)):
        raise ValueError(
            f"{checkpoint}: {len(leaked)} cases of the split {split!r} were among those that this network, or one that "
            f"it was fine-tuned from, was trained or chosen on ({', '.join(leaked[:5])}"
            f"{', ...' if len(leaked) > 5 else ''}); measure it on patients that none of them has seen"
        )
