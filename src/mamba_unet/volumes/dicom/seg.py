"""A segmentation as a DICOM object that refers to the images it was made from.

D H W slices, rows and columns of the image.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mamba_unet
from mamba_unet.files import atomic_path
from mamba_unet.volumes.dicom.frame import number
from mamba_unet.volumes.dicom.patient import completed
from mamba_unet.volumes.formats import RefusedError
from mamba_unet.volumes.geometry import LPS_TO_RAS
from mamba_unet.volumes.volume import Volume
from mamba_unet.words import printable

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


_LARGEST_IS = 2**31 - 1  # of DICOM's integer strings


def check_seg_possible(
    volume: Volume, class_names: Sequence[str] = ("background", "segment"), frame: int | None = None
) -> None:
    """Whether `save_dicom_seg` can write a segmentation of this volume, to know it before a network runs.

    Raises:
        ValueError: why it cannot, and what to do.
    """
    label = np.zeros(volume.array.shape[-3:], np.uint8)
    label[0, 0, 0] = 1  # the cheapest one that is not empty
    with writing(volume):
        _segmentation(volume, sources_of(volume, frame), label, class_names, ["#ffffff"] * (len(class_names) - 1))


def save_dicom_seg(
    path: str | Path,
    volume: Volume,
    label: np.ndarray,
    class_names: Sequence[str],
    colors: Sequence[str],
    frame: int | None = None,
    edited: bool = False,
    series_uid: str | None = None,
) -> None:
    """Write `label` as a binary DICOM segmentation, one segment per foreground class, also of those that are absent.

    Segment n is class n, under its name. Frames without a voxel are left out, as is usual, unless all are. Attributes
    of patient and study are copied; one that DICOM does not allow (a birth date of words) is left empty or out.

    Args:
        path: the file to write, `case.dcm`.
        volume: the DICOM series that was segmented.
        label: (D, H, W) class indices.
        class_names: the first is background.
        colors: recommended for display, "#rrggbb" of each foreground class.
        frame: of a cine, which one `label` is of; a segmentation has no axis of time, so each is an object of its own.
        edited: a person has changed what the network found; it is then marked as semi-automatic.
        series_uid: of the segmentation, which the phases of a cine may share; None makes a new one.

    Raises:
        ValueError: the volume is not from DICOM, or lies in no frame of reference; the label is not of its shape or
            holds other classes; the frame of a cine is not told; a UID or the patient is told in a form that DICOM
            does not allow.

    Source: DICOM PS3.3, A.51 (Segmentation IOD) and C.8.20 (its modules).
    """
    with writing(volume):
        sources = sources_of(volume, frame)
    shape = volume.array.shape[-3:]
    if label.shape != shape:
        raise ValueError(f"{volume.name}: label of shape {label.shape}, expected that of the image, {shape}")
    if label.max(initial=0) >= len(class_names) or label.min(initial=0) < 0:
        raise ValueError(
            f"{volume.name}: label values {label.min()}..{label.max()}, expected 0..{len(class_names) - 1}: "
            f"{', '.join(class_names)}"
        )
    if len(colors) != len(class_names) - 1:
        raise ValueError(f"{len(colors)} colours for {len(class_names) - 1} foreground classes; give one for each")
    with writing(volume):
        segmentation = _segmentation(volume, sources, label.astype(np.uint8), class_names, colors, edited, series_uid)
        segmentation.InstanceNumber = (frame or 0) + 1
        with atomic_path(path) as temporary:
            segmentation.save_as(temporary)


def sources_of(volume: Volume, frame: int | None) -> list[tuple[Any, int | None]]:
    """The image of each slice, of one frame of a cine, once it is known that they can be referred to.

    Returns:
        Data sets, each with the number of its frame (from 1) where it is a multi-frame object.
    """
    if volume.dicom is None:
        raise RefusedError(
            f"{volume.name} is not from DICOM, which a DICOM segmentation must refer to; write it as NIfTI"
        )
    frames, slices = volume.array.shape[0], volume.array.shape[-3]
    if frames > 1 and frame is None:
        raise RefusedError(
            f"{volume.name} is a cine of {frames} frames, and a DICOM segmentation has no axis of time; choose one by "
            "`frame`, or write NIfTI"
        )
    frame = frame or 0
    if not 0 <= frame < frames:
        raise RefusedError(f"{volume.name}: frame {frame} is not in 0..{frames - 1}")
    sources = volume.dicom[frame * slices : (frame + 1) * slices]
    for keyword in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        uids = [str(source.get(keyword) or "") for source in sources]
        if not all(uids):
            raise RefusedError(
                f"{volume.name}: its DICOM files have no {keyword}, without which viewers cannot lay a segmentation "
                "over them; write it as NIfTI"
            )
        wrong = next((uid for uid in uids if not re.fullmatch(r"[0-9.]{1,64}", uid)), None)
        if wrong is not None:
            raise RefusedError(
                f"{volume.name}: {keyword} is {wrong[:80]!r}; expected at most 64 digits and dots, by which a "
                "segmentation can refer to it; write it as NIfTI"
            )
        if keyword in ("StudyInstanceUID", "FrameOfReferenceUID") and len(set(uids)) > 1:
            raise RefusedError(
                f"{volume.name}: its images have {len(set(uids))} values of {keyword}, expected one for all of them, "
                "as a segmentation has; write it as NIfTI"
            )
    numbers = [index + 1 for index in volume.dicom_frames][frame * slices : (frame + 1) * slices] or [None] * slices
    return [
        (source, number if _is_multiframe(source) else None) for source, number in zip(sources, numbers, strict=True)
    ]


def _is_multiframe(image: Any) -> bool:
    return "PerFrameFunctionalGroupsSequence" in image or int(image.get("NumberOfFrames") or 1) > 1


@contextmanager
def writing(volume: Volume, what: str = "segmentation") -> Iterator[None]:
    """Turn what highdicom raises at attributes that it needs, or finds invalid, into a sentence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom|highdicom")  # odd values in users' files
        try:
            yield
        except RefusedError:
            raise
        except (OSError, MemoryError):  # of the disk and the machine, not of the files
            raise
        except Exception as error:  # it may be of any kind
            said = printable(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
            raise ValueError(f"{volume.name}: no DICOM {what} of these files ({said}); write NIfTI") from error


def _segmentation(
    volume: Volume,
    sources: Sequence[tuple[Any, int | None]],
    label: np.ndarray,
    class_names: Sequence[str],
    colors: Sequence[str],
    edited: bool = False,
    series_uid: str | None = None,
) -> Any:
    import highdicom as hd
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="mamba-unet", family=codes.DCM.ArtificialIntelligence, version=mamba_unet.__version__
    )
    types = hd.seg.SegmentAlgorithmTypeValues
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:64],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=_property_type(name),
            algorithm_type=types.SEMIAUTOMATIC if edited else types.AUTOMATIC,
            algorithm_identification=algorithm,
            display_color=CIELabColor.from_rgb(*bytes.fromhex(color.removeprefix("#"))),
        )
        for number, (name, color) in enumerate(zip(class_names[1:], colors, strict=True), start=1)
    ]
    images, others = _first_series([image for image, _ in sources])
    file_by_file = len(images) == len(sources) and "NumberOfFrames" not in images[0]
    segmentation = hd.seg.Segmentation(
        source_images=[completed(image) for image in images],
        further_source_images=others or None,
        pixel_array=label if file_by_file else _placed(volume, images[0], label),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=descriptions,
        omit_empty_frames=bool(label.any()),  # a segmentation without any frame is not valid
        series_instance_uid=series_uid or hd.UID(),
        series_number=series_number(images[0]),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="mamba-unet",
        manufacturer_model_name="mamba-unet",
        software_versions=mamba_unet.__version__,
        device_serial_number="none",
        series_description="mamba-unet segmentation" + (", edited" if edited else ""),
        content_label="SEGMENTATION",
        specific_character_set="ISO_IR 192",  # UTF-8: class names are anyone's
    )
    _refer_to_sources(segmentation, volume, sources)
    return segmentation


