"""Splits by patient: shipped, drawn, in folds, or the user's own; a leak is an error."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from mamba_unet.data.registry import DatasetInfo

UNLABELLED = "unlabelled"  # patients and cases without any label, of whom none is validated or tested


class SplitError(ValueError):
    """A split that leaks, names unknown patients or leaves some out."""

    def __init__(self, origin: str, problem: str, expected: str, found: str, remedy: str):
        super().__init__(f"{origin}: {problem}: {found}. Expected: {expected}; {remedy}")
        self.origin, self.problem, self.expected, self.found, self.remedy = origin, problem, expected, found, remedy


@dataclass(frozen=True)
class Split:
    """Which patients are in which split.

    Attributes:
        origin: where it comes from, for the record.
        patients: split -> sorted patients; folds are named "fold0/train", "fold0/val", "fold0/test", ...
        notes: patients absent from the data or put aside, in words.
    """

    origin: str
    patients: Mapping[str, Sequence[str]]
    notes: Sequence[str] = field(default=())

    def describe(self) -> list[str]:
        """Lines for a person."""
        counts = ", ".join(f"{name} {len(members)}" for name, members in self.patients.items() if not _fold(name))
        return [f"split, in patients: {counts} ({self.origin})", *self.notes]

    def apart(self, a: str, b: str) -> list[tuple[str, str]]:
        """The pairs of splits, of the same fold, that hold one of the two patients each."""
        homes = [[split for split, members in self.patients.items() if patient in members] for patient in (a, b)]
        pairs = [(x, y) for x in homes[0] for y in homes[1] if x != y and _fold(x) == _fold(y)]
        return [pair for pair in pairs if set(pair) != {"train", UNLABELLED}]  # both are learned from


def split_name(name: str, fold: int | None) -> str:
    """What `PreparedDataset.splits` calls the split `name` ("train", "val", "test") of a fold; None is no fold."""
    return name if fold is None else f"fold{fold}/{name}"


def shuffled(patients: Iterable[str], seed: int = 0) -> list[str]:
    """In the order of sha256("seed:patient"): the same on every machine and with every version of every library."""
    return sorted(patients, key=lambda patient: hashlib.sha256(f"{seed}:{patient}".encode()).hexdigest())


def draw_split(
    patients: Iterable[str],
    seed: int = 0,
    duplicates: Mapping[str, str] = MappingProxyType({}),
    test: Iterable[str] = (),
) -> Split:
    """70 / 10 / 20 per cent for train, val and test, at least one patient each.

    Args:
        patients: all of them.
        seed: another gives another split.
        duplicates: patient -> the patient it must stay with, because their images are the same.
        test: patients that are the test split already; then 7 / 8 and 1 / 8 of the rest are train and val.
    """
    patients, given = set(patients), set(test)
    duplicates = {patient: other for patient, other in duplicates.items() if other in patients}
    order = shuffled(patients - given - duplicates.keys(), seed)
    if len(order) < (2 if given else 3):
        raise SplitError(
            "drawn split",
            "too few patients",
            "at least 3, for train, val and test",
            ", ".join(sorted(patients)),
            "give a split file that says where they belong (--split), or group the cases otherwise (--patient-regex)",
        )
    val = max(1, round(len(order) / (8 if given else 10)))
    end = val if given else val + round(0.2 * len(order))  # of three or more, one at least
    parts = {"train": order[end:], "val": order[:val], "test": given or order[val:end]}
    origin = (
        f"test as given; train and val drawn by patient, 7/1, seed {seed}"
        if given
        else f"drawn by patient, 70/10/20, seed {seed}"
    )
    return Split(origin, _with_duplicates(parts, duplicates, patients))


def draw_folds(
    patients: Iterable[str], folds: int, seed: int = 0, duplicates: Mapping[str, str] = MappingProxyType({})
) -> dict[str, list[str]]:
    """K folds: in fold k part k is tested, part k + 1 selects the checkpoint, the others train.

    Returns:
        "fold0/train", "fold0/val", "fold0/test", ...: sorted patients. Each patient is tested once.
    """
    patients = set(patients)
    duplicates = {patient: other for patient, other in duplicates.items() if other in patients}
    order = shuffled(patients - duplicates.keys(), seed)
    if not 3 <= folds <= len(order):
        raise SplitError(
            "folds",
            "number of folds",
            f"3..{len(order)}, for there are {len(order)} patients and three parts",
            str(folds),
            "choose another number",
        )
    parts = [order[k::folds] for k in range(folds)]
    splits = {}
    for k in range(folds):
        val = (k + 1) % folds
        train = [patient for part in range(folds) if part not in (k, val) for patient in parts[part]]
        splits |= {f"fold{k}/train": train, f"fold{k}/val": parts[val], f"fold{k}/test": parts[k]}
    return _with_duplicates(splits, duplicates, patients)


def _with_duplicates(
    parts: Mapping[str, Collection[str]], duplicates: Mapping[str, str], patients: set[str]
) -> dict[str, list[str]]:
    placed = {patient for members in parts.values() for patient in members}
    return {
        split: sorted({*members, *(a for a, b in duplicates.items() if b in members and a in patients - placed)})
        for split, members in parts.items()
    }


def check_leaks(patients: Mapping[str, Iterable[str]], origin: str) -> None:
    """Raise SplitError if a patient is in two splits (of the same fold), naming each of them."""
    seen: dict[tuple[str, str], list[str]] = {}
    for split, members in patients.items():
        for patient in set(members):
            seen.setdefault((_fold(split), patient), []).append(split)
    leaks = [f"{patient} in {' and '.join(splits)}" for (_, patient), splits in sorted(seen.items()) if len(splits) > 1]
    if leaks:
        raise SplitError(
            origin, "one patient in two splits", "each patient in one", "; ".join(leaks), "take it out of all but one"
        )


def fit_split(wanted: Mapping[str, Collection[str]], patients: Iterable[str], origin: str, uncovered: str) -> Split:
    """Apply a published split to the patients at hand.

    Patients it names that are absent are left out of it; patients it does not name go to the split `uncovered`. Both
    are said in the notes.
    """
    check_leaks(wanted, origin)
    present = set(patients)
    named = {patient for members in wanted.values() for patient in members}
    fitted = {split: sorted(present.intersection(members)) for split, members in wanted.items()}
    notes = []
    if absent := sorted(named - present):
        notes.append(f"{len(absent)} of the {len(named)} patients of the split are not in the data: {_some(absent)}")
    if rest := sorted(present - named):
        fitted[uncovered] = rest
        notes.append(f"{len(rest)} patients are not in the split and are put in {uncovered!r}: {_some(rest)}")
    return Split(origin, fitted, notes)


def shipped_split(name: str) -> dict[str, list[str]]:
    """The split file `name` that comes with the package: split -> patients."""
    return json.loads((resources.files("mamba_unet.data") / "splits" / name).read_text(encoding="utf-8"))


def user_split(
    file: str | Path, cases: Mapping[str, str], unlabelled: Mapping[str, str] = MappingProxyType({})
) -> Split:
    """A user's own split, a JSON file {"train": [...], "val": [...], ...} of patients or case identifiers.

    Args:
        file: such a file, or a `splits.json` that `prepare` wrote.
        cases: identifier -> patient of every case with a label.
        unlabelled: the same of those without, which need not be named.

    Raises:
        SplitError: a patient is in two splits, unknown, or in none. All of them are named.
    """
    try:
        said = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SplitError(str(file), "unreadable", "JSON", str(error), "correct the file") from error
    if isinstance(said, dict) and isinstance(said.get("patients"), dict):
        said = said["patients"]
    if _is_folds(said):
        raise SplitError(
            str(file),
            "nnU-Net's folds, not a split",
            '{"train": [names], "val": [names], "test": [names]}',
            f'a list of {len(said)} {{"train": [...], "val": [...]}}',
            "write one fold so into a file of its own, with every patient in one of the three",
        )
    if not isinstance(said, dict) or not all(map(_is_names, said.values())):
        raise SplitError(
            str(file),
            "no split",
            '{"train": [names], "val": [names], "test": [names]}',
            f"{str(said)[:60]}",
            "correct the file",
        )
    others = set(unlabelled.values()) - set(cases.values()) | set(unlabelled) - set(cases)
    for split, members in said.items():
        if split not in ("train", UNLABELLED) and (without := sorted(others.intersection(members))):
            raise SplitError(
                str(file),
                f"no label to measure in {split!r}",
                "patients with labels",
                ", ".join(without),
                "take them out; images without labels serve training alone",
            )
    said = {split: [name for name in members if name not in others] for split, members in said.items()}
    known = set(cases.values())
    unknown = sorted({name for members in said.values() for name in members if name not in known and name not in cases})
    if unknown:
        raise SplitError(
            str(file),
            "unknown names",
            "patients or cases of this data set",
            ", ".join(unknown),
            "remove or correct them",
        )
    patients = {split: sorted({cases.get(name, name) for name in members}) for split, members in said.items()}
    check_leaks(patients, str(file))
    if missing := sorted(known.difference(*patients.values())):
        raise SplitError(
            str(file),
            "patients in no split",
            "every patient in one",
            ", ".join(missing),
            "put them in one, of any name",
        )
    return Split(f"given: {Path(file).name}", patients)


def choose_split(
    cases: Mapping[str, str],
    info: DatasetInfo | None,
    *,
    unlabelled: Mapping[str, str] = MappingProxyType({}),
    own: Mapping[str, Sequence[str]] | None = None,
    file: str | Path | None = None,
    folds: int | None = None,
    seed: int = 0,
    duplicates: Mapping[str, str] = MappingProxyType({}),
) -> Split:
    """The user's split file, else what the folder itself says, else the published split, else a drawn one.

    Args:
        cases: identifier -> patient, of those with a label.
        unlabelled: the same of those without; patients who have nothing else are the split `unlabelled`.
        info: the data set, if it is a known one.
        own: the folder's own split, in patients or cases; where it has "test" and no "val", the rest is divided.
        file: the user's.
        folds: add so many folds of all the patients that are in the split.
        seed: for what is drawn.
        duplicates: see `draw_split`.

    Raises:
        SplitError: see the functions this calls.
    """
    patients, uncovered = set(cases.values()), info.uncovered if info else "unassigned"
    if file is not None:
        split = user_split(file, cases, unlabelled)
    elif own and ("train" in own or "test" in own):
        own = {split: {cases.get(name, name) for name in members} for split, members in own.items()}
        own.setdefault("train", patients.difference(*own.values()))
        split = fit_split(own, patients, "as the source divides it", uncovered)
        if "test" in own and "val" not in own:
            train, test = split.patients["train"], split.patients["test"]
            drawn = draw_split([*train, *test], seed, duplicates, test=test)
            split = Split(drawn.origin, {**split.patients, **drawn.patients}, split.notes)
    elif info and info.split_file:
        split = fit_split(shipped_split(info.split_file), patients, f"shipped for {info.name}", uncovered)
    else:
        split = draw_split(patients, seed, duplicates)
    if labelled := sorted(patients.intersection(split.patients.get(UNLABELLED, ()))):
        raise SplitError(
            str(file or "the source"),
            f"patients with labels in {UNLABELLED!r}",
            "patients without, who need not be named",
            _some(labelled),
            "put them into train, and name those whose labels count in the recipe: labelled: [...]",
        )
    if without := sorted(set(unlabelled.values()) - patients):
        kept = {name: members for name, members in split.patients.items() if name != UNLABELLED}
        split = Split(split.origin, {**kept, UNLABELLED: without}, split.notes)
    if folds is None:
        return split
    drawn = draw_folds(patients.difference(split.patients.get(uncovered, ())), folds, seed, duplicates)
    return Split(f"{split.origin}; {folds} folds by patient, seed {seed}", {**split.patients, **drawn}, split.notes)


def _is_names(members: object) -> bool:
    return isinstance(members, list) and all(isinstance(name, str) for name in members)


def _is_folds(said: object) -> bool:
    """Whether this is nnU-Net's `splits_final.json`."""
    return isinstance(said, list) and {"train", "val"} in [set(each) for each in said if isinstance(each, dict)]


def _fold(split: str) -> str:
    return split.rpartition("/")[0]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", ... ({len(names)} in all)" if len(names) > 6 else "")
