"""The heart's volumes and function from its segmentation at end-diastole (ED) and end-systole (ES).

Discs are summed (Simpson's rule as cardiac MRI uses it): a volume is the number of voxels times the volume of one.
D H W array axes, T frames. Frames count from 0, but from 1 in what people read, in ACDC's `Info.cfg` and in file names.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.files import to_csv, write_text
from mamba_unet.measures.statistics import CaseStatistics, StructureStatistics, structure_statistics
from mamba_unet.tables import Table, number
from mamba_unet.volumes.formats import FILES, ending
from mamba_unet.volumes.read import case_name
from mamba_unet.words import counted

MYOCARDIUM_G_PER_ML = 1.05  # as SCMR's recommendations have it (Schulz-Menger et al. 2020)
FEWEST_SLICES = 2 / 3  # of ED's slices that show the left ventricle at ES; in ACDC's 100 patients it is at least 0.7

LV, RV, MYOCARDIUM = "left ventricle", "right ventricle", "myocardium"
# as data sets call them; compared in lower case, with anything but letters and digits as one space
SPELLINGS = {
    LV: (
        "left ventricle",
        "lv",
        "lvc",
        "lv cavity",
        "lv blood pool",
        "left ventricular cavity",
        "left ventricle cavity",
        "left ventricular blood pool",
        "left ventricle blood pool",
        "left ventricle blood cavity",
        "heart ventricle left",
    ),
    RV: (
        "right ventricle",
        "rv",
        "rvc",
        "rv cavity",
        "rv blood pool",
        "right ventricular cavity",
        "right ventricle cavity",
        "right ventricular blood pool",
        "right ventricle blood pool",
        "right ventricle blood cavity",
        "heart ventricle right",
    ),
    MYOCARDIUM: (
        "myocardium",
        "myo",
        "lvm",
        "lvmyo",
        "lv myo",
        "lv myocardium",
        "left ventricular myocardium",
        "left ventricle myocardium",
        "myocardium of the left ventricle",
        "heart myocardium",
    ),
}

CARDIAC_FILES = ("cardiac.csv", "cardiac.md")
# what `predict` writes beside label maps
BESIDE_LABELS = ("_preview.png", "_probabilities.nii.gz", "_uncertainty.nii.gz")

FRAME = re.compile(r"(.+)_frame(\d+)", re.IGNORECASE)
CINE_FRAME = re.compile(r"frame (\d+)")  # as `CardiacCase` names those of a cine
PHASE = re.compile(r"(.+)_(ED|ES)", re.IGNORECASE)


def heart_structures(class_names: Sequence[str]) -> dict[str, str]:
    """Which class is the cavity of the left and of the right ventricle, and which the left ventricle's myocardium.

    Args:
        class_names: in any order, with or without the background.

    Returns:
        `LV`, `RV`, `MYOCARDIUM` -> the name among `class_names`; the last two only where there is one.

    Raises:
        ValueError: no left ventricle, or two names for one structure.
    """
    found = {}
    for structure, spellings in SPELLINGS.items():
        names = [name for name in class_names if re.sub(r"[\W_]+", " ", name.lower()).strip() in spellings]
        if len(names) > 1:
            raise ValueError(f"{names} are all the {structure}; give each class another name (--class-names)")
        if names:
            found[structure] = names[0]
    if LV not in found:
        raise ValueError(
            f"no class is the left ventricle among {', '.join(class_names) or 'none'}; looked for "
            f"{', '.join(SPELLINGS[LV])}; name the classes in the order of their indices "
            "(--class-names RV MYO LV), or the data set (--dataset acdc)"
        )
    return found


def find_phases(lv_voxels: Sequence[int]) -> tuple[int, int]:
    """End-diastole and end-systole of a cine: the frames of the largest and of the smallest left ventricle.

    Args:
        lv_voxels: size of the left ventricle's cavity per frame, in any unit. Frames without any are left out: there
            the segmentation failed.

    Returns:
        ED and ES, from 0, the first of equals; the same frame twice where no two differ.

    Raises:
        ValueError: there is no left ventricle in any frame.
    """
    sizes = np.asarray(lv_voxels)
    if not (sizes > 0).any():
        raise ValueError(f"no left ventricle in any of {len(sizes)} frames")
    return int(sizes.argmax()), int(np.where(sizes > 0, sizes, sizes.max() + 1).argmin())


def read_info_cfg(path: str | Path) -> dict[str, int | float | str]:
    """ACDC's `Info.cfg`: lines such as `ED: 1`, `ES: 12`, `Group: DCM`, `Height: 184.0`, `Weight: 95.0`.

    Returns:
        `ED` and `ES` as int, from 1 as the file has them; other numbers as float, the rest as text.

    Raises:
        ValueError: ED or ES is missing or no frame number.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    info: dict[str, Any] = dict(re.findall(r"^\s*(\w+)\s*:[ \t]*(.*?)\s*$", text, re.MULTILINE))
    for phase in ("ED", "ES"):
        value = info.get(phase, "")
        if not value.isdecimal() or int(value) < 1:
            came = f"'{phase}: {value}'" if phase in info else f"no line '{phase}: ...'"
            raise ValueError(f"{path}: expected a frame number from 1 as '{phase}: 12', found {came}")
        info[phase] = int(value)
    for key, value in info.items():
        if isinstance(value, str) and re.fullmatch(r"\d+(\.\d*)?", value):
            info[key] = float(value)
    return info


