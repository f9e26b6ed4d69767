"""What is measured on a split of a prepared data set: a trained network, or predictions made elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mamba_unet.data.case import Case
from mamba_unet.data.checks import misplacement
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.evaluation.cases import Evaluation, evaluate_cases
from mamba_unet.evaluation.metrics import DEFAULT_ASD, DEFAULT_HD95
from mamba_unet.files import atomic_path
from mamba_unet.inference import Predictor
from mamba_unet.models.checkpoint import find_checkpoint
from mamba_unet.runs import RunFolder
from mamba_unet.volumes.formats import NIFTI, PICTURES, StoredImage, UnreadableError, ending, read_volume

PREDICTION_ENDINGS = (*NIFTI, ".npz", ".npy", *PICTURES)


def evaluate_checkpoint(
    checkpoint: str | Path,
    prepared: PreparedDataset,
    split: str = "test",
    out: str | Path | None = None,
    *,
    hd95: str = DEFAULT_HD95,
    asd: str = DEFAULT_ASD,
    device: str = "auto",
    progress: bool = False,
) -> Evaluation:
    """Segment and measure the cases of a split; write `predictions/<case>.npz` and the evaluation.

    Args:
        checkpoint: run folder or checkpoint.
        prepared: the data.
        split: which cases.
        out: folder to write; None takes `evaluation_<split>` beside the checkpoint.
        hd95, asd: conventions of the distances, see docs/metrics.md.
        device: as `inference.choose_device` takes it.
        progress: show a bar.

    Raises:
        ValueError: the network knows other classes than the data has, or was trained on a case of the split while
            the split's name ends in "test".
    """
    weights = find_checkpoint(checkpoint)
    out = evaluation_folder(checkpoint, split) if out is None else Path(out)
    identifiers = prepared.split(split)
    _refuse_leak(weights.parent, split, identifiers)
    predictor = Predictor(weights, device)
    _refuse_leak_of_lineage(checkpoint, predictor.metadata.lineage, split, prepared)
    if list(predictor.metadata.class_names) != prepared.class_names:
        raise ValueError(
            f"{checkpoint} knows the classes {', '.join(predictor.metadata.class_names)}; "
            f"{prepared.folder} has {', '.join(prepared.class_names)}"
        )

    def predict(case: Case) -> np.ndarray:
        label = predictor.predict_case(case)
        with atomic_path(out / "predictions" / f"{case.identifier}.npz") as temporary:
            np.savez_compressed(temporary, label=label)
        return label

    cases = (prepared.case(identifier) for identifier in identifiers)
    evaluation = evaluate_cases(predict, cases, prepared.class_names, hd95=hd95, asd=asd, progress=progress)
    evaluation.write(out)
    return evaluation


def evaluation_folder(checkpoint: str | Path, split: str) -> Path:
    """Where the evaluation of a checkpoint on a split is written unless told otherwise.

    Raises:
        ValueError: the checkpoint lies on the hub, where nothing is written.
    """
    weights = find_checkpoint(checkpoint)
    if not Path(checkpoint).exists():
        raise ValueError(f"{checkpoint} lies on the Hugging Face Hub: say where to write with --out FOLDER")
    return RunFolder(weights.parent).evaluation(split)


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
    known, identifiers = set(lineage), prepared.split(split)
    if leaked := [identifier for identifier in identifiers if prepared.image_hash(identifier) in known]:
        raise ValueError(
            f"{checkpoint}: {len(leaked)} cases of the split {split!r} were among those that this network, or one that "
            f"it was fine-tuned from, was trained or chosen on ({', '.join(leaked[:5])}"
            f"{', ...' if len(leaked) > 5 else ''}); measure it on patients that none of them has seen"
        )


def evaluate_predictions(
    folder: str | Path,
    prepared: PreparedDataset,
    split: str = "test",
    out: str | Path | None = None,
    *,
    hd95: str = DEFAULT_HD95,
    asd: str = DEFAULT_ASD,
    progress: bool = False,
) -> Evaluation:
    """Measure predictions that another program made, by the function that measures ours.

    Args:
        folder: one file `<case>.*` for every case of the split: class indices as NIfTI in the geometry of the source
            image, as picture, as `.npz` with an array `label`, or as `.npy`; the arrays (D, H, W), or (H, W) for D = 1.
        prepared: the data.
        split: which cases.
        out: folder to write the evaluation to; None writes nothing.
        hd95, asd: conventions of the distances, see docs/metrics.md.
        progress: show a bar.

    Raises:
        ValueError: predictions are missing (all are listed), there twice, or do not fit their case.
    """
    identifiers = prepared.split(split)
    files = find_predictions(folder, identifiers)

    def predict(case: Case) -> np.ndarray:
        return read_prediction(files[case.identifier], case)

    cases = (prepared.case(identifier) for identifier in identifiers)
    evaluation = evaluate_cases(predict, cases, prepared.class_names, hd95=hd95, asd=asd, progress=progress)
    if out is not None:
        evaluation.write(out)
    return evaluation


def find_predictions(folder: str | Path, identifiers: list[str]) -> dict[str, Path]:
    """Case -> its file in `folder`.

    Raises:
        ValueError: naming all the cases that have no file, or those that have several.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of predictions named by case, such as {identifiers[0]}.nii.gz")
    found: dict[str, list[Path]] = {identifier: [] for identifier in identifiers}
    for path in sorted(folder.iterdir()):
        if end := ending(path, PREDICTION_ENDINGS):
            found.get(path.name[: -len(end)], []).append(path)
    if missing := [identifier for identifier, paths in found.items() if not paths]:
        raise ValueError(
            f"{folder}: no prediction for {len(missing)} of {len(found)} cases: {', '.join(missing)}; "
            f"expected CASE with one of {', '.join(PREDICTION_ENDINGS)}"
        )
    if twice := [", ".join(path.name for path in paths) for paths in found.values() if len(paths) > 1]:
        raise ValueError(f"{folder}: several predictions of one case: {'; '.join(twice)}; keep one of each")
    return {identifier: path for identifier, (path,) in found.items()}


def read_prediction(file: Path, case: Case) -> np.ndarray:
    """The class indices of a prediction file, (D, H, W) as the case's image.

    Raises:
        UnreadableError: damaged, no whole numbers, or elsewhere in space than the case.
    """
    if ending(file, (".npy",)):
        try:
            array = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UnreadableError(file, f"{type(error).__name__}: {error}") from error
        volume = StoredImage(array[None] if array.ndim == 2 else array)
    else:
        volume = read_volume([file], "label")
    if volume.array.shape != case.image.shape:
        raise UnreadableError(
            file, f"shape {volume.array.shape}, expected {case.image.shape}, that of {case.identifier} (D, H, W)"
        )
    if (distance := misplacement(StoredImage(case.image, case.affine), volume)) > 0.1:
        raise UnreadableError(
            file,
            f"lies up to {distance:.3g} voxels from the image of {case.identifier}; expected its affine within 0.1 "
            "voxel: resample the prediction onto the image",
        )
    whole = np.rint(volume.array)
    if not np.array_equal(whole, volume.array) or whole.min() < 0 or whole.max() > 255:
        raise UnreadableError(file, "expected class indices, whole numbers from 0; take the argmax of probabilities")
    return whole.astype(np.uint8)
