"""Measured volumes as a DICOM structured report that refers to the segmentations they were measured in."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mamba_unet
from mamba_unet.files import atomic_path
from mamba_unet.volumes.dicom.patient import completed
from mamba_unet.volumes.dicom.seg import concept_of, series_number, sources_of, writing
from mamba_unet.volumes.volume import Volume

_DEVICE_UID = "2.25.88116432990426387346612838284083741457"  # of this program as an observer, in every report


def save_dicom_report(
    path: str | Path,
    volume: Volume,
    segmentations: Sequence[str | Path],
    volumes_ml: Sequence[Sequence[float]],
    class_names: Sequence[str],
) -> None:
    """Write a measurement report (Comprehensive SR) with one group of measurements for each structure of each frame.

    Each group names the structure as the segmentation does, refers to its segment and to the images that it was made
    from, and holds the volume in millilitres and the algorithm. A structure that was not found has 0 ml. Where the size
    of the voxels is a guess (`Volume.guessed_size`), no volume is written. The report is neither final nor verified: no
    person has seen it.

    Args:
        path: the file to write, `case.dcm`.
        volume: the DICOM series that was segmented.
        segmentations: of each frame the file that `save_dicom_seg` wrote.
        volumes_ml: of each frame, of every foreground class.
        class_names: the first is background.

    Raises:
        ValueError: see `seg.save_dicom_seg`.

    Source: DICOM PS3.16, TID 1500 (Measurement Report), 1411 (Volumetric ROI Measurements), 4019 (Algorithm).
    """
    from pydicom import dcmread

    frames = [sources_of(volume, frame) for frame in range(volume.frames)]
    with writing(volume, "report"):
        masks = [dcmread(file, stop_before_pixels=True) for file in segmentations]
        groups = [
            _group(name, index, None if volume.guessed_size else ml, mask, sources, phase if len(masks) > 1 else None)
            for phase, (mask, measured, sources) in enumerate(zip(masks, volumes_ml, frames, strict=True), start=1)
            for index, (name, ml) in enumerate(zip(class_names[1:], measured, strict=True), start=1)
        ]
        images = list({id(image): image for sources in frames for image, _ in sources}.values())
        report = _report(images, masks, groups)
        with atomic_path(path) as temporary:
            report.save_as(temporary)


def _group(
    name: str,
    index: int,
    ml: float | None,
    mask: Any,
    sources: Sequence[tuple[Any, int | None]],
    phase: int | None,
) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    identifier = name if phase is None else f"{name}, phase {phase}"
    images = {image.SOPInstanceUID: image for image, _ in sources}
    numbers = defaultdict(list)  # of the frames that were used, where an image has several
    for image, number in sources:
        if number is not None:
            numbers[image.SOPInstanceUID].append(number)
    concept, side = concept_of(name)
    unit = hd.sr.CodedConcept("mL", "UCUM", "milliliter")
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=identifier[:64]),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=mask.SOPClassUID,
            sop_instance_uid=mask.SOPInstanceUID,
            segment_number=index,
            source_images=[
                hd.sr.SourceImageForSegmentation(image.SOPClassUID, uid, sorted(numbers[uid]) or None)
                for uid, image in images.items()
            ],
        ),
        time_point_context=None if phase is None else hd.sr.TimePointContext(str(phase)),
        finding_category=codes.SCT.AnatomicalStructure,
        finding_type=concept,
        finding_sites=None if side is None else [hd.sr.FindingSite(concept, side)],
        algorithm_id=hd.sr.AlgorithmIdentification("mamba-unet", mamba_unet.__version__),
        measurements=None if ml is None else [hd.sr.Measurement(codes.SCT.Volume, round(ml, 3), unit)],
    )


def _report(images: Sequence[Any], masks: Sequence[Any], groups: Sequence[Any]) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    device = hd.sr.DeviceObserverIdentifyingAttributes(_DEVICE_UID, "mamba-unet", manufacturer_name="mamba-unet")
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
    )
    return hd.sr.ComprehensiveSR(
        evidence=[completed(images[0]), *images[1:], *masks],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=series_number(images[0], 1001),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="mamba-unet",
        is_complete=True,
        manufacturer_model_name="mamba-unet",
        software_versions=mamba_unet.__version__,
        series_description="mamba-unet volumes",
        specific_character_set="ISO_IR 192",  # UTF-8: class names are anyone's
    )