@dataclass(frozen=True)
class CardiacMeasures:
    """What the segmentations at end-diastole and end-systole say of a heart.

    EDV, ESV end-diastolic and end-systolic volume; SV stroke volume, EDV - ESV; EF ejection fraction, SV / EDV. A
    value is None where its structure is not among the classes, EF also where EDV is 0.

    Attributes:
        myocardial_mass_g: of the left ventricle's wall, at end-diastole.
        notes: what makes the numbers doubtful.
    """

    lv_edv_ml: float
    lv_esv_ml: float
    lv_sv_ml: float
    lv_ef_percent: float | None
    rv_edv_ml: float | None
    rv_esv_ml: float | None
    rv_sv_ml: float | None
    rv_ef_percent: float | None
    myocardial_mass_g: float | None
    notes: tuple[str, ...] = ()


def cardiac_measures(
    ed: np.ndarray, es: np.ndarray, spacing_mm: Sequence[float], class_names: Sequence[str]
) -> CardiacMeasures:
    """Measure a heart from two label maps.

    Args:
        ed, es: (D, H, W) class indices at end-diastole and end-systole.
        spacing_mm: of D, H, W; for D the distance between slices, gap included.
        class_names: [0] is the background.

    Raises:
        ValueError: shapes differ, no spacing, or no left ventricle among the classes.
    """
    if ed.shape != es.shape:
        raise ValueError(f"end-diastole of shape {ed.shape}, end-systole {es.shape}: expected the same (D, H, W)")
    phases = [structure_statistics(label[None], class_names, spacing_mm) for label in (ed, es)]
    return _measures(*phases)


def _measures(ed: Sequence[StructureStatistics], es: Sequence[StructureStatistics]) -> CardiacMeasures:
    """From the structures of the two frames."""
    named = [", ".join(one.structure for one in phase) for phase in (ed, es)]
    if named[0] != named[1]:
        raise ValueError(
            f"the classes are {named[0]} at ED and {named[1]} at ES; expected the same names: state them, --class-names"
        )
    names = heart_structures([one.structure for one in ed])
    phases = [{one.structure: one for one in phase} for phase in (ed, es)]
    if any(one.volume_ml is None for phase in (ed, es) for one in phase):
        raise ValueError(
            "the voxel size is not known, and volumes in ml need it; state it as --spacing D H W in mm, the distance "
            "between slices first: --spacing 10 1.5 1.5"
        )
    values: dict[str, float | None] = {}
    stacks = [len(phase[0].area_pixels) for phase in (ed, es)]
    notes = [] if stacks[0] == stacks[1] else [f"the stack has {stacks[0]} slices at ED and {stacks[1]} at ES"]
    for short, structure in (("lv", LV), ("rv", RV)):
        edv = esv = sv = ef = None
        if structure in names:
            edv, esv = (phase[names[structure]].volume_ml for phase in phases)
            sv = edv - esv
            ef = 100 * sv / edv if edv else None
            notes += _doubts(structure, *(phase[names[structure]] for phase in phases))
        else:
            notes.append(f"no class is the {structure}")
        values |= {f"{short}_edv_ml": edv, f"{short}_esv_ml": esv, f"{short}_sv_ml": sv, f"{short}_ef_percent": ef}
    mass = None
    if MYOCARDIUM in names:
        mass = phases[0][names[MYOCARDIUM]].volume_ml * MYOCARDIUM_G_PER_ML
        if not mass:
            notes.append("no myocardium at ED")
    else:
        notes.append("no class is the myocardium")
    return CardiacMeasures(**values, myocardial_mass_g=mass, notes=tuple(notes))


