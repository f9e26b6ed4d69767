"""From a data set as its owners ship it to a checked, fast cache: one pass that checks and, if asked, writes."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from mamba_unet.data.case import Case
from mamba_unet.data.checks import check_across, duplicate_patients
from mamba_unet.data.nnunet_intensity import NNUNET_FOLDS, NNUNET_NOTE, nnunet_intensity
from mamba_unet.data.prepared import FORMAT, PreparedDataset
from mamba_unet.data.problems import BadDataError, CheckReport, Problem, by_severity
from mamba_unet.data.readers import Entry
from mamba_unet.data.readers.nnunet import CT_NOTE
from mamba_unet.data.resampled import remove_resampled
from mamba_unet.data.splits import UNLABELLED, Split, SplitError, choose_split
from mamba_unet.data.stored import save_array
from mamba_unet.data.survey import Plan, examine, survey
from mamba_unet.files import LOCK, locked, read_record, remove_temporaries, write_json, write_text
from mamba_unet.views.labels import IGNORE
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.text_header import data_files
from mamba_unet.words import counted


def check(
    source: str | Path,
    *,
    dataset: str | None = None,
    layout: str | None = None,
    splits: str | Path | None = None,
    folds: int | None = None,
    seed: int = 0,
    patient_regex: str | None = None,
    class_names: Sequence[str] | None = None,
    binary_masks: bool | float = False,
    ignore_label: int | None = None,
    progress: bool = True,
) -> CheckReport:
    """Read every file of a data set and report everything that is wrong with it; nothing is written.

    The arguments are those of `prepare`.

    Raises:
        ValueError: the layout is unknown or ambiguous, or `dataset` does not fit it.
    """
    with Reader() as reader:
        plan = survey(
            Path(source),
            dataset,
            layout,
            None,
            reader,
            patient_regex=patient_regex,
            class_names=class_names,
            binary_masks=binary_masks,
            ignore_label=ignore_label,
        )
        return _run(plan, reader, None, splits, folds, seed, progress).report


def prepare(
    source: str | Path,
    out: str | Path,
    *,
    dataset: str | None = None,
    layout: str | None = None,
    intensity: Mapping[str, Any] | Sequence[Mapping[str, Any]] | Literal["nnunet"] | None = None,
    splits: str | Path | None = None,
    folds: int | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    patient_regex: str | None = None,
    class_names: Sequence[str] | None = None,
    binary_masks: bool | float = False,
    ignore_label: int | None = None,
    progress: bool = True,
    report: Callable[[CheckReport], None] = lambda _: None,
) -> PreparedDataset:
    """Check a data set and write it as a cache of memory-mapped arrays.

    `out/dataset.json` is written last, so an interrupted run is never taken for a finished one; the same command goes
    on where it stopped, and does nothing again for a case whose files and settings are unchanged.

    Args:
        source: the data set's folder, in any layout of `readers.LAYOUTS`.
        out: the folder to write; new, empty, or of an earlier run.
        dataset: its name in `registry.DATASETS`, for files whose layout does not tell ("acdc" in nnU-Net's layout).
        layout: a name in `readers.LAYOUTS`, where several fit.
        intensity: see `normalise_intensity`; None: the data set's own rule, min-max for one that is not known;
            "nnunet": as nnU-Net chooses it, see `nnunet_intensity`.
        splits: a split file; None: the folder's own lists, else the data set's published split, else a drawn one.
        folds: also split into so many folds, "fold0/train", "fold0/val", "fold0/test", ...
        seed: for what is drawn.
        skip_bad: leave cases with errors out, which `left_out` and check.txt name, instead of refusing.
        patient_regex: finds the patient in each case's name: its first group, or all that it matches; None: as folders
            and names tell.
        class_names: of the values in the masks, in ascending order, where the data does not name them.
        binary_masks: one class, of all values from a threshold on: True for the middle of 0 and the largest, or the
            threshold. For masks with grey levels, which JPEG and resizing make.
        ignore_label: the stored label value of voxels without ground truth.
        progress: show a progress bar (on a terminal).
        report: is given all that was found; out/check.txt names every file of it.

    Raises:
        BadDataError: there are errors; all of them are in the message and in `.report`.
        ValueError: the layout is unknown or ambiguous, or an argument does not fit it.
    """
    source, out = Path(source), Path(out)
    ours = (out / "cases").is_dir()  # not dataset.json, which nnU-Net's folders have too
    others = out.is_dir() and any(path.name != LOCK for path in out.iterdir())  # a killed run may leave its lock
    if out.resolve() == source.resolve() or (others and not ours):
        raise ValueError(f"{out} holds other files; give a new or empty folder for the prepared data set")
    if any((parent / "cases").is_dir() and (parent / "dataset.json").is_file() for parent in out.resolve().parents):
        raise ValueError(f"{out} lies inside a prepared data set; give a folder of its own")
    _refuse_other_source(source, out)
    with locked(out, "preparation", "wait for it to end, or give another folder"), Reader() as reader:
        plan = survey(
            source,
            dataset,
            layout,
            None if intensity == "nnunet" else intensity,
            reader,
            patient_regex=patient_regex,
            class_names=class_names,
            binary_masks=binary_masks,
            ignore_label=ignore_label,
        )
        if intensity == "nnunet":
            measured, asked = _training_patients(plan, splits, seed), plan
            notes = [*(note for note in plan.notes if not note.startswith(CT_NOTE)), NNUNET_NOTE]
            notes += [NNUNET_FOLDS] if folds else []
            plan = replace(plan, intensity=nnunet_intensity(asked, measured, reader, progress), notes=notes)
        done = _run(plan, reader, out, splits, folds, seed, progress)
        if intensity == "nnunet" and done.split:
            training = set(done.split.patients["train"])
            bad = {problem.case for problem in done.report.errors} if skip_bad else set()
            if training != measured or any(e.identifier in bad and e.patient in training for e in plan.listing.entries):
                # patients with the same image, who are drawn together, and cases that are left out are known only now
                plan = replace(plan, intensity=nnunet_intensity(asked, training, reader, progress, bad))
                done = _run(plan, reader, out, splits, folds, seed, progress)
        _finish(plan, done, out, skip_bad)
        report(done.report)
    return PreparedDataset(out)


def _finish(plan: Plan, done: "_Done", out: Path, skip_bad: bool) -> None:
    """Write what describes the cases, dataset.json last. Raises BadDataError where there are errors."""
    bad = {problem.case for problem in done.report.errors}
    if done.split is None or (bad and not skip_bad) or None in bad or not done.records.keys() - bad:
        raise BadDataError(done.report)

    records = {identifier: record for identifier, record in done.records.items() if identifier not in bad}
    described, fingerprint = out / "dataset.json", _fingerprint(records, plan)
    before = read_record(described)
    if before.get("fingerprint") != fingerprint or _sizes(before.get("cases", {})) != _sizes(records):
        remove_resampled(out)  # of other images, or of other voxel sizes
    described.unlink(missing_ok=True)  # unfinished from here on, until it is written again
    _remove_stale(out, set(records))
    write_text(out / "check.txt", done.report.table(most=None) + "\n")
    cases = {
        name: [
            identifier
            for identifier, record in records.items()
            if record["patient"] in set(patients) and record["label_sha256"] is not None
        ]
        for name, patients in done.split.patients.items()
        if name != UNLABELLED
    }
    if without := [identifier for identifier, record in records.items() if record["label_sha256"] is None]:
        cases[UNLABELLED] = without
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
        described,
        {
            "format": FORMAT,
            "name": plan.name,
            "description": plan.listing.description,
            "class_names": list(plan.classes.names),
            "label_values": [
                min(v for v, k in plan.classes.values.items() if k == index) for index in range(len(plan.classes.names))
            ],
            "intensity": [dict(rule) for rule in plan.intensity],
            "channel_names": list(plan.listing.channel_names),
            "orientation": orientations.pop() if len(orientations) == 1 else None,
            "fingerprint": fingerprint,
            "layout": plan.layout,
            "source": str(plan.source.resolve()),
            "left_out": sorted(bad),
            "cases": records,
        },
    )


def _sizes(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {identifier: record.get("spacing_mm") for identifier, record in records.items()}


def _training_patients(plan: Plan, splits: str | Path | None, seed: int) -> set[str]:
    """Those of the split before duplicates are known; where it is refused, which is told later, all.

    Raises:
        ValueError: the split has none.
    """
    cases = _patients(plan)
    try:
        split = choose_split(**cases, info=plan.info, own=plan.listing.splits, file=splits, seed=seed)
    except SplitError:
        return set(cases["cases"].values())
    if not split.patients.get("train"):
        raise ValueError(
            f"{splits or plan.source}: --intensity nnunet measures the training patients, and the split has none; name "
            'them as "train", or take another --intensity'
        )
    return set(split.patients["train"])


def _patients(plan: Plan) -> dict[str, dict[str, str]]:
    """Identifier -> patient of the cases with a label and of those without, as `choose_split` takes them."""
    entries = plan.listing.entries
    return {
        "cases": {entry.identifier: entry.patient for entry in entries if entry.label is not None},
        "unlabelled": {entry.identifier: entry.patient for entry in entries if entry.label is None},
    }


def _refuse_other_source(source: Path, out: Path) -> None:
    """A folder that holds another data set is not written over."""
    before = read_record(out / "dataset.json").get("source")
    if before is not None and Path(before) != source.resolve() and Path(before).exists():
        raise ValueError(f"{out} holds the data set that was prepared from {before}; give another folder, or remove it")


@dataclass(frozen=True)
class _Done:
    records: dict[str, dict[str, Any]]
    split: Split | None
    report: CheckReport


def _run(
    plan: Plan,
    reader: Reader,
    out: Path | None,
    splits: str | Path | None,
    folds: int | None,
    seed: int,
    progress: bool,
) -> _Done:
    """The one pass over the files; with `out` the good cases are written."""
    problems, records = list(plan.listing.problems), {}
    bar = tqdm(
        plan.listing.entries, "check" if out is None else "prepare", unit="case", disable=None if progress else True
    )
    for entry in bar:
        record, found = _earlier(plan, entry, out) if out else (None, [])
        if record is None:
            case, found = examine(plan, entry, reader)
            if case is not None:
                record = _record(plan, entry, case)
                if out and not any(problem.severity == "error" for problem in found):
                    _write(plan, entry, case, record, found, out)
        problems += found
        if record is not None:
            records[entry.identifier] = record
    split = None
    try:
        split = choose_split(
            **_patients(plan),
            info=plan.info,
            own=plan.listing.splits,
            file=splits,
            folds=folds,
            seed=seed,
            duplicates=duplicate_patients(records),
        )
    except SplitError as error:
        if plan.listing.entries:  # else there is nothing to divide, and the problems say why
            problems.append(Problem(Path(error.origin), error.problem, error.expected, error.found, error.remedy))
    problems += check_across(records, split, plan.classes.names, plan.source)
    names = {entry.identifier for entry in plan.listing.entries} | {
        problem.case for problem in problems if problem.case
    }
    report = CheckReport(
        plan.source,
        plan.layout,
        plan.listing.why,
        plan.name,
        plan.classes.names,
        sorted(names),
        by_severity(problems),
        [*plan.notes, *_scribbles(records), *(split.describe() if split else ())],
    )
    return _Done(records, split, report)


def _scribbles(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is to be said of the scribbles, where there are some."""
    drawn = [record for record in records.values() if "scribble_sha256" in record]
    if not drawn:
        return []
    voxels = sum((Counter(record["scribble_voxels"]) for record in drawn), Counter())
    patients = counted(len({record["patient"] for record in drawn}), "patient")
    share = 100 * (1 - voxels[str(IGNORE)] / voxels.total())
    return [
        f"scribbles: {counted(len(drawn), 'case')} of {patients}, {share:.3g} % of their pixels marked: "
        "`annotation: scribble` in a recipe learns from them"
    ]


def _record(plan: Plan, entry: Entry, case: Case) -> dict[str, Any]:
    label = _described(case.label, "label")
    scribble = {} if case.scribble is None else _described(case.scribble, "scribble")
    return {
        "patient": case.patient,
        "shape": list(case.image.shape[1:]),
        "spacing_mm": case.spacing_mm and list(case.spacing_mm),
        "orientation": case.orientation,
        "affine": None if case.affine is None else case.affine.tolist(),
        "sources": [str(file.resolve()) for file in case.sources],
        "frames_are_channels": case.frames_are_channels,
        **({"label_names": list(case.label_names)} if case.label_names else {}),
        "stored_sha256": case.stored_sha256,
        "stored_quantiles": [[float(f"{value:.6g}") for value in channel] for channel in case.stored_quantiles],
        "image_sha256": hashlib.sha256(case.image).hexdigest(),
        **label,
        **scribble,
    }


def _described(array: np.ndarray | None, name: str) -> dict[str, Any]:
    if array is None:
        return {f"{name}_sha256": None, f"{name}_voxels": {}}
    voxels = {str(index): int(n) for index, n in enumerate(np.bincount(array.ravel())) if n}
    return {f"{name}_sha256": hashlib.sha256(array).hexdigest(), f"{name}_voxels": voxels}


def _settings(plan: Plan, entry: Entry) -> dict[str, Any]:
    """All that a written case depends on; as long as it stays the same, the case need not be written again."""
    stats = [(str(file.resolve()), file.stat()) for one in entry.files for file in (one, *data_files(one))]
    return {
        "format": FORMAT,
        "patient": entry.patient,
        "intensity": None if plan.listing.scaled else [dict(rule) for rule in plan.intensity],
        "values": sorted(plan.classes.values.items()),
        "threshold": plan.classes.threshold,
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
        **({"scribble_values": sorted(plan.scribble_values.items())} if entry.scribble else {}),
        **({"empty_is_error": True} if plan.empty_is_error else {}),
    }


def _paths(out: Path, identifier: str) -> tuple[Path, Path, Path, Path]:
    """Of image, label, scribble and note."""
    return (
        out / "images" / f"{identifier}.npy",
        out / "labels" / f"{identifier}.npy",
        out / "scribbles" / f"{identifier}.npy",
        out / "cases" / f"{identifier}.json",
    )


def _earlier(plan: Plan, entry: Entry, out: Path) -> tuple[dict[str, Any] | None, list[Problem]]:
    """The record and warnings of a case that an earlier run has written from the same files in the same way."""
    image, label, scribble, note = _paths(out, entry.identifier)
    wanted = [image, note, *([label] if entry.label else []), *([scribble] if entry.scribble else [])]
    if not all(path.is_file() for path in wanted):
        return None, []
    said = read_record(note)
    try:
        settings = _settings(plan, entry)
    except FileNotFoundError:  # a link to nothing: reading it says so
        return None, []
    if said.get("settings") != json.loads(json.dumps(settings)):
        return None, []
    return said["record"], [Problem(**{**warning, "file": Path(warning["file"])}) for warning in said["warnings"]]


def _write(plan: Plan, entry: Entry, case: Case, record: dict[str, Any], found: Sequence[Problem], out: Path) -> None:
    (out / "dataset.json").unlink(missing_ok=True)  # what it describes is about to change
    image, label, scribble, note = _paths(out, entry.identifier)
    note.parent.mkdir(parents=True, exist_ok=True)  # first, by which a killed run's folder is known as ours
    note.unlink(missing_ok=True)
    for path, array in ((image, case.image), (label, case.label), (scribble, case.scribble)):
        if array is None:
            path.unlink(missing_ok=True)
            continue
        save_array(path, array)
    warnings = [{**asdict(problem), "file": str(problem.file)} for problem in found]
    write_json(note, {"settings": _settings(plan, entry), "record": record, "warnings": warnings})


def _remove_stale(out: Path, identifiers: set[str]) -> None:
    """Remove the arrays of cases that this data set does not have, and what a killed run was writing."""
    for folder in ("images", "labels", "scribbles", "cases"):
        remove_temporaries(out / folder)
    for note in (out / "cases").glob("*.json"):
        if note.stem not in identifiers:
            for path in _paths(out, note.stem):
                path.unlink(missing_ok=True)


def _fingerprint(records: Mapping[str, Mapping[str, Any]], plan: Plan) -> str:
    contents = {
        "class_names": list(plan.classes.names),
        "intensity": plan.intensity[0] if len(plan.intensity) == 1 else list(plan.intensity),
        "cases": {
            identifier: [record["shape"], record["image_sha256"], record["label_sha256"]]
            for identifier, record in records.items()
        },
    }
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