def _refer_to_sources(segmentation: Any, volume: Volume, sources: Sequence[tuple[Any, int | None]]) -> None:
    """Say of each frame which image it was made from.

    highdicom looks for images at its position, which all phases of a multi-frame cine share, and in one series only.
    """
    to_slice = np.linalg.inv(LPS_TO_RAS @ volume.affine)[2]
    for group in segmentation.PerFrameFunctionalGroupsSequence:
        position = group.PlanePositionSequence[0].ImagePositionPatient
        nearest = round(float(to_slice @ [*position, 1]))
        group.DerivationImageSequence = [_derivation(*sources[min(max(nearest, 0), len(sources) - 1)])]


def _derivation(image: Any, number: int | None) -> Any:
    """An item of DerivationImageSequence (PS3.3, C.7.6.16.2.6)."""
    from highdicom.sr import CodedConcept
    from pydicom import Dataset
    from pydicom.sr.codedict import codes

    source, derivation = Dataset(), Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if number is not None:
        source.ReferencedFrameNumber = number
    purpose = CodedConcept.from_code(codes.cid7202.SourceImageForImageProcessingOperation)
    source.PurposeOfReferenceCodeSequence, source.SpatialLocationsPreserved = [purpose], "YES"
    derivation.DerivationCodeSequence = [CodedConcept.from_code(codes.cid7203.SegmentationImageDerivation)]
    derivation.SourceImageSequence = [source]
    return derivation