def _doubts(structure: str, ed: StructureStatistics, es: StructureStatistics) -> list[str]:
    """Why a ventricle's volumes may be wrong."""
    notes = [f"no {structure} at {phase}" for phase, one in (("ED", ed), ("ES", es)) if not one.voxels]
    if es.volume_ml > ed.volume_ml:
        notes.append(f"{structure} larger at ES ({es.volume_ml:.1f} ml) than at ED ({ed.volume_ml:.1f} ml)")
    for phase, one in (("ED", ed), ("ES", es)):
        if one.touches_border:
            notes.append(f"{structure} cut off by the image border at {phase}")
        if one.slices and not all(one.area_pixels[one.slices[0] : one.slices[1] + 1]):
            notes.append(f"{structure} missing in a slice between others at {phase}")
    before, after = (sum(area > 0 for area in one.area_pixels) for one in (ed, es))
    if structure == LV and 0 < after < FEWEST_SLICES * before:
        notes.append(
            f"{structure} in {counted(after, 'slice')} at ES and {before} at ED: slices at the base may be missing"
        )
    return notes


@dataclass(frozen=True)
class CardiacCase:
    """The measures of one heart, and of which frames.

    Attributes:
        case: patient, or name of the cine.
        ed, es: names of the two cases, or "frame 0" of a cine, whose frames count from 0.
        phases_by: how they were found.
    """

    case: str
    ed: str
    es: str
    phases_by: str
    measures: CardiacMeasures


def cardiac_cases(cases: Sequence[CaseStatistics]) -> tuple[list[CardiacCase], dict[str, str]]:
    """Find each heart's end-diastole and end-systole and measure it.

    A cine (several frames in one case) is a heart. So are the cases `patient001_frame01`, `patient001_frame12`, or
    `..._ED`, `..._ES`. Which frame is which is said, in this order, by the name, by `Info.cfg` beside the source, by
    the size of the left ventricle.

    Returns:
        The hearts, and for each that could not be measured the reason; the others are not stopped.
    """
    hearts: dict[tuple[str, bool], list[tuple[str, CaseStatistics]]] = {}
    patients: dict[Path, set[str]] = {}  # folder -> the patients whose images are in it
    for case in cases:
        name, part = _heart(case.case)
        hearts.setdefault((name, bool(part)), []).append((part, case))
        if case.source is not None:
            patients.setdefault(case.source.parent, set()).add(name.removesuffix("_4d"))
    measured, failures = [], {}
    for (name, _), parts in hearts.items():
        folders = sorted({case.source.parent for _, case in parts if case.source is not None})
        infos = [folder / "Info.cfg" for folder in folders if (folder / "Info.cfg").is_file()]
        # it describes one patient, and names none: beside images of several it is not used
        known = [info for info in infos if len(patients[info.parent] | _patients_in(info.parent)) == 1]
        try:
            measured.append(_measure_heart(name, parts, next(iter(known), None)))
        except (ValueError, OSError) as error:
            failures[name] = str(error)
    return measured, failures


def _heart(case: str) -> tuple[str, str]:
    """Whose case it is, and "ED", "ES" or the frame's number; "" of a cine."""
    match = PHASE.fullmatch(case) or FRAME.fullmatch(case)
    return (match[1], match[2].upper()) if match else (case, "")


def _patients_in(folder: Path) -> set[str]:
    """The patients whose images or labels lie in a folder, by the files' names."""
    files = [path for path in folder.iterdir() if ending(path, FILES) and not ending(path, BESIDE_LABELS)]
    return {_heart(case_name(path).removesuffix("_gt"))[0].removesuffix("_4d") for path in files}


