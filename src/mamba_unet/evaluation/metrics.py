"""Overlap and surface-distance metrics of label maps.

D slices, H W rows and columns, K classes (0 is background), S surface voxels.

Empty masks, one rule for all: where a class is absent from prediction and label alike, its overlap ratios and
distances are undefined (NaN); where it is absent from one of them, its overlap ratios are 0 and its distances infinite.

Pixels without ground truth (label value `IGNORE`, 255) are not counted; for the distances prediction and label are
both background there. docs/metrics.md gives formulas and reasons.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mamba_unet.views.labels import IGNORE

OVERLAP_METRICS = ("dice", "iou", "accuracy", "precision", "sensitivity", "specificity")
DISTANCE_METRICS = ("hd95", "asd")

METRIC_TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "hd95": "HD95",
    "asd": "ASD",
}

EMPTY_MASK_POLICY = (
    "Empty masks: a class absent from label and prediction is undefined and not counted; "
    "absent from one of them, its overlap is 0 and its distances are infinite. "
    "Means of distances are over the finite ones; the others are counted beside them."
)

# Conventions by name; `forward` holds the distances of the prediction's surface voxels to the label's surface,
# `backward` those of the label's surface voxels to the prediction's.
HD95_CONVENTIONS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "hd95_max_of_directed_percentiles": lambda forward, backward: max(
        np.percentile(forward, 95), np.percentile(backward, 95)
    ),
    "hd95_of_pooled_distances": lambda forward, backward: np.percentile(np.concatenate([forward, backward]), 95),
    "hd": lambda forward, backward: max(forward.max(), backward.max()),
}
ASD_CONVENTIONS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "assd_pooled": lambda forward, backward: (forward.sum() + backward.sum()) / (forward.size + backward.size),
    "assd_mean_of_directed_means": lambda forward, backward: (forward.mean() + backward.mean()) / 2,
    "asd_prediction_to_label": lambda forward, backward: forward.mean(),
}


@dataclass(frozen=True)
class Conventions:
    """Which definition of each distance is computed; docs/metrics.md compares them.

    Attributes:
        hd95: a name in `HD95_CONVENTIONS`; the default is the paper's eq. 8.
        asd: a name in `ASD_CONVENTIONS`; the default is the paper's eq. 9.

    Raises:
        ValueError: a name is unknown.
    """

    hd95: str = "hd95_max_of_directed_percentiles"
    asd: str = "assd_pooled"

    def __post_init__(self) -> None:
        for metric, name, known in (("hd95", self.hd95, HD95_CONVENTIONS), ("asd", self.asd, ASD_CONVENTIONS)):
            if name not in known:
                raise ValueError(f"unknown {metric} convention {name!r}; choose one of {', '.join(known)}")

    def distances(self, forward: np.ndarray, backward: np.ndarray) -> dict[str, float]:
        """HD95 and ASD from both directed distances: NaN if both surfaces are empty, infinite if one is."""
        if not (forward.size and backward.size):
            return dict.fromkeys(DISTANCE_METRICS, np.inf if forward.size or backward.size else np.nan)
        return {
            "hd95": float(HD95_CONVENTIONS[self.hd95](forward, backward)),
            "asd": float(ASD_CONVENTIONS[self.asd](forward, backward)),
        }


DEFAULT_CONVENTIONS = Conventions()


def metric_title(metric: str, distance_unit: str | None = None) -> str:
    """The metric's name as a column's title; a distance with its unit."""
    title = METRIC_TITLES[metric]
    return f"{title} ({distance_unit})" if distance_unit and metric in DISTANCE_METRICS else title


def segmentation_metrics(
    prediction: np.ndarray,
    label: np.ndarray,
    spacing_mm: Sequence[float] | None = None,
    num_classes: int | None = None,
    *,
    conventions: Conventions = DEFAULT_CONVENTIONS,
    distances: bool = True,
) -> dict[int, dict[str, float]]:
    """The paper's eight metrics of every foreground class.

    A 2D image stored as one slice, (1, H, W), is measured in its plane: axes of length one have no surface.

    Args:
        prediction: class indices, (H, W) or (D, H, W); a NumPy array or a torch tensor of integers.
        label: class indices, same shape; 255 marks pixels without ground truth.
        spacing_mm: voxel size per axis, in array order; None leaves distances in voxels.
        num_classes: K with background; None takes one more than the highest index present.
        conventions: which HD95 and ASD.
        distances: False leaves out `hd95` and `asd`, which take most of the time.

    Returns:
        {class index: {dice, iou, accuracy, precision, sensitivity, specificity, hd95, asd}} for classes 1 to K - 1.
        A class absent from both maps has NaN (accuracy and specificity stay defined); absent from one of them,
        dice, iou, precision and sensitivity are 0 and distances inf.

    Raises:
        ValueError: shapes or dtypes do not fit, or an index is outside 0..K-1.

    Source: Mamba-UNet (arXiv 2402.05079), eq. 3 to 9.
    """
    maps = _label_maps(prediction, label, num_classes)
    spacing = _spacing(spacing_mm, maps.label.ndim)

    box = _foreground_box(maps.prediction, maps.label)
    inside = maps.prediction[box], maps.label[box]
    counts = _confusion(*inside, maps.num_classes).sum(axis=0)  # (K, K)
    counts[0, 0] += maps.label.size - inside[0].size - maps.ignored
    results = _overlap(counts)
    if distances:
        # an image of one pixel has no longer axis; its pixel is its surface
        axes = [axis for axis, length in enumerate(maps.label.shape) if length > 1] or range(maps.label.ndim)
        for index, directed in _surface_distances(*inside, spacing, maps.num_classes, axes).items():
            results[index] |= conventions.distances(*directed)
    return results


def slice_dice(prediction: np.ndarray, label: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """Dice of every slice on its own, as in the paper's Figure 6.

    Args:
        prediction: class indices, (D, H, W).
        label: class indices, same shape; 255 marks pixels without ground truth.
        num_classes: K with background; None takes one more than the highest index present.

    Returns:
        (D, K - 1): NaN where a class is absent from both maps of a slice, 0 where it is absent from one.

    Raises:
        ValueError: as `segmentation_metrics`, and for arrays that are not (D, H, W).
    """
    maps = _label_maps(prediction, label, num_classes)
    if maps.label.ndim != 3:
        raise ValueError(f"slice-wise Dice needs arrays of (D, H, W), got shape {maps.label.shape}")
    counts = _confusion(maps.prediction, maps.label, maps.num_classes)  # (D, K, K)
    both = counts.diagonal(axis1=1, axis2=2)
    return ratio(2 * both, counts.sum(axis=1) + counts.sum(axis=2))[:, 1:]


def ignored_pixels(label: np.ndarray, num_classes: int | None) -> np.ndarray:
    """Where a label map says that there is no ground truth; nowhere if 255 is a class of its own."""
    return label == IGNORE if num_classes is None or num_classes <= IGNORE else np.zeros(label.shape, bool)


class _Maps(NamedTuple):
    """Both maps in one small integer type; the ignored pixels are counted, and background in both."""

    prediction: np.ndarray
    label: np.ndarray
    num_classes: int
    ignored: int


def _label_maps(prediction, label, num_classes: int | None) -> _Maps:
    """Both maps, checked."""
    maps = {
        name: values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
        for name, values in (("prediction", prediction), ("label", label))
    }
    shape = maps["label"].shape
    if maps["prediction"].shape != shape:
        raise ValueError(f"prediction and label differ in shape: {maps['prediction'].shape} and {shape}")
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"expected label maps of (H, W) or (D, H, W), got shape {shape}")
    for name, values in maps.items():
        if values.dtype.kind not in "iub":
            raise ValueError(f"{name} holds {values.dtype}; expected class indices (argmax over the class axis)")
    ignored = ignored_pixels(maps["label"], num_classes)
    count = int(np.count_nonzero(ignored))
    if count:
        maps = {name: np.where(ignored, 0, values) for name, values in maps.items()}
    if num_classes is None:
        num_classes = int(max(values.max() for values in maps.values())) + 1
    for name, values in maps.items():
        for value in (int(values.min()), int(values.max())):
            if not 0 <= value < num_classes:
                raise ValueError(f"{name} value {value} is not in 0..{num_classes - 1} (num_classes={num_classes})")
    dtype = np.min_scalar_type(num_classes - 1)
    checked = (maps[name].astype(dtype, copy=False) for name in ("prediction", "label"))
    return _Maps(*checked, num_classes, count)


def _spacing(spacing_mm: Sequence[float] | None, ndim: int) -> np.ndarray:
    if spacing_mm is None:
        return np.ones(ndim)
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.shape != (ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(f"spacing_mm must be {ndim} positive numbers in array order, got {spacing_mm!r}")
    return spacing


def _foreground_box(prediction: np.ndarray, label: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around what is foreground in either map; the first voxel if nothing is."""
    foreground = (prediction | label) != 0
    box = []
    for axis in range(foreground.ndim):
        present = np.flatnonzero(foreground.any(axis=tuple(a for a in range(foreground.ndim) if a != axis)))
        box.append(slice(present[0], present[-1] + 1) if present.size else slice(0, 1))
    return tuple(box)


