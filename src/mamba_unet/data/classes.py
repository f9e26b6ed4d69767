"""Which label values are which class: declared, or plainly few; else refused, for nothing may become a class unseen."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mamba_unet.views.labels import IGNORE
from mamba_unet.words import counted, some

LARGEST = 2**16 - 1  # a label value beyond it is a slip, such as -1 stored without a sign
MOST_CLASSES = 254  # besides the background: indices are uint8, and one of them is IGNORE
MOST_UNDECLARED = 16  # values, the background among them, that are taken for classes without being declared
NEARLY_WHOLE = 1e-3  # labels saved through a slope come back as 1.00000006
WHITE = 128  # where the largest value is at least this, neighbours of black, white and each other are grey levels
NEAR = 8  # how far JPEG and resizing commonly spread black and white
MOST_KEPT = 300  # values of one label, for one that is an image


@dataclass(frozen=True)
class Found:
    """The values of all the labels of a data set: stored value -> the labels that it is in."""

    values: Mapping[float, Sequence[Path]]
    labels: int

    def describe(self, most: int = 8) -> str:
        """ "9 values: 0 (in 6 of 6), 255 (in 6), 3 (in 2), ...", the commonest first."""
        common = sorted(self.values, key=lambda value: (-len(self.values[value]), value))
        shown = ", ".join(f"{value:g} (in {len(self.values[value])})" for value in common[:most])
        return f"{len(common)} values in {self.labels} masks: {shown}" + (", ..." if len(common) > most else "")

    def rare(self, value: float) -> bool:
        """Too rare to be plainly a class: in one mask of several, or in fewer than a tenth."""
        count = len(self.values[value])
        return self.labels > 3 and (count == 1 or count < 0.1 * self.labels)


@dataclass(frozen=True)
class Classes:
    """How stored label values become class indices.

    Attributes:
        names: [0] is the background.
        values: stored value -> class index, or IGNORE.
        threshold: stored values from it on are class 1, all others the background; None where values are classes.
    """

    names: Sequence[str]
    values: Mapping[int, int]
    threshold: float | None = None

    @property
    def ignored(self) -> list[int]:
        """The stored values of voxels without ground truth."""
        return [value for value, index in self.values.items() if index == IGNORE]

    def stored(self, array: np.ndarray) -> tuple[np.ndarray, bool]:
        """The array in `values` as far as it can be brought to them, and whether it had to be rounded for it."""
        if self.threshold is not None:
            white = next(value for value, index in self.values.items() if index == 1)
            chosen = np.where(array >= self.threshold, white, 0)
            return np.where(np.isin(array, self.ignored), array, chosen) if self.ignored else chosen, False
        if array.dtype.kind != "f":
            return array, False
        with np.errstate(invalid="ignore"):
            whole = np.rint(array)
            near = np.abs(array - whole) <= NEARLY_WHOLE
        return (whole, bool((whole != array).any())) if near.all() else (array, False)

    def index(self, array: np.ndarray) -> np.ndarray:
        """Class indices, uint8, of an array that holds nothing but `values`."""
        table = np.zeros(max(self.values) + 1, np.uint8)
        table[list(self.values)] = list(self.values.values())
        return table[array.astype(np.intp)]


def distinct(array: np.ndarray) -> list[float]:
    """The different values of a label, as Python numbers in ascending order."""
    if array.dtype.kind == "u" and array.dtype.itemsize <= 2:  # ten times as fast as sorting
        return np.flatnonzero(np.bincount(array.ravel())).tolist()
    return np.unique(array).tolist()


def collect(labels: Iterable[tuple[Path, np.ndarray]]) -> Found:
    """The values of some labels, those that are nearly whole taken as whole."""
    values: dict[float, list[Path]] = {}
    count = 0
    for file, array in labels:
        count += 1
        each = distinct(array)
        if len(each) > MOST_KEPT:
            each = [*each[: MOST_KEPT // 2], *each[-MOST_KEPT // 2 :]]
        near = {
            round(value) if math.isfinite(value) and abs(value - round(value)) <= NEARLY_WHOLE else value
            for value in each
        }
        for value in near:
            values.setdefault(value, []).append(file)
    return Found(values, count)


def infer(found: Found, class_names: Sequence[str] | None, ignore: int | None) -> dict[str, int]:
    """Class name -> stored value, background first, from the values that are there.

    Values that are no class, a slip of single masks, are left out, so that the check of each case names its file.

    Args:
        found: in the labels.
        class_names: of the values, in ascending order; None: the values are names, if they are plainly few.
        ignore: a value that is no class.

    Raises:
        ValueError: the number of names does not fit, or the values are not plainly classes.
    """
    values = sorted(value for value in found.values if value == value and value != ignore and value > 0)
    possible = [value for value in values if isinstance(value, int) and value <= LARGEST]
    common = [value for value in possible if not found.rare(value)]
    if class_names is not None:
        if not found.labels:  # none can be read, and each case says so
            return {"background": 0, **{name: number for number, name in enumerate(class_names, start=1)}}
        return {"background": 0, **dict(zip(class_names, _named(found, possible, common, class_names), strict=True))}
    if found.labels and not values:
        raise ValueError(
            f"all {found.labels} masks hold 0 alone: nothing to learn; give the folder with the right ones"
        )
    if reason := _grey_levels(found, values, common):
        raise ValueError(
            f"the masks do not plainly show classes: {reason}.\n{_evidence(found, common)}\nWhat to do, "
            "if the masks show one class: --binary-masks [THRESHOLD] (default: the middle, 128 of 255);\n"
            "if each value is a class: --class-names NAME NAME ..., in ascending order, or a dataset.json\n"
            '  {"labels": {"background": 0, "NAME": VALUE, ...}};\n'
            "if a value marks pixels without ground truth: --ignore-label VALUE"
        )
    return {"background": 0, **{f"label {value}": value for value in common}}


def declared(labels: Mapping[str, int], class_names: Sequence[str] | None) -> dict[str, int]:
    """Class name -> stored value as described, under other names if there are any."""
    if class_names is None:
        return dict(labels)
    if len(class_names) != len(labels) - 1:
        raise ValueError(
            f"--class-names names {counted(len(class_names), 'class')} ({some(class_names, 8)}); expected "
            f"{len(labels) - 1}, as the data describes: {some(list(labels)[1:], 8)}"
        )
    return {"background": 0, **dict(zip(class_names, sorted(labels.values())[1:], strict=True))}


def foreground(class_names: Sequence[str] | None) -> list[str] | None:
    """The names without the background, which may be named first or not at all. Raises ValueError for bad names."""
    if class_names is None:
        return None
    if isinstance(class_names, str):
        raise ValueError(f"class_names={class_names!r}; expected a list of names: [{class_names!r}]")
    names = list(class_names)[1:] if class_names and class_names[0].lower() == "background" else list(class_names)
    if not names or len(set(names)) < len(names) or not all(name.strip() for name in names) or "background" in names:
        raise ValueError(f"--class-names {' '.join(class_names)[:200]}: expected distinct names, one per class")
    return names


def binary(found: Found, threshold: float | None, ignore: int | None) -> tuple[int, float]:
    """The value that white is recorded as, and the threshold: by default the middle between 0 and the largest value.

    Raises:
        ValueError: no mask reaches the threshold.
    """
    if not found.labels:  # none can be read, and each case says so
        return 1, 1
    numbers = [value for value in found.values if math.isfinite(value) and value != ignore]
    top = max(numbers, default=0)
    if threshold is None:
        threshold = (top + 1) // 2 if all(isinstance(value, int) for value in numbers) else top / 2
    if not top >= threshold > 0:
        raise ValueError(
            f"--binary-masks {threshold:g}: expected a threshold above 0 that some mask reaches; found "
            f"{found.describe()}"
        )
    return min(max(1, round(top)), LARGEST), threshold


def _named(found: Found, possible: Sequence[int], common: Sequence[int], names: Sequence[str]) -> list[int]:
    """The values that the names are of."""
    for values in (possible, common):
        if len(values) == len(names):
            return list(values)
    if possible and len(possible) < len(names) and possible[-1] <= len(names):
        return list(range(1, len(names) + 1))  # some class is in no mask, and the values are the classes' numbers
    raise ValueError(
        f"--class-names names {counted(len(names), 'class')} ({some(names, 8)}), but the masks hold "
        f"{counted(len(possible), 'value')} besides 0, the background.\n{_evidence(found, common)}\nWhat to do: "
        + (
            "if other values are grey levels at the edges of one class, add --binary-masks [THRESHOLD]"
            if len(names) == 1
            else "give one name per value, or say which is which in a dataset.json:\n"
            '  {"labels": {"background": 0, "NAME": VALUE, ...}}'
        )
    )


def _grey_levels(found: Found, values: Sequence[float], common: Sequence[int]) -> str:
    """Why the values are not plainly classes; empty if they are."""
    if len(values) + 1 > MOST_UNDECLARED:
        return f"more than {MOST_UNDECLARED} values, as the grey levels are that JPEG and resizing make"
    if values and not common:
        return "no value is a whole number that several masks hold" if found.labels > 1 else "no whole numbers"
    top = common[-1] if common else 0
    near = [
        value
        for value in common
        if WHITE <= top != value and (value < NEAR or value > top - NEAR or {value - 1, value + 1}.intersection(common))
    ]
    if near:
        shown = ", ".join(map(str, near[:5]))
        return f"{shown} beside {top} may be grey levels that JPEG or resizing made, or {top} may mark what to ignore"
    return ""


def _evidence(found: Found, common: Sequence[int]) -> str:
    """What was found, and where."""
    strange: dict[Path, int] = {}
    for value, files in found.values.items():
        for file in files:
            strange[file] = strange.get(file, 0) + (value != 0 and value not in common)
    if not strange:
        return f"Found {found.describe()}."
    worst, count = max(strange, key=lambda file: strange[file]), sum(map(bool, strange.values()))
    where = f"; values that few masks have are in {count} of them, most in {worst}" if count else f", as in {worst}"
    return f"Found {found.describe()}{where}."