def _measure_heart(name: str, parts: Sequence[tuple[str, CaseStatistics]], info: Path | None) -> CardiacCase:
    """Choose ED and ES among the frames of one heart, and measure.

    Args:
        parts: "ED", "ES", or the frame's number, and its case; "" and a cine.
    """
    frames: dict[str | int, tuple[str, list[StructureStatistics]]] = {}
    for part, case in parts:
        if part:
            number_or_phase = int(part) if part.isdecimal() else part
            other = frames.setdefault(number_or_phase, (case.case, list(case.structures)))[0]
            if other != case.case:
                raise ValueError(f"{other} and {case.case} are the same frame; leave one out")
            if count := max((one.frame for one in case.structures), default=0):
                raise ValueError(f"{case.case} is named as one frame and holds {count + 1}; rename it")
        for one in () if part else case.structures:
            frames.setdefault(one.frame + 1, (f"frame {one.frame}", []))[1].append(one)
    notes: list[str] = []
    if len(frames) < 2 or len(frames.keys() & {"ED", "ES"}) == 1:
        raise ValueError(
            f"only {', '.join(_read(text) for text, _ in frames.values())}, and ejection needs end-diastole and "
            "end-systole: give a cine, or both frames of a patient as ..._frame01 and ..._frame12, or as ..._ED "
            "and ..._ES"
        )
    if "ED" in frames:
        ed, es, phases_by = "ED", "ES", "name"
    elif info is not None:
        said = read_info_cfg(info)
        for phase in ("ED", "ES"):
            if said[phase] not in frames:
                there = ", ".join(map(str, sorted(frames)))
                raise ValueError(f"{info}: {phase} is frame {said[phase]}, counted from 1; there are frames {there}")
        ed, es, phases_by = said["ED"], said["ES"], "Info.cfg"
    else:
        numbers = sorted(frames)
        structures = [{one.structure: one for one in frames[number][1]} for number in numbers]
        ventricles = [found[heart_structures(list(found))[LV]] for found in structures]
        volumes = [one.volume_ml for one in ventricles]  # voxels of two frames may differ in size
        sizes = [one.voxels for one in ventricles] if None in volumes else volumes
        ed, es = (numbers[index] for index in find_phases(sizes))
        phases_by = "left ventricle's size"
        if sizes.count(0):
            notes.append(f"{sizes.count(0)} of {len(frames)} frames without a left ventricle are left out")
    if ed == es:
        notes.append("ED and ES are the same frame")
    measures = _measures(frames[ed][1], frames[es][1])
    return CardiacCase(
        name, frames[ed][0], frames[es][0], phases_by, replace(measures, notes=(*notes, *measures.notes))
    )


def write_cardiac(folder: str | Path, hearts: Sequence[CardiacCase]) -> None:
    """Write `cardiac.csv` (every number in full) and `cardiac.md` (the table to read), atomically.

    Without hearts they are removed: they would be of other labels.
    """
    if not hearts:
        for name in CARDIAC_FILES:
            (Path(folder) / name).unlink(missing_ok=True)
        return
    rows = []
    for heart in hearts:
        values = asdict(heart.measures)
        notes = "; ".join(values.pop("notes"))
        rows.append(
            {"case": heart.case, "ed": heart.ed, "es": heart.es, "phases_by": heart.phases_by, **values, "notes": notes}
        )
    for name, text in zip(CARDIAC_FILES, (to_csv(rows), cardiac_table(hearts)), strict=True):
        write_text(Path(folder) / name, text)


def cardiac_table(hearts: Sequence[CardiacCase]) -> str:
    """The measures to read, as Markdown: volumes in ml, ejection fraction in %, mass in g; then the notes. A cine's
    frames count from 1 here."""
    titles = ["case", "ED", "ES"]
    titles += [f"{side} {what}" for side in ("LV", "RV") for what in ("EDV ml", "ESV ml", "SV ml", "EF %")]
    rows = []
    for heart in hearts:
        values = asdict(heart.measures)
        doubts = "*" if values.pop("notes") else ""
        numbers = [number(value, 1) for value in values.values()]
        rows.append([heart.case + doubts, _short(heart, heart.ed), _short(heart, heart.es), *numbers])
    table = Table([*titles, "mass g"], rows, left=(0, 1, 2)).markdown()
    doubts = [f"- {heart.case}: {'; '.join(heart.measures.notes)}\n" for heart in hearts if heart.measures.notes]
    return table + ("\n\\* to be checked by a person:\n\n" + "".join(doubts) if doubts else "")


def _short(heart: CardiacCase, frame: str) -> str:
    """`frame01` of `patient001_frame01`; the table names the patient already."""
    return _read(frame).removeprefix(f"{heart.case}_")


def _read(frame: str) -> str:
    """The name of a frame as people read it."""
    return f"frame {int(match[1]) + 1}" if (match := CINE_FRAME.fullmatch(frame)) else frame