def _first_series(sources: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The images that highdicom takes as the source, and the others: it wants one series, or one multi-frame object."""
    distinct = list({id(source): source for source in sources}.values())
    first = distinct[0]
    if "NumberOfFrames" in first:
        return [first], distinct[1:]
    mine = [source for source in distinct if source.SeriesInstanceUID == first.SeriesInstanceUID]
    return mine, [source for source in distinct if source.SeriesInstanceUID != first.SeriesInstanceUID]


def series_number(image: Any, more: int = 1000) -> int:
    """So much more than the images', so that it lies beside them in a list; `more` where that is no number of DICOM."""
    wanted = more + int(number(image, "SeriesNumber") or 0)
    return wanted if 1 <= wanted <= _LARGEST_IS else more


def _placed(volume: Volume, image: Any, label: np.ndarray) -> Any:
    """The label with its place in the patient, where slices are not the sources' files one by one."""
    import highdicom as hd

    lps = LPS_TO_RAS @ volume.affine  # its own inverse
    return hd.Volume(
        label, lps[:, [2, 1, 0, 3]], coordinate_system="PATIENT", frame_of_reference_uid=image.FrameOfReferenceUID
    )


def _property_type(name: str) -> "CodedConcept":
    """The anatomy of a segment, with its side as a modifier."""
    concept, side = concept_of(name)
    if side is not None:
        concept.SegmentedPropertyTypeModifierCodeSequence = [side]
    return concept


def concept_of(name: str) -> tuple["CodedConcept", "CodedConcept | None"]:
    """The anatomy that a class name says, by its SNOMED code; a private code for any other name.

    Returns:
        The anatomy, and its side where the name says one.
    """
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    words = name.lower().replace("_", " ")
    side, _, organ = words.partition(" ")
    if words in _CONCEPTS:
        return CodedConcept.from_code(getattr(codes.SCT, _CONCEPTS[words])), None
    if side in ("left", "right") and organ in _CONCEPTS:
        named = (getattr(codes.SCT, _CONCEPTS[organ]), getattr(codes.SCT, side.title()))
        return tuple(map(CodedConcept.from_code, named))
    return CodedConcept(value=name, scheme_designator="99MAMBAUNET", meaning=name[:64]), None
