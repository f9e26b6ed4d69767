"""The eight metrics of the ACDC test patients: ours and MedPy's, the same values, in one run.

    python benchmarks/metrics.py ../shared/data/acdc

takes the 20 test patients' labels (40 volumes, HDF5) against copies disturbed by a seeded rule. MedPy is GPL and no
dependency of ours: install it where this runs: `pip install medpy`.
Writes benchmarks/results/metrics_<hardware>_<date>.md and .json; refuses to where the values differ.
"""

import argparse
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
from scipy import ndimage

from mamba_unet.data.registry import DATASETS
from mamba_unet.data.splits import shipped_split
from mamba_unet.evaluation.metrics import Conventions, segmentation_metrics
from measuring import write_result

MEDPYS = Conventions("hd95_of_pooled_distances", "assd_pooled")
SPACING_MM = (10.0, 1.5625, 1.5625)  # not in the files; that of many ACDC volumes
NUM_CLASSES = 4


def disturb(label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a mediocre network might make of it: shifted slices, grown or shrunken structures, specks elsewhere."""
    prediction = np.zeros_like(label)
    for z, truth in enumerate(label):
        shifted = np.roll(truth, tuple(rng.integers(-2, 3, size=2)), axis=(0, 1))
        for index in rng.permutation(np.arange(1, NUM_CLASSES)):
            change = rng.choice([ndimage.binary_dilation, ndimage.binary_erosion])
            prediction[z][change(shifted == index, iterations=rng.integers(1, 3))] = index
        if rng.random() < 0.2:
            row, column = (rng.integers(0, side - 4) for side in truth.shape)
            prediction[z, row : row + 4, column : column + 4] = rng.integers(1, NUM_CLASSES)
    return prediction


def load(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(prediction, label) of each test volume."""
    patients = set(shipped_split(DATASETS["acdc"].split_file)["test"])
    pairs = []
    for path in sorted(folder.rglob("patient*_frame*.h5")):
        if path.stem.split("_")[0] in patients:
            with h5py.File(path) as file:
                label = file["label"][:].astype(np.uint8)
            pairs.append((disturb(label, np.random.default_rng(len(pairs))), label))
    return pairs


def ours(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(volumes, classes, 8): every metric, with the conventions MedPy has."""
    return np.array(
        [
            [
                list(values.values())
                for values in segmentation_metrics(
                    prediction, label, SPACING_MM, NUM_CLASSES, conventions=MEDPYS
                ).values()
            ]
            for prediction, label in pairs
        ]
    )


def medpys(pairs: list[tuple[np.ndarray, np.ndarray]], metrics) -> np.ndarray:
    """(volumes, classes, 8): the same, each class by itself as the field's evaluation scripts do it."""

    def measure(prediction: np.ndarray, label: np.ndarray) -> list[float]:
        return [
            metrics.dc(prediction, label),
            metrics.jc(prediction, label),
            np.mean(prediction == label),
            metrics.precision(prediction, label),
            metrics.sensitivity(prediction, label),
            metrics.specificity(prediction, label),
            metrics.hd95(prediction, label, voxelspacing=SPACING_MM),
            metrics.assd(prediction, label, voxelspacing=SPACING_MM),
        ]

    return np.array(
        [[measure(prediction == c, label == c) for c in range(1, NUM_CLASSES)] for prediction, label in pairs]
    )


def timed(function, *arguments) -> tuple[np.ndarray, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the ACDC volumes in HDF5")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    pairs = load(arguments.data)
    if not pairs:
        parser.error(f"no volume of a test patient (patientXXX_frameYY.h5) in {arguments.data}")
    try:
        from medpy.metric import binary
    except ImportError:
        parser.error("MedPy is not installed here, so there is nothing to compare with: pip install medpy")
    ours(pairs[:1]), medpys(pairs[:1], binary)  # warm up
    runs = [(timed(ours, pairs), timed(medpys, pairs, binary)) for _ in range(arguments.repeats)]
    seconds, theirs = ([run[side][1] for run in runs] for side in (0, 1))
    difference = float(np.abs(runs[0][0][0] - runs[0][1][0]).max())
    if not difference < 1e-6:
        parser.error(f"the values differ by {difference:.1e}: no speed is reported for another computation")
    ratio = statistics.median(b / a for a, b in zip(seconds, theirs, strict=True))
    slices = sum(len(label) for _, label in pairs)
    write_result(
        "metrics",
        "Eight metrics of the ACDC test patients",
        [
            f"{len(pairs)} volumes, {slices} slices, {NUM_CLASSES - 1} classes, labels against disturbed copies; "
            f"median of {arguments.repeats} runs, one thread.",
            "",
            "| | seconds |",
            "|---|---:|",
            f"| ours | {statistics.median(seconds):.2f} |",
            f"| MedPy {version('medpy')} | {statistics.median(theirs):.2f} |",
            "",
            f"{ratio:.0f} times as fast; largest difference of any value {difference:.1e}.",
            "",
            "Command: `python benchmarks/metrics.py path/to/ACDC`",
        ],
        {"seconds": seconds, "medpy_seconds": theirs, "ratio": ratio, "largest_difference": difference},
    )


if __name__ == "__main__":
    main()
