"""Cases in, evaluation out: the one function that validation during training, `evaluate` and `compare` share."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.evaluation.metrics import (
    DEFAULT_CONVENTIONS,
    Conventions,
    ignored_pixels,
    segmentation_metrics,
    slice_dice,
)
from mamba_unet.evaluation.summary import Evaluation

if TYPE_CHECKING:
    from mamba_unet.data.case import Case


def evaluate_cases(
    predict: "Callable[[Case], np.ndarray]",
    cases: "Iterable[Case]",
    class_names: Sequence[str],
    *,
    conventions: Conventions = DEFAULT_CONVENTIONS,
    distances: bool = True,
    progress: bool = False,
) -> Evaluation:
    """Predict every case and measure each foreground class in it.

    Args:
        predict: case -> class indices (D, H, W), in the shape of the case's label.
        cases: labelled cases, taken one at a time. Label value 255 marks pixels without ground truth.
        class_names: [0] is the background, which is not measured.
        conventions: which HD95 and ASD.
        distances: False leaves them out, as validation during training does.
        progress: show a bar on stderr.

    Raises:
        ValueError: naming the case that has no label, is there twice, or whose prediction does not fit its label.
    """
    rows: list[dict[str, Any]] = []
    slice_rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    if progress:
        from tqdm import tqdm

        cases = tqdm(cases, desc="evaluate", unit="case")
    for case in cases:
        if case.label is None:
            raise ValueError(f"{case.identifier}: no label to measure against; `predict` needs none, `evaluate` does")
        if case.identifier in seen:
            raise ValueError(f"{case.identifier}: the case came twice and would be counted twice")
        seen.add(case.identifier)
        prediction = predict(case)
        if tuple(prediction.shape) != case.label.shape:
            raise ValueError(
                f"{case.identifier}: prediction has shape {tuple(prediction.shape)}, its label {case.label.shape}; "
                "resample the prediction to the case's own grid"
            )
        try:
            measured = segmentation_metrics(
                prediction,
                case.label,
                case.spacing_mm,
                len(class_names),
                conventions=conventions,
                distances=distances,
            )
        except ValueError as error:
            raise ValueError(f"{case.identifier}: {error}") from error
        where = {"case": case.identifier, "patient": case.patient}
        ignored = {"ignored_pixels": int(np.count_nonzero(ignored_pixels(case.label, len(class_names))))}
        unit = {"distance_unit": "voxels" if case.spacing_mm is None else "mm"} if distances else {}
        for index, values in measured.items():
            rows.append({**where, "class": index, "class_name": class_names[index], **ignored, **unit, **values})
        by_slice = slice_dice(prediction, case.label, len(class_names))
        for position, values in enumerate(by_slice.tolist()):
            for index, dice in enumerate(values, start=1):
                slice_rows.append(
                    {**where, "slice": position, "class": index, "class_name": class_names[index], "dice": dice}
                )
    return Evaluation(tuple(class_names), conventions if distances else None, rows, slice_rows)
