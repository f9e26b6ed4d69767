"""From a data set as its owners ship it to a checked, fast cache: one pass that checks and, if asked, writes."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mamba_unet.data.case import Case
from mamba_unet.data.checks import SKIP, BadDataError, CheckReport, Problem, check_case
from mamba_unet.data.formats import UnreadableError, read_volume
from mamba_unet.data.intensity import intensity_rule, normalise_intensity
from mamba_unet.data.prepared import FORMAT, PreparedDataset
from mamba_unet.data.readers import Entry, Listing, detect_layout
from mamba_unet.data.registry import DATASETS, DatasetInfo
from mamba_unet.data.splits import Split, SplitError, draw_folds, draw_split, fit_split, shipped_split, user_split
from mamba_unet.files import atomic_path, write_json, write_text

# More distinct values than this in the masks of a plain folder are no classes but grey levels or JPEG noise.
MOST_CLASSES = 64


def check(
    source: str | Path,
    *,
    dataset: str | None = None,
    layout: str | None = None,
    splits: str | Path | None = None,
    folds: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> CheckReport:
    """Read every file of a data set and report everything that is wrong with it; nothing is written.

    The arguments are those of `prepare`.

    Raises:
        ValueError: the layout is unknown or ambiguous, or `dataset` does not fit it.
    """
    plan = _survey(Path(source), dataset, layout, None)
    return _run(plan, None, splits, folds, seed, progress).report


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    dataset: str | None = None,
    layout: str | None = None,
    intensity: Mapping[str, Any] | None = None,
    splits: str | Path | None = None,
    folds: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    progress: bool = True,
) -> PreparedDataset:
    """Check a data set and write it as a cache of memory-mapped arrays.

    `out/dataset.json` is written last, so an interrupted run is never taken for a finished one; the same command goes
    on where it stopped, and does nothing again for a case whose files and settings are unchanged.

    Args:
        source: the data set's folder, in any layout of `readers.LAYOUTS`.
        out: the folder to write; new, empty, or of an earlier run.
        dataset: its name in `registry.DATASETS`, for files whose layout does not tell ("acdc" in nnU-Net's layout).
        layout: a name in `readers.LAYOUTS`, where several fit.
        intensity: see `normalise_intensity`; None: the data set's own rule, min-max for one that is not known.
        splits: a split file; None: the folder's own lists, else the data set's published split, else a drawn one.
        folds: also split into so many folds, "fold0/train", "fold0/val", "fold0/test", ...
        seed: for what is drawn.
        skip_bad: leave cases with errors out, which `left_out` and check.txt name, instead of refusing.
        progress: show a progress bar (on a terminal).

    Raises:
        BadDataError: there are errors; all of them are in the message and in `.report`.
        ValueError: the layout is unknown or ambiguous, or an argument does not fit it.
    """
    source, out = Path(source), Path(out)
    ours = (out / "cases").is_dir() or (out / "dataset.json").is_file()
    if out.resolve() == source.resolve() or (out.is_dir() and any(out.iterdir()) and not ours):
        raise ValueError(f"{out} holds other files; give a new or empty folder for the prepared data set")
    plan = _survey(source, dataset, layout, intensity)
    done = _run(plan, out, splits, folds, seed, progress)
    bad = {problem.case for problem in done.report.errors}
    if done.split is None or (bad and not skip_bad) or None in bad or not done.records.keys() - bad:
        raise BadDataError(done.report)

    records = {identifier: record for identifier, record in done.records.items() if identifier not in bad}
    _remove_stale(out, set(records))
    write_text(out / "check.txt", done.report.table() + "\n")
    cases = {
        name: [identifier for identifier, record in records.items() if record["patient"] in set(patients)]
        for name, patients in done.split.patients.items()
    }
    write_json(
        out / "splits.json",
        {
            "origin": done.split.origin,
            "notes": list(done.split.notes),
            "patients": {name: list(patients) for name, patients in done.split.patients.items()},
            "cases": cases,
        },
    )
    orientations = {record["orientation"] for record in records.values()}
    write_json(
        out / "dataset.json",
        {
            "format": FORMAT,
            "name": plan.name,
            "description": plan.listing.description,
            "class_names": list(plan.class_names),
            "label_values": [
                min(v for v, k in plan.values.items() if k == index) for index in range(len(plan.class_names))
            ],
            "intensity": plan.intensity,
            "orientation": orientations.pop() if len(orientations) == 1 else None,
            "fingerprint": _fingerprint(records, plan),
            "layout": plan.layout,
            "source": str(source.resolve()),
            "left_out": sorted(bad),
            "cases": records,
        },
    )
    return PreparedDataset(out)


@dataclass(frozen=True)
class _Plan:
    """What is known before the images are read. `values`: stored label value -> class index."""

    source: Path
    layout: str
    listing: Listing
    info: DatasetInfo | None
    name: str
    class_names: Sequence[str]
    values: Mapping[int, int]
    intensity: dict[str, Any]
    problems: Sequence[Problem]


@dataclass(frozen=True)
class _Done:
    records: dict[str, dict[str, Any]]
    split: Split | None
    report: CheckReport


def _survey(source: Path, dataset: str | None, layout: str | None, intensity: Mapping[str, Any] | None) -> _Plan:
    found, listing = detect_layout(source, layout)
    if dataset is not None and dataset not in DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; expected one of {', '.join(DATASETS)}, or None for any other")
    info = DATASETS.get(dataset or listing.dataset)
    problems = list(listing.problems)
    if not listing.entries and not problems:
        raise ValueError(f"{source}: laid out as {found.name} ({listing.why}), but there is no case in it")
    labels = listing.labels
    if info is None and labels is None:
        labels, problem = _labels_found(listing.entries, source)
        problems += problem
    if info is None:
        class_names, values = list(labels), {value: index for index, value in enumerate(labels.values())}
    else:
        class_names = list(info.class_names)
        if labels is not None and len(labels) != len(class_names):
            raise ValueError(
                f"{source} names {len(labels)} classes ({', '.join(labels)}), {info.name} has "
                f"{len(class_names)}: {', '.join(class_names)}; leave dataset out"
            )
        if labels is not None and set(labels) == set(class_names):
            values = {value: class_names.index(name) for name, value in labels.items()}
        else:
            values = {value: value for value in range(len(class_names))}
    values |= dict.fromkeys(listing.other_values, 0)
    return _Plan(
        source,
        found.name,
        listing,
        info,
        name=info.name if info else listing.name or source.resolve().name,
        class_names=class_names,
        values=dict(sorted(values.items())),
        intensity=intensity_rule(intensity or listing.intensity or (info.intensity if info else {"method": "minmax"})),
        problems=problems,
    )


def _labels_found(entries: Sequence[Entry], source: Path) -> tuple[dict[str, int], list[Problem]]:
    """Nothing describes the classes: each value found in the labels is one, 0 is the background."""
    values = {0}
    for entry in entries:
        try:
            values.update(np.unique(read_volume(entry.label, "label").array).tolist())
        except UnreadableError:
            continue  # reported with the case
    whole = sorted(int(value) for value in values if value == int(value) and value >= 0)
    problems = []
    if len(whole) > MOST_CLASSES:
        problems.append(
            Problem(
                source,
                "masks are no classes",
                f"at most {MOST_CLASSES} values",
                f"{len(whole)} values",
                "save the masks without grey levels (PNG, not JPEG)",
            )
        )
    return {"background" if value == 0 else f"label {value}": value for value in whole}, problems


def _run(
    plan: _Plan, out: Path | None, splits: str | Path | None, folds: int | None, seed: int, progress: bool
) -> _Done:
    """The one pass over the files; with `out` the good cases are written."""
    problems, records = list(plan.problems), {}
    bar = tqdm(
        plan.listing.entries, "check" if out is None else "prepare", unit="case", disable=None if progress else True
    )
    for entry in bar:
        record, found = _earlier(plan, entry, out) if out else (None, [])
        if record is None:
            case, found = _examine(plan, entry)
            if case is not None:
                record = _record(plan, entry, case)
                if out and not any(problem.severity == "error" for problem in found):
                    _write(plan, entry, case, record, found, out)
        problems += found
        if record is not None:
            records[entry.identifier] = record
    split = None
    try:
        split = _choose_split(plan, splits, folds, seed, _twins(records))
    except SplitError as error:
        problems.append(Problem(Path(error.origin), error.problem, error.expected, error.found, error.way_out))
    problems += _across(records, split)
    names = {entry.identifier for entry in plan.listing.entries} | {
        problem.case for problem in problems if problem.case
    }
    report = CheckReport(
        plan.source,
        plan.layout,
        plan.listing.why,
        plan.name,
        plan.class_names,
        sorted(names),
        sorted(problems, key=lambda problem: problem.severity),
        [*plan.listing.notes, *(_describe(split) if split else ())],
    )
    return _Done(records, split, report)


def _examine(plan: _Plan, entry: Entry) -> tuple[Case | None, list[Problem]]:
    """Read and check one case. The case is None if its arrays cannot be used."""
    volumes, problems = {}, []
    for key, files in (("image", entry.image), ("label", entry.label)):
        try:
            volumes[key] = read_volume(files, key)
        except UnreadableError as error:
            problems.append(
                Problem(error.file, "unreadable file", f"a readable {key}", error.reason, SKIP, case=entry.identifier)
            )
    if problems:
        return None, problems
    image, label = volumes["image"], volumes["label"]
    problems = check_case(
        entry.identifier,
        entry.image[0],
        image,
        entry.label[0],
        label,
        plan.values,
        scaled=plan.listing.scaled,
        empty_is_error=plan.info is not None and plan.info.every_case_labelled,
    )
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    table = np.zeros(max(plan.values) + 1, np.uint8)
    table[list(plan.values)] = list(plan.values.values())
    scaled = image.array.astype(np.float32) if plan.listing.scaled else normalise_intensity(image.array, plan.intensity)
    case = Case(
        identifier=entry.identifier,
        patient=entry.patient,
        image=np.ascontiguousarray(scaled),
        label=np.ascontiguousarray(table[label.array.astype(np.intp)]),
        spacing_mm=image.spacing_mm,
        orientation=image.orientation,
        affine=image.affine,
        source=entry.image[0],
    )
    return case, problems


def _record(plan: _Plan, entry: Entry, case: Case) -> dict[str, Any]:
    return {
        "patient": case.patient,
        "shape": list(case.image.shape),
        "spacing_mm": case.spacing_mm and list(case.spacing_mm),
        "orientation": case.orientation,
        "affine": None if case.affine is None else case.affine.tolist(),
        "source": str(case.source.resolve()),
        "image_sha256": hashlib.sha256(case.image).hexdigest(),
        "label_sha256": hashlib.sha256(case.label).hexdigest(),
    }


def _alike(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Case -> the first case with the same image, for every case that repeats another's."""
    first: dict[tuple[Any, str], str] = {}
    found = {
        identifier: first.setdefault((tuple(record["shape"]), record["image_sha256"]), identifier)
        for identifier, record in records.items()
    }
    return {identifier: original for identifier, original in found.items() if identifier != original}


def _twins(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Patient -> the one patient that stands for all who share images with it, directly or through others."""
    joined: dict[str, str] = {}

    def standing_for(patient: str) -> str:
        while patient in joined:
            patient = joined[patient]
        return patient

    for identifier, original in _alike(records).items():
        a, b = standing_for(records[identifier]["patient"]), standing_for(records[original]["patient"])
        if a != b:
            joined[a] = b
    return {patient: standing_for(patient) for patient in joined}


def _across(records: Mapping[str, Mapping[str, Any]], split: Split | None) -> Iterator[Problem]:
    """Problems that show only when cases are compared."""
    for identifier, original in _alike(records).items():
        here, there = (records[name]["patient"] for name in (identifier, original))
        apart = [f"{a} and {b}" for a, b in split.apart(here, there)] if split else []
        yield Problem(
            Path(records[identifier]["source"]),
            "duplicate case",
            "every image once",
            f"the image of {original} again" + (f", in {'; '.join(apart)}" if apart else ""),
            "put both in one split, or remove one"
            if apart
            else "remove one of the two, or let it be: they train together",
            "error" if apart else "warning",
            identifier,
        )
    orientations: dict[str, list[str]] = {}
    for identifier, record in records.items():
        orientations.setdefault(record["orientation"] or "unknown", []).append(identifier)
    if len(orientations) > 1:
        common = max(orientations, key=lambda codes: len(orientations[codes]))
        for codes, identifiers in orientations.items():
            if codes != common:
                yield Problem(
                    Path(records[identifiers[0]]["source"]),
                    "orientation differs among cases",
                    f"{common}, as {len(orientations[common])} cases",
                    f"{codes}: {', '.join(identifiers[:5])}"
                    + (f" and {len(identifiers) - 5} more" if len(identifiers) > 5 else ""),
                    "reorient them before, if the network is to see them alike",
                    "warning",
                    identifiers[0],
                )


def _choose_split(
    plan: _Plan, file: str | Path | None, folds: int | None, seed: int, twins: Mapping[str, str]
) -> Split:
    """`twins`: patient -> the patient whose images it repeats; what is drawn keeps the two together."""
    cases = {entry.identifier: entry.patient for entry in plan.listing.entries}
    patients, own = set(cases.values()), plan.listing.splits
    uncovered = plan.info.uncovered if plan.info else "unassigned"
    if file is not None:
        split = user_split(file, cases)
    elif own and "train" in own:
        split = fit_split(own, patients, f"lists in {plan.source.name}", uncovered)
    elif own:  # a test part alone
        split = draw_split(patients, seed, twins, test=own["test"])
    elif plan.info and plan.info.split_file:
        split = fit_split(shipped_split(plan.info.split_file), patients, f"shipped for {plan.info.name}", uncovered)
    else:
        split = draw_split(patients, seed, twins)
    if folds is None:
        return split
    drawn = draw_folds(patients.difference(split.patients.get(uncovered, ())), folds, seed, twins)
    return Split(f"{split.origin}; {folds} folds by patient, seed {seed}", {**split.patients, **drawn}, split.notes)


def _describe(split: Split) -> list[str]:
    counts = ", ".join(f"{name} {len(patients)}" for name, patients in split.patients.items())
    return [f"split, in patients: {counts} ({split.origin})", *split.notes]


def _settings(plan: _Plan, entry: Entry) -> dict[str, Any]:
    """All that a written case depends on; as long as it stays the same, the case need not be written again."""
    stats = [(str(file.resolve()), file.stat()) for file in dict.fromkeys((*entry.image, *entry.label))]
    return {
        "format": FORMAT,
        "patient": entry.patient,
        "intensity": None if plan.listing.scaled else plan.intensity,
        "values": sorted(plan.values.items()),
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
    }


def _paths(out: Path, identifier: str) -> tuple[Path, Path, Path]:
    return (
        out / "images" / f"{identifier}.npy",
        out / "labels" / f"{identifier}.npy",
        out / "cases" / f"{identifier}.json",
    )


def _earlier(plan: _Plan, entry: Entry, out: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The record and warnings of a case that an earlier run has written from the same files in the same way."""
    image, label, note = _paths(out, entry.identifier)
    if not (image.is_file() and label.is_file() and note.is_file()):
        return None, []
    said = json.loads(note.read_text(encoding="utf-8"))
    if said["settings"] != json.loads(json.dumps(_settings(plan, entry))):
        return None, []
    return said["record"], [Problem(**{**warning, "file": Path(warning["file"])}) for warning in said["warnings"]]


def _write(plan: _Plan, entry: Entry, case: Case, record: dict[str, Any], found: Sequence[Problem], out: Path) -> None:
    (out / "dataset.json").unlink(missing_ok=True)  # what it describes is about to change
    image, label, note = _paths(out, entry.identifier)
    note.unlink(missing_ok=True)
    for path, array in ((image, case.image), (label, case.label)):
        with atomic_path(path) as temporary:
            np.save(temporary, array)
    warnings = [{**asdict(problem), "file": str(problem.file)} for problem in found]
    write_json(note, {"settings": _settings(plan, entry), "record": record, "warnings": warnings})


def _remove_stale(out: Path, identifiers: set[str]) -> None:
    """Remove the arrays of cases that an earlier run wrote and this data set does not have."""
    for note in (out / "cases").glob("*.json"):
        if note.stem not in identifiers:
            for path in _paths(out, note.stem):
                path.unlink(missing_ok=True)


def _fingerprint(records: Mapping[str, Mapping[str, Any]], plan: _Plan) -> str:
    contents = {
        "class_names": list(plan.class_names),
        "intensity": plan.intensity,
        "cases": {
            identifier: [record["shape"], record["image_sha256"], record["label_sha256"]]
            for identifier, record in records.items()
        },
    }
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
