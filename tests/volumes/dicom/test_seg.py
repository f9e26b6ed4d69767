from dataclasses import replace

import numpy as np
import pytest
from nibabel.affines import apply_affine

from mamba_unet import __version__
from mamba_unet.volumes.dicom.seg import check_seg_possible, save_dicom_seg
from mamba_unet.volumes.volume import Volume

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:highdicom", "ignore::UserWarning:pydicom")
NAMES = ["background", "left kidney", "myocardium", "a class with a name that no dictionary knows, and a long one too"]
COLORS = ["#56b4e9", "#e69f00", "#009e73"]
AXIAL, CORONAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
OBLIQUE = (0.8, 0.6, 0, -0.36, 0.48, -0.8)


def corner(shape) -> np.ndarray:
    """Two classes in two corners; class 2 nowhere."""
    label = np.zeros(shape, np.uint8)
    label[0, 1:3, 3:] = 1
    label[2:, 4, 0:2] = 3
    return label


def voxels_mm(affine, mask) -> set:
    """Where the marked voxels lie, millimetres, right anterior superior, to a hundredth."""
    return {tuple(p) for p in apply_affine(affine, np.argwhere(mask)[:, ::-1]).round(2).tolist()}


def segment_mm(seg, number) -> set:
    """The same of a segment, by highdicom alone."""
    if not any(f.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
               for f in seg.PerFrameFunctionalGroupsSequence):  # fmt: skip
        return set()
    volume = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
    points = apply_affine(volume.affine, np.argwhere(volume.array)) * (-1, -1, 1)
    return {tuple(p) for p in points.round(2).tolist()}


