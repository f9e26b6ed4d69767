"""The Python of docs/look_in_viewers.md is run as it stands; only the viewer's window is a stand-in."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.write import save_nifti

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "look_in_viewers.md").read_text()


def python_of(heading: str) -> str:
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    return "".join(re.findall(r"^```python\n(.*?)^```$", section, re.S | re.M))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a scan of 5 slices and its segmentation."""
    monkeypatch.chdir(tmp_path)
    nib.save(nib.Nifti1Image(np.ones((6, 8, 5), np.float32), np.diag([1.5, 1.25, 8, 1])), "heart.nii.gz")
    scan = read_volume("heart.nii.gz")
    label = np.zeros(scan.grey.shape, np.uint8)
    label[0, 2, 3, 4] = 2
    save_nifti("predicted/heart.nii.gz", scan, label, class_names=["background", "left atrium", "aorta"])
    return tmp_path


def test_napari_gets_arrays_of_one_shape_and_scale(here, monkeypatch):
    layers = {}

    class Viewer:
        def add_image(self, data, scale):
            layers["image"] = data, scale

        def add_labels(self, data, scale):
            layers["labels"] = data, scale

    monkeypatch.setitem(sys.modules, "napari", SimpleNamespace(Viewer=Viewer, run=lambda: None))
    exec(python_of("napari"), {})
    (image, image_scale), (labels, label_scale) = layers["image"], layers["labels"]
    assert image.shape == labels.shape == (1, 5, 8, 6)
    assert image_scale == label_scale == (1, 8, 1.25, 1.5)
    assert labels[0, 2, 3, 4] == 2 and np.issubdtype(labels.dtype, np.integer)


def test_itk_snap_gets_names_and_colours(here):
    exec(python_of("ITK-SNAP"), {})
    assert Path("labels.txt").read_text().splitlines() == [
        '0 0 0 0 0 0 0 "Clear Label"',
        '1 86 180 233 1 1 1 "left atrium"',
        '2 230 159 0 1 1 1 "aorta"',
    ]
