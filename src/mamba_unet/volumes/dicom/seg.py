"""A segmentation as a DICOM object that refers to the images it was made from.

D H W slices, rows and columns of the scan.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mamba_unet
from mamba_unet.files import atomic_path
from mamba_unet.volumes.geometry import LPS_TO_RAS
from mamba_unet.volumes.volume import Volume

if TYPE_CHECKING:
    from highdicom.sr import CodedConcept

# class name -> the concept's keyword in DICOM's dictionary of SNOMED CT codes; kidneys and lungs get their side besides
_CONCEPTS = {
    "adrenal gland": "AdrenalGland",
    "aorta": "Aorta",
    "brain": "Brain",
    "esophagus": "Esophagus",
    "gallbladder": "Gallbladder",
    "heart": "Heart",
    "inferior vena cava": "InferiorVenaCava",
    "kidney": "Kidney",
    "left atrium": "LeftAtrium",
    "left ventricle": "LeftVentricle",
    "liver": "Liver",
    "lung": "Lung",
    "myocardium": "LeftVentricleMyocardium",  # what cardiac data sets mean by it
    "oesophagus": "Esophagus",
    "pancreas": "Pancreas",
    "portal vein": "PortalVein",
    "right atrium": "RightAtrium",
    "right ventricle": "RightVentricle",
    "spleen": "Spleen",
    "stomach": "Stomach",
    "urinary bladder": "UrinaryBladder",
}


def save_dicom_seg(
    path: str | Path,
    scan: Volume,
    label: np.ndarray,
    class_names: Sequence[str],
    colors: Sequence[str],
    frame: int | None = None,
) -> None:
    """Write `label` as a binary DICOM segmentation, one segment per foreground class, also of those that are absent.

    Segment n is class n, under its name. Frames without a voxel are left out, as is usual, unless all are.

    Args:
        path: the file to write, `case.dcm`.
        scan: the DICOM series that was segmented.
        label: (D, H, W) class indices.
        class_names: the first is background.
        colors: recommended for display, "#rrggbb" of each foreground class.
        frame: of a cine, which one `label` is of; a segmentation has no axis of time, so each is an object of its own.

    Raises:
        ValueError: the scan is not from DICOM, or lies in no frame of reference; the label is not of its shape or holds
            other classes; the frame of a cine is not told.

    Source: DICOM PS3.3, A.51 (Segmentation IOD) and C.8.20 (its modules).
    """
    if scan.dicom is None:
        raise ValueError(f"{scan.name} is not from DICOM, which a DICOM segmentation must refer to; write it as NIfTI")
    frames, shape = scan.frames, list(scan.shape)
    if frames > 1 and frame is None:
        raise ValueError(
            f"{scan.name} is a cine of {frames} frames, and a DICOM segmentation has no axis of time; choose one by "
            "`frame`, or write NIfTI"
        )
    frame = frame or 0
    if not 0 <= frame < frames:
        raise ValueError(f"{scan.name}: frame {frame} is not in 0..{frames - 1}")
    if label.shape != tuple(shape):
        raise ValueError(f"{scan.name}: label of shape {label.shape}, expected that of the scan, {tuple(shape)}")
    if label.max(initial=0) >= len(class_names) or label.min(initial=0) < 0:
        raise ValueError(
            f"{scan.name}: label values {label.min()}..{label.max()}, expected 0..{len(class_names) - 1}: "
            f"{', '.join(class_names)}"
        )
    if len(colors) != len(class_names) - 1:
        raise ValueError(f"{len(colors)} colours for {len(class_names) - 1} foreground classes; give one for each")
    sources = scan.dicom[frame * shape[0] : (frame + 1) * shape[0]]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        if not sources[0].get(keyword):
            raise ValueError(
                f"{scan.name}: its DICOM files have no {keyword}, without which viewers cannot lay a segmentation over "
                "them; write it as NIfTI"
            )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom|highdicom")  # odd values in users' files
        try:
            segmentation = _segmentation(scan, sources, label.astype(np.uint8), class_names, colors)
        except (AttributeError, TypeError, ValueError) as error:  # attributes that highdicom needs, or finds invalid
            raise ValueError(f"{scan.name}: no DICOM segmentation of these files ({error}); write NIfTI") from error
        with atomic_path(path) as temporary:
            segmentation.save_as(temporary)


def _segmentation(
    scan: Volume, sources: Sequence[Any], label: np.ndarray, class_names: Sequence[str], colors: Sequence[str]
) -> Any:
    import highdicom as hd
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="mamba-unet", family=codes.DCM.ArtificialIntelligence, version=mamba_unet.__version__
    )
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=_concept(name),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=CIELabColor.from_rgb(*bytes.fromhex(color.removeprefix("#"))),
        )
        for number, (name, color) in enumerate(zip(class_names[1:], colors, strict=True), start=1)
    ]
    images, others = _first_series(sources)
    file_by_file = len(images) == len(sources) and "NumberOfFrames" not in images[0]
    return hd.seg.Segmentation(
        source_images=[_completed(image) for image in images],
        further_source_images=others or None,
        pixel_array=label if file_by_file else _volume(scan, sources, label),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        omit_empty_frames=bool(label.any()),  # a segmentation without any frame is not valid
        series_instance_uid=hd.UID(),
        series_number=1000 + int(images[0].get("SeriesNumber") or 0),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="mamba-unet",
        manufacturer_model_name="mamba-unet",
        software_versions=mamba_unet.__version__,
        device_serial_number="none",
        series_description="mamba-unet segmentation",
        content_label="SEGMENTATION",
        specific_character_set="ISO_IR 192",  # UTF-8: class names are anyone's
    )


def _first_series(sources: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The images that highdicom takes as the source, and the others: it wants one series, or one multi-frame object."""
    distinct = list({id(source): source for source in sources}.values())
    first = distinct[0]
    if "NumberOfFrames" in first:
        return [first], distinct[1:]
    mine = [source for source in distinct if source.SeriesInstanceUID == first.SeriesInstanceUID]
    return mine, [source for source in distinct if source.SeriesInstanceUID != first.SeriesInstanceUID]


