"""Patient and study of an image in a form that another DICOM object may copy."""

import re
from typing import Any

_IDENTITY = ("PatientID", "PatientName")  # never changed: a shortened one might be another patient's
_MAY_BE_EMPTY = (  # what must be there, but may be empty
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
)
_STUDY = (*_MAY_BE_EMPTY, "ReferringPhysicianName", "StudyDescription")
_PATIENT_GROUPS = (0x0010, 0x0012)


def completed(image: Any) -> Any:
    """A copy whose patient and study, which highdicom copies, are as DICOM allows them.

    What anonymisation drops and must be there is empty; what is not valid is empty or left out.

    Raises:
        ValueError: the patient's name or ID is not valid.
    """
    from pydicom import Dataset
    from pydicom.datadict import keyword_for_tag

    copy = Dataset()
    copy.update(image)
    for tag in list(copy.keys()):
        keyword = keyword_for_tag(tag)
        if (tag.group not in _PATIENT_GROUPS and keyword not in _STUDY) or _is_allowed(copy, tag):
            continue
        if keyword in _IDENTITY:
            raise ValueError(f"{keyword} is longer than DICOM allows, or holds characters that it does not")
        date = re.fullmatch(r"(\d{4})\.(\d{1,2})\.(\d{1,2})", str(copy[tag].value))  # as ACR-NEMA wrote it
        del copy[tag]
        if date:
            setattr(copy, keyword, f"{date[1]}{int(date[2]):02}{int(date[3]):02}")
    for keyword in _MAY_BE_EMPTY:
        if copy.get(keyword) is None or (keyword == "PatientSex" and copy.PatientSex not in ("M", "F", "O")):
            setattr(copy, keyword, "")
    return copy


def _is_allowed(dataset: Any, tag: Any) -> bool:
    import pydicom
    from pydicom.valuerep import validate_value

    try:
        element = dataset[tag]
        values = element.value if element.VM > 1 else [element.value]
        for value in values if element.VR != "SQ" and values != [None] else ():
            validate_value(element.VR, value, pydicom.config.RAISE)
    except Exception:  # a value that cannot even be read
        return False
    return True
