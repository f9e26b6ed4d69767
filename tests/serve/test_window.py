import numpy as np
import pytest
from pydicom import Dataset

from mamba_unet.serve.window import windows
from mamba_unet.volumes.volume import Volume

MINMAX = {"method": "minmax"}


def named(values, intensity=MINMAX, **header):
    """The windows of a volume with these values and, if anything is given, this DICOM header: name -> (low, high)."""
    dicom = None
    if header:
        dicom = [Dataset()]
        dicom[0].update(header)
    volume = Volume("a", np.asarray(values, np.float32).reshape(1, 1, 1, 1, -1), dicom=dicom)
    return {it["name"]: (it["low"], it["high"]) for it in windows(volume, volume.array, intensity)}


def test_ct_has_its_usual_windows():
    found = named(np.linspace(-1000, 1000, 2001))
    assert list(found) == ["abdomen", "soft tissue", "lung", "bone", "brain", "1–99 %", "full range"]
    assert found["abdomen"] == (-160, 240) and found["lung"] == (-1350, 150) and found["brain"] == (0, 80)
    assert found["1–99 %"] == (-980, 980) and found["full range"] == (-1000, 1000)


def test_the_window_of_the_dicom_header_comes_first():
    found = named(np.linspace(-1000, 1000, 2001), Modality="CT", WindowCenter="60", WindowWidth="360")
    assert list(found)[:2] == ["DICOM", "abdomen"] and found["DICOM"] == (-120, 240)
    several = {"WindowCenter": ["40", "-600"], "WindowWidth": ["400", "1600"]}
    explained = several | {"WindowCenterWidthExplanation": ["ABDOMEN ", "LUNG"]}
    assert list(named([0, 1000], Modality="CT", **several))[:2] == ["DICOM 1", "DICOM 2"]
    found = named([0, 1000], Modality="CT", **explained)
    assert found["DICOM: abdomen"] == (-160, 240) and found["DICOM: lung"] == (-1400, 200)


@pytest.mark.parametrize(
    "header",
    [
        {"WindowCenter": "60"},
        {"WindowCenter": "60", "WindowWidth": "0"},
        {"WindowCenter": None, "WindowWidth": None},
    ],
)
def test_half_a_window_is_none(header):
    assert list(named([0, 100], Modality="MR", **header)) == ["1–99 %", "full range"]


def test_what_the_network_sees_comes_before_those_of_ct_where_it_meets_the_values():
    rule = {"method": "window", "low": -125, "high": 275}
    assert list(named(np.linspace(-1000, 1000, 2001), rule))[:2] == ["network", "abdomen"]
    assert "network" not in named([0, 0.5, 1], {"method": "window", "low": 2, "high": 3})


def test_one_value_alone_none_and_infinity_have_a_window_too():
    assert named([7, 7, 7]) == {"full range": (7, 8)}
    assert named([np.nan, np.nan]) == {"full range": (0, 1)}
    assert named([np.nan, 0, np.inf, 1])["full range"] == (0, 1)