def _confusion(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """Voxel counts (D, K, K), indexed by slice (the first axis), label and prediction."""
    slices = np.arange(label.shape[0]).reshape(-1, *[1] * (label.ndim - 1))
    pairs = (slices * num_classes + label) * num_classes + prediction
    counts = np.bincount(pairs.ravel(), minlength=label.shape[0] * num_classes**2)
    return counts.reshape(-1, num_classes, num_classes)


def _overlap(counts: np.ndarray) -> dict[int, dict[str, float]]:
    """The overlap metrics of every foreground class from counts (K, K) of label by prediction."""
    tp = counts.diagonal()
    fp = counts.sum(axis=0) - tp
    fn = counts.sum(axis=1) - tp
    tn = counts.sum() - tp - fp - fn
    # With one mask empty, precision or sensitivity is 0 / 0: a missed or an invented structure, hence 0 and not NaN.
    present = (tp + fp + fn > 0).astype(int)
    metrics = {
        "dice": ratio(2 * tp, 2 * tp + fp + fn),
        "iou": ratio(tp, tp + fp + fn),
        "accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "precision": ratio(tp, np.maximum(tp + fp, present)),
        "sensitivity": ratio(tp, np.maximum(tp + fn, present)),
        "specificity": ratio(tn, tn + fp),
    }
    return {index: {name: float(values[index]) for name, values in metrics.items()} for index in range(1, len(counts))}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(denominator), np.nan), where=denominator > 0)