def sources_of_frames(file) -> list:
    """Of each frame, UID and frame number of the image it was made from, and its place."""
    import pydicom

    told = []
    for group in pydicom.dcmread(file).PerFrameFunctionalGroupsSequence:
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        place = tuple(group.PlanePositionSequence[0].ImagePositionPatient)
        told.append((source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber"), place))
    return told


@pytest.mark.parametrize("orientation", [AXIAL, CORONAL, SAGITTAL, OBLIQUE])
@pytest.mark.parametrize("upside_down", [False, True])
def test_a_corner_comes_out_in_that_corner_under_its_name(
    read_only, write_series, tmp_path, volume, orientation, upside_down
):
    import highdicom as hd

    write_series(tmp_path / "in", volume, orientation)
    image = read_only(tmp_path / "in")
    if upside_down:  # an array in the other order of slices, as another reader might give it
        flip = np.diag([1.0, 1, -1, 1])
        flip[2, 3] = len(volume) - 1
        image = replace(image, array=image.array[:, :, ::-1], affine=image.affine @ flip, dicom=image.dicom[::-1])
    label = corner(volume.shape)
    save_dicom_seg(tmp_path / "out.dcm", image, label, NAMES, COLORS)

    seg = hd.seg.segread(tmp_path / "out.dcm")
    for number in (1, 2, 3):
        assert segment_mm(seg, number) == voxels_mm(image.affine, label == number)
    described = [seg.get_segment_description(number) for number in (1, 2, 3)]
    assert [one.segment_label for one in described] == [name[:64] for name in NAMES[1:]]
    kidney, myocardium, other = (one.segmented_property_type for one in described)
    assert (kidney.meaning, myocardium.meaning) == ("Kidney", "Left Ventricle Myocardium")
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert other.scheme_designator == "99MAMBAUNET" and other.meaning == NAMES[3][:64]
    assert seg.SoftwareVersions == __version__ and seg.FrameOfReferenceUID == image.dicom[0].FrameOfReferenceUID
    used = {uid for _, _, uid in seg.get_source_image_uids()}
    assert used == {dataset.SOPInstanceUID for dataset in image.dicom}


def test_each_frame_refers_to_the_image_it_was_made_from(read_only, write_series, tmp_path, volume, monkeypatch):
    import highdicom as hd

    write_series(tmp_path / "in", volume)
    image = read_only(tmp_path / "in")
    label = corner(volume.shape)
    save_dicom_seg(tmp_path / "out.dcm", image, label, NAMES, COLORS)
    seg = hd.seg.segread(tmp_path / "out.dcm")
    uids = [dataset.SOPInstanceUID for dataset in image.dicom]
    marks = seg.get_pixels_by_source_instance(uids, combine_segments=True)
    assert np.array_equal(marks, label)
    # in the form that highdicom writes itself for one file per slice
    monkeypatch.setattr("mamba_unet.volumes.dicom.seg._refer_to_sources", lambda *_: None)
    save_dicom_seg(tmp_path / "its own.dcm", image, label, NAMES, COLORS)
    ours, its = (one.PerFrameFunctionalGroupsSequence for one in (seg, hd.seg.segread(tmp_path / "its own.dcm")))
    assert [one.DerivationImageSequence for one in ours] == [one.DerivationImageSequence for one in its]


def test_another_reader_sees_the_same_pixels_and_colours(read_only, write_series, tmp_path, volume):
    import pydicom
    from highdicom.color import CIELabColor

    write_series(tmp_path / "in", volume)
    image = read_only(tmp_path / "in")
    label = corner(volume.shape)
    save_dicom_seg(tmp_path / "out.dcm", image, label, NAMES, COLORS)
    seg = pydicom.dcmread(tmp_path / "out.dcm")
    assert seg.SegmentationType == "BINARY" and len(seg.SegmentSequence) == 3
    frames = seg.pixel_array
    for pixels, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        z = group.PlanePositionSequence[0].ImagePositionPatient[2]
        assert np.array_equal(pixels, label[round((z - 100) / 5)] == number)
    for segment, color in zip(seg.SegmentSequence, COLORS, strict=True):
        stored = CIELabColor.from_dicom_value(tuple(segment.RecommendedDisplayCIELabValue)).to_rgb()
        assert np.abs(np.subtract(stored, tuple(bytes.fromhex(color[1:])))).max() <= 1


def test_names_are_kept_in_any_script_and_odd_headers_are_no_obstacle(read_only, write_series, tmp_path, volume):
    import highdicom as hd

    def odd(dataset, t, d):
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        dataset.PatientName, dataset.PatientSex, dataset.PatientAge = "Yamada^Tarou=山田^太郎", "unknown", "40"
        dataset.StudyDate = ""

    write_series(tmp_path / "in", volume, edit=odd)
    save_dicom_seg(tmp_path / "out.dcm", read_only(tmp_path / "in"), corner(volume.shape), [*NAMES[:3], "骨"], COLORS)
    seg = hd.seg.segread(tmp_path / "out.dcm")
    assert str(seg.PatientName) == "Yamada^Tarou=山田^太郎" and seg.PatientSex == ""
    assert seg.get_segment_description(3).segment_label == "骨"


def test_an_empty_segmentation_still_names_its_segments(read_only, write_series, tmp_path, volume, caplog):
    import highdicom as hd

    write_series(tmp_path / "in", volume)
    save_dicom_seg(tmp_path / "out.dcm", read_only(tmp_path / "in"), np.zeros(volume.shape, np.uint8), NAMES, COLORS)
    seg = hd.seg.segread(tmp_path / "out.dcm")
    assert seg.number_of_segments == 3 and not seg.pixel_array.any()
    assert not caplog.records  # highdicom's remark, which users would be shown


def test_a_single_slice_and_a_tilted_gantry(read_only, write_series, tmp_path, volume):
    import highdicom as hd
    import pydicom

    write_series(tmp_path / "in", volume, shear_mm=(0, 1.5, 0))
    image = read_only(tmp_path / "in")
    label = corner(volume.shape)
    save_dicom_seg(tmp_path / "tilted.dcm", image, label, NAMES, COLORS)
    groups = pydicom.dcmread(tmp_path / "tilted.dcm").PerFrameFunctionalGroupsSequence
    stored = {tuple(group.PlanePositionSequence[0].ImagePositionPatient) for group in groups}
    assert stored == {(-40, 30, 100), (-40, 33, 110), (-40, 34.5, 115)}

    image = read_only(tmp_path / "in" / f"IM{image.dicom[1].InstanceNumber - 1:04d}")
    save_dicom_seg(tmp_path / "slice.dcm", image, label[:1], NAMES, COLORS)
    seg = hd.seg.segread(tmp_path / "slice.dcm")
    assert segment_mm(seg, 1) == voxels_mm(image.affine, label[:1] == 1)


@pytest.mark.parametrize("phases", [1, 3])
def test_an_enhanced_object_is_segmented_in_its_place(read_only, write_enhanced, tmp_path, volume, phases):
    import highdicom as hd

    (tmp_path / "in").mkdir()
    write_enhanced(tmp_path / "in" / "one.dcm", np.stack([volume] * phases), CORONAL)
    image = read_only(tmp_path / "in")
    label = corner(volume.shape)
    save_dicom_seg(tmp_path / "out.dcm", image, label, NAMES, COLORS, frame=phases - 1)
    seg = hd.seg.segread(tmp_path / "out.dcm")
    for number in (1, 3):
        assert segment_mm(seg, number) == voxels_mm(image.affine, label == number)
    assert {uid for _, _, uid in seg.get_source_image_uids()} == {image.dicom[0].SOPInstanceUID}
    stored = image.dicom[0].PerFrameFunctionalGroupsSequence
    for _, number, place in sources_of_frames(tmp_path / "out.dcm"):
        assert stored[number - 1].FrameContentSequence[0].TemporalPositionIndex == phases
        assert tuple(stored[number - 1].PlanePositionSequence[0].ImagePositionPatient) == place


def test_a_frame_of_a_cine_refers_to_that_frames_images(read_only, write_series, tmp_path, volume):
    import highdicom as hd

    write_series(tmp_path / "in", np.stack([volume, volume + 1]))
    image = read_only(tmp_path / "in")
    label = corner(volume.shape)
    with pytest.raises(ValueError, match=r"a cine of 2 frames.*choose one by `frame`"):
        save_dicom_seg(tmp_path / "out.dcm", image, label, NAMES, COLORS)
    save_dicom_seg(tmp_path / "out.dcm", image, label, NAMES, COLORS, frame=1)
    seg = hd.seg.segread(tmp_path / "out.dcm")
    assert {uid for _, _, uid in seg.get_source_image_uids()} == {dataset.SOPInstanceUID for dataset in image.dicom[4:]}
    assert segment_mm(seg, 3) == voxels_mm(image.affine, label == 3)


def test_a_stack_joined_from_series_is_segmented_in_its_place(read_only, write_series, tmp_path, volume):
    import highdicom as hd

    for z in range(4):
        write_series(
            tmp_path / "in" / str(z),
            np.stack([volume[z : z + 1], volume[z : z + 1] + 1]),
            origin=(0, 0, 8.0 * z),
            FrameOfReferenceUID="1.2.3",
            StudyInstanceUID="1.2",
        )
    image = read_only(tmp_path / "in")
    label = corner(volume.shape)
    save_dicom_seg(tmp_path / "out.dcm", image, label, NAMES, COLORS, frame=0)
    seg = hd.seg.segread(tmp_path / "out.dcm")
    for number in (1, 3):
        assert segment_mm(seg, number) == voxels_mm(image.affine, label == number)
    places = {dataset.SOPInstanceUID: tuple(dataset.ImagePositionPatient) for dataset in image.dicom[:4]}
    told = sources_of_frames(tmp_path / "out.dcm")
    assert [(places[uid], number) for uid, number, _ in told] == [(place, None) for *_, place in told]


def test_what_cannot_be_written_is_said(read_only, write_series, tmp_path, volume):
    out, label = tmp_path / "out.dcm", corner(volume.shape)
    write_series(tmp_path / "in", volume)
    image = read_only(tmp_path / "in")
    with pytest.raises(ValueError, match=r"case is not from DICOM.*NIfTI"):
        save_dicom_seg(out, Volume("case", volume[None, None]), label, NAMES, COLORS)
    with pytest.raises(ValueError, match=r"label of shape \(4, 5, 6\), expected .*\(4, 6, 5\)"):
        save_dicom_seg(out, image, label.transpose(0, 2, 1), NAMES, COLORS)
    with pytest.raises(ValueError, match=r"label values 0\.\.3, expected 0\.\.1"):
        save_dicom_seg(out, image, label, NAMES[:2], COLORS[:1])
    with pytest.raises(ValueError, match="2 colours for 3"):
        save_dicom_seg(out, image, label, NAMES, COLORS[:2])
    with pytest.raises(ValueError, match=r"frame 1 is not in 0\.\.0"):
        save_dicom_seg(out, image, label, NAMES, COLORS, frame=1)
    write_series(tmp_path / "nowhere", volume, FrameOfReferenceUID="")
    with pytest.raises(ValueError, match=r"no FrameOfReferenceUID.*NIfTI"):
        save_dicom_seg(out, read_only(tmp_path / "nowhere"), label, NAMES, COLORS)
    assert not out.exists()


def replaced(old: bytes, new: bytes):
    """Overwrites bytes of each file, as no library would write them."""

    def after(files):
        assert len(old) == len(new)
        for file in files:
            data = file.read_bytes()
            assert old in data
            file.write_bytes(data.replace(old, new))

    return after


@pytest.mark.parametrize(
    ("attributes", "after", "keyword", "written"),
    [
        ({"PatientBirthDate": "19700101"}, replaced(b"19700101", b"UNKNOWN "), "PatientBirthDate", ""),
        ({"StudyDate": "20200112"}, replaced(b"20200112", b"2020.1.2"), "StudyDate", "20200102"),
        ({"StudyDate": "20200112"}, replaced(b"20200112", b"20201399"), "StudyDate", ""),
        ({"StudyTime": "101010"}, replaced(b"101010", b"10:10:"), "StudyTime", ""),
        ({"StudyID": "S" * 16, "AccessionNumber": "A" * 16}, None, "StudyID", "S" * 16),
        ({"PatientAge": "040Y"}, replaced(b"040Y", b"40  "), "PatientAge", None),
        ({"SeriesNumber": 2**31 - 1}, None, "SeriesNumber", 1000),
        ({"SeriesNumber": -2000}, None, "SeriesNumber", 1000),
        ({"SeriesNumber": 7}, None, "SeriesNumber", 1007),
        ({"PatientSex": "F"}, None, "PatientSex", "F"),
    ],
)
def test_odd_attributes_are_written_as_dicom_allows_them(
    read_only, write_series, tmp_path, volume, attributes, after, keyword, written
):
    import pydicom

    files = write_series(tmp_path / "in", volume, **attributes)
    if after is not None:
        after(files)
    image = read_only(tmp_path / "in")
    check_seg_possible(image)
    save_dicom_seg(tmp_path / "out.dcm", image, corner(volume.shape), NAMES, COLORS)
    assert pydicom.dcmread(tmp_path / "out.dcm").get(keyword) == written


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"FrameOfReferenceUID": ""}, r"no FrameOfReferenceUID.*NIfTI"),
        ({"SOPClassUID": ""}, r"no SOPClassUID.*NIfTI"),
        ({"StudyInstanceUID": ""}, r"no StudyInstanceUID.*NIfTI"),
    ],
)
def test_what_cannot_be_written_is_said_before_there_is_a_label(
    read_only, write_series, tmp_path, volume, attributes, message
):
    import pydicom

    for file in write_series(tmp_path / "in", volume):
        dataset = pydicom.dcmread(file)
        dataset.update(attributes)
        dataset.save_as(file)
    image = read_only(tmp_path / "in")
    with pytest.raises(ValueError, match=message):
        check_seg_possible(image)
    with pytest.raises(ValueError, match=message):
        save_dicom_seg(tmp_path / "out.dcm", image, corner(volume.shape), NAMES, COLORS)
    assert not (tmp_path / "out.dcm").exists()


