import numpy as np
import pytest

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
    assert np.array_equal(image.array, cine)
    assert len(image.dicom) == 12 and image.dicom[4].ImagePositionPatient == image.dicom[0].ImagePositionPatient


def test_two_echoes_are_no_cine(read_only, write_series, tmp_path, volume):
    def echo(dataset, t, d):
        dataset.EchoTime = (2.5, 5.0)[t]

    write_series(tmp_path, np.stack([volume, volume]), edit=echo)
    with pytest.raises(UnreadableError, match=r"differ in EchoTime \(2\.5, 5\.0\).*folder of its own"):
        read_only(tmp_path)


def test_a_cine_with_a_lost_phase_is_refused(read_only, write_series, tmp_path, volume):
    write_series(tmp_path, np.stack([volume] * 3), edit=lambda dataset, t, d: (t, d) == (1, 2))
    with pytest.raises(UnreadableError, match=r"2 images at the position .*, but 3 at most others"):
        read_only(tmp_path)
