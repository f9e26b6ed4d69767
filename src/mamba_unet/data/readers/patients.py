"""Which cases are of one patient, by their names: such cases must stay in one split."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from mamba_unet.words import counted, some

# What follows a patient's name where several files are of one patient. A dot is no separator: names may be DICOM UIDs.
SLICE = re.compile(r"[ _-]+(slice|frame|phase|time)[ _-]?\d+$", re.IGNORECASE)
SIDE = re.compile(r"([ _-]+(left|right|l|r|od|os|ou)|(?<=\d)[lr])$", re.IGNORECASE)
STAGE = re.compile(r"[ _-]+(pre|post|before|after|baseline|follow[ _-]?up|fu)[ _-]?\d*$", re.IGNORECASE)
COUNTED = "img|image|im|sl|fr|t|z|x|y|view|v|visit|scan|series|tile|patch|crop|roi|region|cut|section|lesion|nodule"
COUNTED += "|session|ses|timepoint|tp|day|week|month|year"
COUNTER = re.compile(
    rf"([ _-]+(({COUNTED})[ _-]?)?\d+|[ _-]+(\dch|ed|es)|[ _-]*\(\d+\)|([ _-]+|(?<=\d))[a-z])$", re.IGNORECASE
)
# beginnings that may be a patient's, and how --patient-regex finds them: all but the last word, or up to a number
BEGINNINGS = {r"(.*\d)[ _-]": re.compile(r"(.*\d)[ _-]+[^ _-]+"), r"(.*?\d+)": re.compile(r"(.*?\d+)(?!\d).+")}


def group_patients(identifiers: Iterable[str]) -> dict[str, str]:
    """Case -> patient: the beginning that several names share, if what follows is a counter, a side, a view or a stage.

    `P00_0`, `P00-img-1`, `P00_left`, `P00_z000`, `P00_a`, `P00_pre` are of `P00`. A beginning that all names share
    (`BRATS20_001`), or one without a digit before a bare number (`ISIC_0000000`, `image_001`), is not a patient: each
    case is then its own.
    """
    identifiers = list(identifiers)
    beginnings = {identifier: _beginnings(identifier) for identifier in identifiers}
    shared = Counter(beginning for identifier in identifiers for beginning in (identifier, *beginnings[identifier]))
    repeated = {beginning for beginning, count in shared.items() if 1 < count < len(identifiers)}
    patients = {}
    for identifier, found in beginnings.items():
        grouped = [beginning for beginning in found if beginning in repeated]
        alone = [beginning for beginning in found if shared[beginning] < len(identifiers)] if repeated else []
        patients[identifier] = (grouped or alone or [_without_slice(identifier)])[-1]
    return patients


def patient_like(name: str, patients: Mapping[str, str]) -> str | None:
    """The patient with whose name, or with whose case's name, another name begins; of several the longest; else None.

    Args:
        name: of an image, `P01_coronal`.
        patients: case -> patient, of others.
    """
    known = {**{patient: patient for patient in patients.values()}, **patients}
    ends = (match.start() for match in re.finditer(r"[ _-]", name))
    found = [known[name[:end]] for end in (*ends, len(name)) if name[:end] in known]
    return found[-1] if found else None


def match_patients(identifiers: Iterable[str], regex: str) -> dict[str, str]:
    """Case -> patient: the first group of the regular expression, or all that it matches.

    Raises:
        ValueError: not a regular expression, or names that it does not match; they are named.
    """
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise ValueError(f"--patient-regex {regex!r} is not a regular expression: {error}") from error
    patients, unmatched = {}, []
    for identifier in identifiers:
        match = pattern.search(identifier)
        patient = match and match[1 if pattern.groups else 0]
        if patient:
            patients[identifier] = patient
        else:
            unmatched.append(identifier)
    if unmatched:
        raise ValueError(
            f"--patient-regex {regex!r} finds no patient in {some(unmatched)}; "
            "expected one in every case's name: its first group, or all that it matches"
        )
    return patients


def describe_patients(patients: Mapping[str, str], how: str) -> str:
    """ "12 cases of 4 patients by ..., as P00: P00_0, P00_1", for a person who may know better."""
    sizes = Counter(patients.values())
    if len(sizes) == len(patients):
        return f"{counted(len(patients), 'case')}, each a patient of its own (--patient-regex groups them)"
    largest = max(sizes, key=lambda patient: sizes[patient])
    members = [identifier for identifier, patient in patients.items() if patient == largest]
    shown = ", ".join(members[:3]) + (", ..." if len(members) > 3 else "")
    return f"{counted(len(patients), 'case')} of {counted(len(sizes), 'patient')} {how}, as {largest}: {shown}"


def doubtful_beginnings(patients: Mapping[str, str]) -> tuple[dict[str, list[str]], str]:
    """Beginnings with a number that most names share with another name of what is taken for another patient.

    Returns:
        beginning -> its cases: `P00` of `P00_anna`, `P00_ben`, or of `P00_CT_001`, `P00_CT_002`; none where fewer than
        half of the names have one. And the regular expression that groups by them.
    """
    for regex, pattern in BEGINNINGS.items():
        shared: dict[str, list[str]] = {}
        for identifier in patients:
            if found := pattern.fullmatch(identifier):
                shared.setdefault(found[1], []).append(identifier)
        apart = {
            beginning: cases
            for beginning, cases in shared.items()
            if len(cases) < len(patients) and len({patients[case] for case in cases}) > 1
        }
        if 2 * sum(map(len, apart.values())) >= len(patients) > 0:
            return apart, regex
    return {}, ""


def _beginnings(name: str) -> list[str]:
    """The beginnings of a name that may be a patient's, the longest first."""
    found = []
    while True:
        for rest in (SLICE, SIDE, STAGE, COUNTER):
            beginning = rest.sub("", name)
            if beginning and beginning != name:
                break
        else:
            return found
        name = beginning
        # a bare number may count the patients themselves
        if rest is not COUNTER or any(character.isdigit() for character in re.split("[ _-]", name)[-1]):
            found.append(name)


def _without_slice(name: str) -> str:
    beginning = SLICE.sub("", name)
    return _without_slice(beginning) if beginning and beginning != name else name
