import numpy as np
import pytest
from pydicom import Dataset, dcmread

from mamba_unet.volumes.formats import UnreadableError


@pytest.mark.parametrize("tells", ["TriggerTime", "InstanceNumber"])
def test_a_cine_is_frames_of_volumes_in_the_order_of_time(read_only, write_series, tmp_path, volume, tells):
    cine = np.stack([volume, volume + 1, volume + 2])

    def only(dataset, t, d):
        if tells == "InstanceNumber":
            del dataset.TriggerTime
            dataset.CardiacNumberOfImages = 3
            dataset.InstanceNumber = 100 * d + t

    write_series(tmp_path, cine, edit=only)
    image = read_only(tmp_path)
    assert np.array_equal(image.grey, cine)
    assert len(image.dicom) == 12 and image.dicom[4].ImagePositionPatient == image.dicom[0].ImagePositionPatient


@pytest.mark.parametrize("anonymised", [False, True])
def test_two_echoes_are_no_cine(read_only, write_series, tmp_path, volume, anonymised):
    def echo(dataset, t, d):
        dataset.EchoTime = (2.5, 5.0)[t]
        if anonymised:
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            del dataset.SOPInstanceUID, dataset.InstanceNumber

    write_series(tmp_path, np.stack([volume, volume]), edit=echo)
    with pytest.raises(UnreadableError, match=r"differ in EchoTime \(2\.5, 5\.0\).*folder of its own"):
        read_only(tmp_path)


def test_a_cine_with_a_lost_phase_is_refused(read_only, write_series, tmp_path, volume):
    write_series(tmp_path, np.stack([volume] * 3), edit=lambda dataset, t, d: (t, d) == (1, 2))
    with pytest.raises(UnreadableError, match=r"2 images at the position .*, but 3 at most others"):
        read_only(tmp_path)


def in_turn(**values):
    """Gives each phase its own value of an attribute, and no other time."""

    def edit(dataset, t, d):
        del dataset.TriggerTime
        for keyword, each in values.items():
            setattr(dataset, keyword, each[t])

    return edit


@pytest.mark.parametrize(
    ("keyword", "values"), [("KVP", (80, 140)), ("InversionTime", (100, 900)), ("FlipAngle", (5, 15))]
)
def test_images_made_in_two_ways_are_no_cine_even_if_their_times_differ(
    read_only, write_series, tmp_path, volume, keyword, values
):
    def edit(dataset, t, d):
        setattr(dataset, keyword, values[t])

    write_series(tmp_path, np.stack([volume, volume + 1]), edit=edit)
    with pytest.raises(UnreadableError, match=f"2 images at each position differ in {keyword}"):
        read_only(tmp_path)


def test_repetition_times_of_a_t1_map_are_no_cine_but_a_heart_beats_are(read_only, write_series, tmp_path, volume):
    cine = np.stack([volume, volume + 1])
    for name, times in (("map", (200, 5000)), ("cine", (800, 850))):
        write_series(tmp_path / name, cine, edit=lambda ds, t, d, times=times: setattr(ds, "RepetitionTime", times[t]))
    assert np.array_equal(read_only(tmp_path / "cine").grey, cine)
    with pytest.raises(UnreadableError, match="RepetitionTime of 200 to 5000 ms, as for a map of T1"):
        read_only(tmp_path / "map")


def test_instance_numbers_alone_are_no_time(read_only, write_series, tmp_path, volume):
    write_series(tmp_path, np.stack([volume, volume + 1]), edit=in_turn(InstanceNumber=(1, 2)))
    with pytest.raises(UnreadableError, match=r"nothing that says that they are phases in time .*CardiacNumberOfIm"):
        read_only(tmp_path)


@pytest.mark.parametrize(
    "clock",
    [
        {"AcquisitionTime": ("235958.5", "235959.25", "000000")},
        {"AcquisitionTime": ("235958", "235959", "000000"), "AcquisitionDate": ("20200101", "20200101", "20200102")},
        {"AcquisitionTime": ("235958", "235959", "000000"), "AcquisitionDate": ("19000101",) * 3},
        {"AcquisitionDateTime": ("20191231235958+0100", "20191231235959+0100", "20200101000000+0100")},
    ],
)
def test_a_cine_over_midnight_stays_in_order_and_says_what_made_it_one(
    read_only, write_series, tmp_path, volume, caplog, clock
):
    cine = np.stack([volume, volume + 1, volume + 2])
    write_series(tmp_path, cine, edit=in_turn(**clock))
    assert np.array_equal(read_only(tmp_path).grey, cine)
    assert f"3 images at each position are taken for phases in time, because {next(iter(clock))} differs" in caplog.text