def test_a_patient_that_dicom_does_not_allow_is_not_made_another_one(read_only, write_series, tmp_path, volume):
    files = write_series(tmp_path / "in", volume, PatientComments="x" * 70, PatientID="ID")
    for file in files:  # PatientID of 70 characters, which pydicom would not write
        data = file.read_bytes()
        at = data.index(b"\x10\x00\x20\x00LO")
        data = data[: at + 6] + (70).to_bytes(2, "little") + b"P" * 70 + data[at + 10 :]
        file.write_bytes(data)
    with pytest.raises(ValueError, match=r"PatientID is longer than DICOM allows.*write NIfTI"):
        check_seg_possible(read_only(tmp_path / "in"))


def test_a_frame_of_reference_for_each_image_cannot_be_segmented(read_only, write_series, tmp_path, volume):
    from pydicom.uid import generate_uid

    write_series(tmp_path, volume, edit=lambda ds, t, d: setattr(ds, "FrameOfReferenceUID", generate_uid()))
    with pytest.raises(ValueError, match=r"4 values of FrameOfReferenceUID, expected one"):
        check_seg_possible(read_only(tmp_path))


def test_a_cine_is_checked_frame_by_frame_and_other_sources_are_none(read_only, write_series, tmp_path, volume):
    write_series(tmp_path, np.stack([volume, volume + 1]))
    image = read_only(tmp_path)
    check_seg_possible(image, NAMES, frame=1)
    with pytest.raises(ValueError, match="a cine of 2 frames"):
        check_seg_possible(image)
    with pytest.raises(ValueError, match="is not from DICOM"):
        check_seg_possible(Volume("case", volume[None, None]))


def test_a_ct_in_one_file_is_segmented_in_its_place(read_only, write_series, tmp_path, volume):
    import highdicom as hd

    def edit(dataset, t, d):
        dataset.NumberOfFrames, dataset.PixelData = len(volume), volume.tobytes()

    told = {"Modality": "CT", "SpacingBetweenSlices": 5, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}
    write_series(tmp_path / "in", volume[:1], edit=edit, **told)
    image = read_only(tmp_path / "in")
    label = corner(volume.shape)
    save_dicom_seg(tmp_path / "out.dcm", image, label, NAMES, COLORS)
    assert segment_mm(hd.seg.segread(tmp_path / "out.dcm"), 3) == voxels_mm(image.affine, label == 3)