def _completed(image: Any) -> Any:
    """A copy with what anonymisation drops and highdicom copies: attributes that must be there, but may be empty."""
    from pydicom import Dataset

    completed = Dataset()
    completed.update(image)
    for keyword in (
        *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
        *("StudyID", "StudyDate", "StudyTime", "AccessionNumber"),
    ):
        if completed.get(keyword) is None or (keyword == "PatientSex" and completed.PatientSex not in ("M", "F", "O")):
            setattr(completed, keyword, "")
    return completed


def _volume(scan: Volume, sources: Sequence[Any], label: np.ndarray) -> Any:
    """The label with its place in the patient, where slices are not the sources' files one by one."""
    import highdicom as hd

    lps = LPS_TO_RAS @ scan.affine  # its own inverse
    return hd.Volume(
        label, lps[:, [2, 1, 0, 3]], coordinate_system="PATIENT", frame_of_reference_uid=sources[0].FrameOfReferenceUID
    )


def _concept(name: str) -> "CodedConcept":
    """The anatomy that a class name says, by its SNOMED code; a private code for any other name."""
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    words = name.lower().replace("_", " ")
    side, _, organ = words.partition(" ")
    if words in _CONCEPTS:
        return CodedConcept.from_code(getattr(codes.SCT, _CONCEPTS[words]))
    if side in ("left", "right") and organ in _CONCEPTS:
        concept = CodedConcept.from_code(getattr(codes.SCT, _CONCEPTS[organ]))
        modifier = CodedConcept.from_code(getattr(codes.SCT, side.title()))
        concept.SegmentedPropertyTypeModifierCodeSequence = [modifier]
        return concept
    return CodedConcept(value=name, scheme_designator="99MAMBAUNET", meaning=name[:64])