@pytest.mark.parametrize("direction", [1, -1])
def test_equal_trigger_times_at_one_position_are_ordered_as_instance_numbers_run(
    read_only, write_series, tmp_path, volume, direction
):
    cine = np.stack([volume + t for t in range(4)])

    def edit(dataset, t, d):
        dataset.TriggerTime = 0 if (d, t) == (2, 1) else 40 * t
        dataset.InstanceNumber = 100 + direction * (d * 4 + t)

    write_series(tmp_path, cine, edit=edit)
    assert np.array_equal(read_only(tmp_path).grey, cine)


@pytest.mark.parametrize("syntax", [None, "1.2.840.10008.1.2.4.80"])
@pytest.mark.parametrize("phases", [1, 3])
def test_a_series_that_was_sent_twice_is_taken_once_with_a_note(
    read_only, write_series, tmp_path, volume, caplog, phases, syntax
):
    cine = np.stack([volume + t for t in range(phases)])
    shared = {"SeriesInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2"}
    write_series(tmp_path / "a", cine, **shared)
    write_series(tmp_path / "b", cine, syntax=syntax, **shared)
    image = read_only(tmp_path)
    assert np.array_equal(image.grey, cine) and len(image.dicom) == 4 * phases
    assert f"{4 * phases} of the images are copies, with equal pixels at one position" in caplog.text


@pytest.mark.parametrize("differs", ["PixelData", "RescaleSlope"])
def test_two_images_of_one_uid_are_no_copies_of_a_file_where_they_differ(
    read_only, write_series, tmp_path, volume, caplog, differs
):
    files = write_series(tmp_path, volume)
    copy = dcmread(files[1])
    copy.save_as(tmp_path / "copy")
    assert np.array_equal(read_only(tmp_path).grey[0], volume) and not caplog.records
    setattr(copy, differs, {"PixelData": volume[2].tobytes(), "RescaleSlope": 2}[differs])
    copy.save_as(tmp_path / "copy")
    with pytest.raises(UnreadableError, match=r"2 images at the position .*, but 1 at most others"):
        read_only(tmp_path)


@pytest.mark.parametrize("keyword", ["DiffusionGradientOrientation", "VelocityEncodingDirection"])
def test_directions_of_diffusion_or_flow_in_an_enhanced_object_are_no_cine(
    read_only, write_enhanced, tmp_path, volume, keyword
):
    write_enhanced(tmp_path / "one.dcm", np.stack([volume, volume + 1, volume + 2]), (1, 0, 0, 0, 1, 0))
    assert read_only(tmp_path).frames == 3
    dataset = dcmread(tmp_path / "one.dcm")
    for group in dataset.PerFrameFunctionalGroupsSequence:
        direction, diffusion = Dataset(), Dataset()
        axis = np.eye(3)[group.FrameContentSequence[0].TemporalPositionIndex - 1]
        setattr(direction, keyword, axis.tolist())
        if keyword == "VelocityEncodingDirection":
            group.MRVelocityEncodingSequence = [direction]
            continue
        diffusion.DiffusionBValue, diffusion.DiffusionDirectionality = 1000, "DIRECTIONAL"
        diffusion.DiffusionGradientDirectionSequence = [direction]
        group.MRDiffusionSequence = [diffusion]
    dataset.save_as(tmp_path / "one.dcm")
    with pytest.raises(UnreadableError, match=f"3 images at each position differ in {keyword}"):
        read_only(tmp_path)


def test_one_slice_that_is_there_twice_is_taken_once_and_another_of_its_place_refused(
    read_only, write_series, tmp_path, volume, caplog
):
    shared = {"SeriesInstanceUID": "1.2.3", "FrameOfReferenceUID": "1.2", "StudyInstanceUID": "1"}
    write_series(tmp_path / "a", volume, **shared)
    write_series(tmp_path / "b", volume[1:2], origin=(-40, 30, 105), **shared)
    assert np.array_equal(read_only(tmp_path).grey[0], volume) and "1 of the images" in caplog.text
    write_series(tmp_path / "b", volume[1:2] + 1, origin=(-40, 30, 105), **shared)
    with pytest.raises(UnreadableError, match=r"2 images at the position .*, but 1 at most others"):
        read_only(tmp_path)
