import numpy as np
import pytest

from mamba_unet import __version__
from mamba_unet.volumes.dicom.report import save_dicom_report
from mamba_unet.volumes.dicom.seg import save_dicom_seg
from mamba_unet.volumes.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:highdicom", "ignore::UserWarning:pydicom")
NAMES, COLORS = ["background", "liver", "a class of nobody"], ["#56b4e9", "#e69f00"]


def read(path):
    """The report, and of each group: identifier, value, unit, the segment and the images it refers to."""
    import highdicom as hd

    report = hd.sr.srread(path)
    told = []
    for group in report.content.get_volumetric_roi_measurement_groups():
        (measured,) = group.get_measurements()
        segment, *images = (item.ReferencedSOPSequence[0] for item in group.referenced_segment)
        told.append(
            (
                group.tracking_identifier,
                measured.value,
                measured.unit.value,
                (segment.ReferencedSOPInstanceUID, segment.ReferencedSegmentNumber),
                {image.ReferencedSOPInstanceUID for image in images},
            )
        )
    return report, told


def uid_of(path) -> str:
    import pydicom

    return pydicom.dcmread(path).SOPInstanceUID


def test_a_report_names_each_structure_its_volume_its_segment_and_its_images(read_only, write_series, tmp_path, volume):
    write_series(tmp_path / "in", volume)
    image = read_only(tmp_path / "in")
    label = np.zeros(volume.shape, np.uint8)
    label[1, 1:3, 2:4] = 1
    save_dicom_seg(tmp_path / "seg.dcm", image, label, NAMES, COLORS)
    save_dicom_report(tmp_path / "sr.dcm", image, [tmp_path / "seg.dcm"], [[0.02251, 0.0]], NAMES)

    report, told = read(tmp_path / "sr.dcm")
    seg, images = uid_of(tmp_path / "seg.dcm"), {dataset.SOPInstanceUID for dataset in image.dicom}
    assert told == [
        ("liver", 0.023, "mL", (seg, 1), images),
        ("a class of nobody", 0.0, "mL", (seg, 2), images),
    ]
    liver, other = (group.finding_type for group in report.content.get_volumetric_roi_measurement_groups())
    assert liver.meaning == "Liver" and other.scheme_designator == "99MAMBAUNET"
    algorithm = {
        item.ConceptNameCodeSequence[0].CodeMeaning: item.TextValue
        for item in report.content.get_volumetric_roi_measurement_groups()[0][0].ContentSequence
        if item.ValueType == "TEXT"
    }
    assert (algorithm["Algorithm Name"], algorithm["Algorithm Version"]) == ("mamba-unet", __version__)
    assert report.StudyInstanceUID == image.dicom[0].StudyInstanceUID and report.PatientID == "synthetic"
    assert report.VerificationFlag == "UNVERIFIED"


def test_each_phase_of_a_cine_is_measured_in_its_own_segmentation_and_images(read_only, write_series, tmp_path, volume):
    write_series(tmp_path / "in", np.stack([volume, volume + 1]))
    image = read_only(tmp_path / "in")
    files = [tmp_path / "0.dcm", tmp_path / "1.dcm"]
    for frame, file in enumerate(files):
        save_dicom_seg(file, image, np.ones(volume.shape, np.uint8), NAMES, COLORS, frame, series_uid="1.2.3")
    save_dicom_report(tmp_path / "sr.dcm", image, files, [[1, 0], [2, 0]], NAMES)

    _, told = read(tmp_path / "sr.dcm")
    slices = len(volume)
    phases = [{dataset.SOPInstanceUID for dataset in half} for half in (image.dicom[:slices], image.dicom[slices:])]
    assert [(name, ml) for name, ml, *_ in told[::2]] == [("liver, phase 1", 1.0), ("liver, phase 2", 2.0)]
    assert [images for *_, images in told[::2]] == phases
    assert [segment for *_, segment, _ in told[::2]] == [(uid_of(file), 1) for file in files]


def test_a_phase_of_an_enhanced_cine_refers_to_its_own_frames(read_only, write_enhanced, tmp_path, volume):
    import pydicom

    (tmp_path / "in").mkdir()
    write_enhanced(tmp_path / "in" / "one.dcm", np.stack([volume, volume + 1]), (1, 0, 0, 0, 1, 0))
    image, files = read_only(tmp_path / "in"), [tmp_path / "0.dcm", tmp_path / "1.dcm"]
    for frame, file in enumerate(files):
        save_dicom_seg(file, image, np.ones(volume.shape, np.uint8), NAMES, COLORS, frame, series_uid="1.2.3")
    save_dicom_report(tmp_path / "sr.dcm", image, files, [[1, 0], [2, 0]], NAMES)

    report, _ = read(tmp_path / "sr.dcm")
    stored = pydicom.dcmread(tmp_path / "in" / "one.dcm").PerFrameFunctionalGroupsSequence
    phases = [group.FrameContentSequence[0].TemporalPositionIndex for group in stored]
    for group in report.content.get_volumetric_roi_measurement_groups():
        _, source = (item.ReferencedSOPSequence[0] for item in group.referenced_segment)
        assert len(source.ReferencedFrameNumber) == len(volume)
        assert {phases[number - 1] for number in source.ReferencedFrameNumber} == {
            int(group.tracking_identifier.rpartition(" ")[2])
        }


def test_the_side_of_an_organ_is_told_by_its_finding_site(read_only, write_series, tmp_path, volume):
    write_series(tmp_path / "in", volume)
    image, names = read_only(tmp_path / "in"), ["background", "left kidney", "right kidney", "liver"]
    save_dicom_seg(tmp_path / "seg.dcm", image, np.zeros(volume.shape, np.uint8), names, [*COLORS, "#009e73"])
    save_dicom_report(tmp_path / "sr.dcm", image, [tmp_path / "seg.dcm"], [[1, 2, 3]], names)
    left, right, liver = read(tmp_path / "sr.dcm")[0].content.get_volumetric_roi_measurement_groups()
    for group, side in ((left, "Left"), (right, "Right")):
        (site,) = group.finding_sites
        assert (group.finding_type.meaning, site.value.meaning, site.laterality.meaning) == ("Kidney", "Kidney", side)
        assert "SegmentedPropertyTypeModifierCodeSequence" not in group.finding_type
    assert not liver.finding_sites


def test_no_volume_is_reported_where_the_thickness_of_a_slice_is_a_guess(read_only, write_series, tmp_path, volume):
    import highdicom as hd

    write_series(tmp_path / "in", volume[:1], SliceThickness=None)
    image = read_only(tmp_path / "in")
    assert image.guessed_size and image.spacing_mm == (1, 1.5, 0.75)
    save_dicom_seg(tmp_path / "seg.dcm", image, np.ones((1, *volume.shape[1:]), np.uint8), NAMES, COLORS)
    save_dicom_report(tmp_path / "sr.dcm", image, [tmp_path / "seg.dcm"], [[0.03, 0.0]], NAMES)
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == NAMES[1:]
    assert not any(group.get_measurements() for group in groups)


def test_an_image_that_is_not_from_dicom_is_refused(tmp_path, volume):
    with pytest.raises(ValueError, match="not from DICOM"):
        save_dicom_report(tmp_path / "sr.dcm", Volume.from_array(volume), [], [], NAMES)