def _surface_distances(
    prediction: np.ndarray, label: np.ndarray, spacing: np.ndarray, num_classes: int, axes: Sequence[int]
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Per foreground class the distances of prediction surface to label surface (S_p,) and back (S_l,)."""
    on_surface = _surface(prediction, axes), _surface(label, axes)
    shared = on_surface[0] & on_surface[1] & (prediction == label)  # at distance 0, known without a search
    surfaces = []
    for values, mask in zip((prediction, label), on_surface, strict=True):
        where = np.nonzero(mask & (values != 0))
        surfaces.append((np.stack(where, axis=-1) * spacing, values[where], shared[where]))

    distances = {}
    for index in range(1, num_classes):
        (ours, ours_shared), (theirs, theirs_shared) = (
            (points[classes == index], in_both[classes == index]) for points, classes, in_both in surfaces
        )
        distances[index] = _to_nearest(ours, theirs, ours_shared), _to_nearest(theirs, ours, theirs_shared)
    return distances


def _surface(labels: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Voxels with a face neighbour of another value along one of `axes`; beyond the border lies background.

    For each class that is its mask minus the mask's erosion by a cross, found for all classes in one pass.
    """
    surface = np.zeros(labels.shape, dtype=bool)
    for axis in axes:
        values, marks = np.moveaxis(labels, axis, 0), np.moveaxis(surface, axis, 0)  # views
        changes = values[1:] != values[:-1]
        marks[1:] |= changes
        marks[:-1] |= changes
        for end in (0, -1):
            marks[end] |= values[end] != 0
    return surface


def _to_nearest(points: np.ndarray, others: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Distance (S,) of each point (S, ndim) to the nearest of `others`, inf if there are none.

    A k-d tree: on ACDC as fast as a distance transform of the box, and empty space, as in a large CT, costs nothing.
    """
    from scipy.spatial import KDTree

    if not len(others):
        return np.full(len(points), np.inf)
    distances = np.zeros(len(points))
    if not shared.all():
        distances[~shared] = KDTree(others, balanced_tree=False).query(points[~shared])[0]
    return distances
