"""Predictions that another program made: found, read and measured like ours. Arrays are (D, H, W)."""

import zipfile
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from unicodedata import normalize

import numpy as np

from mamba_unet.data.case import Case
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.evaluation.cases import evaluate_cases
from mamba_unet.evaluation.metrics import DEFAULT_CONVENTIONS, Conventions
from mamba_unet.evaluation.summary import MADE_BY, Evaluation, refuse_other_cases
from mamba_unet.volumes.formats import FILES, PICTURES, UnreadableError, ending
from mamba_unet.volumes.geometry import misplacement
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.volume import Volume


def evaluate_predictions(
    folder: str | Path,
    prepared: PreparedDataset,
    split: str = "test",
    out: str | Path | None = None,
    *,
    conventions: Conventions = DEFAULT_CONVENTIONS,
    progress: bool = False,
) -> Evaluation:
    """Measure predictions that another program made, by the function that measures ours.

    Args:
        folder: one file `<case>.*` for every case of the split: class indices as NIfTI in the geometry of the source
            image, as picture, as `.npz` with an array `label`, or as `.npy`; the arrays (D, H, W), or (H, W) for D = 1.
        prepared: the data.
        split: which cases.
        out: folder to write the evaluation to; None writes nothing.
        conventions: which HD95 and ASD, see docs/metrics.md.
        progress: show a bar.

    Raises:
        ValueError: predictions are missing (all are listed), there twice, or do not fit their case; `out` holds the
            evaluation of a checkpoint, whose numbers these are not, or one of other cases.
    """
    identifiers = prepared.split(split)
    if out is not None:
        if (Path(out) / MADE_BY).exists():
            raise ValueError(
                f"{out} holds the evaluation of a checkpoint of ours; write that of these predictions elsewhere"
            )
        refuse_other_cases(Path(out), identifiers)
    files = find_predictions(folder, identifiers)

    def predict(case: Case) -> np.ndarray:
        return read_prediction(files[case.identifier], case, values, reader)

    cases = (prepared.case(identifier) for identifier in identifiers)
    with Reader() as reader:
        values = picture_values(files.values(), prepared.label_values, reader)
        evaluation = evaluate_cases(predict, cases, prepared.class_names, conventions=conventions, progress=progress)
    if out is not None:
        evaluation.write(out)
    return evaluation


def find_predictions(folder: str | Path, identifiers: list[str]) -> dict[str, Path]:
    """Case -> its file in `folder`. The probabilities that nnU-Net writes beside a segmentation are passed over.

    Raises:
        ValueError: naming all the cases that have no file, or those that have several.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of predictions named by case, such as {identifiers[0]}.nii.gz")
    found: dict[str, list[Path]] = {identifier: [] for identifier in identifiers}
    for path in sorted(folder.iterdir()):
        if end := ending(path, FILES):
            found.get(normalize("NFC", path.name[: -len(end)]), []).append(path)
    for paths in found.values():
        if len(paths) > 1:
            paths[:] = [path for path in paths if not _is_probabilities(path)] or paths
    if missing := [identifier for identifier, paths in found.items() if not paths]:
        raise ValueError(
            f"{folder}: no prediction for {len(missing)} of {len(found)} cases: {', '.join(missing)}; "
            f"expected CASE with one of {', '.join(FILES)}"
        )
    if twice := [", ".join(path.name for path in paths) for paths in found.values() if len(paths) > 1]:
        raise ValueError(f"{folder}: several predictions of one case: {'; '.join(twice)}; keep one of each")
    return {identifier: path for identifier, (path,) in found.items()}


def _is_probabilities(path: Path) -> bool:
    """Whether nnU-Net wrote it with --save_probabilities."""
    if path.suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return archive.namelist() == ["probabilities.npy"]


def picture_values(files: Iterable[Path], label_values: Sequence[int], reader: Reader | None = None) -> Sequence[int]:
    """The value of each class in the pictures among these predictions; empty where they hold class indices.

    All are looked at together: one that shows few of the classes may be read in either way, and not be told.

    Args:
        files: of all cases.
        label_values: the stored value of each class in the data's masks.
        reader: see `read_prediction`.

    Raises:
        ValueError: nothing tells which they hold, and it matters.
    """
    pictures = [file for file in files if ending(file, PICTURES)]
    if list(label_values) == list(range(len(label_values))):
        return ()
    found: set[float] = set()
    for file in pictures:
        found.update(np.unique(_read(file, reader).array).tolist())
    if not found <= set(label_values):
        return ()
    if max(found, default=0) >= len(label_values):
        return label_values
    if all(label_values[int(value)] == value for value in found):
        return ()
    raise ValueError(
        f"{pictures[0].parent}: the values {', '.join(f'{value:g}' for value in sorted(found))} of the pictures may be "
        f"class indices, or values of the masks, which are {', '.join(map(str, label_values))}; the classes would be "
        "others. Save class indices as .npz with an array `label`, as .npy or as NIfTI"
    )


def _read(file: Path, reader: Reader | None) -> Volume:
    read = partial(read_volume, file, "label")
    return read() if reader is None else reader.read(read, file)


def read_prediction(file: Path, case: Case, values: Sequence[int] = (), reader: Reader | None = None) -> np.ndarray:
    """The class indices of a prediction file, (D, H, W) as the case's image.

    Args:
        file: with class indices, or a picture with the values of the data's masks, as `predict` writes pictures.
        case: whose prediction it is.
        values: of each class in a picture, see `picture_values`.
        reader: a process to read in, for files that may end it.

    Raises:
        UnreadableError: damaged, no whole numbers, or elsewhere in space than the case.
    """
    volume = _read(file, reader)
    expected = case.image.shape[1:]  # without channels
    if volume.array.shape != (1, 1, *expected):
        found = volume.shape if volume.frames == 1 else (volume.frames, *volume.shape)
        raise UnreadableError(file, f"shape {found}, expected {expected}, that of {case.identifier} (D, H, W)")
    if (distance := misplacement(Volume(case.identifier, case.image[None], case.affine), volume)) > 0.1:
        raise UnreadableError(
            file,
            f"lies up to {distance:.3g} voxels from the image of {case.identifier}; expected its affine within 0.1 "
            "voxel: resample the prediction onto the image",
        )
    array = volume.grey[0]
    whole = np.rint(array)
    if not np.array_equal(whole, array) or whole.min() < 0 or whole.max() > 255:
        raise UnreadableError(file, "expected class indices, whole numbers from 0; take the argmax of probabilities")
    if len(values) and ending(file, PICTURES):
        index = {value: number for number, value in enumerate(values)}
        whole = np.vectorize(index.__getitem__, otypes=[np.uint8])(whole.astype(int))
    return whole.astype(np.uint8)
