import pytest

from mamba_unet.data import detect_layout, prepare
from mamba_unet.data.readers import LAYOUTS


def test_an_unknown_layout_lists_what_each_needs(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError) as error:
        detect_layout(tmp_path)
    message = str(error.value)
    assert "notes.txt" in message
    assert all(f"{layout.name}: {layout.needs}" in message for layout in LAYOUTS.values())


def test_two_layouts_in_one_folder_are_ambiguous_until_one_is_named(nnunet, make):
    source = nnunet()
    subject = make.subject(9)
    make.h5(source / "data" / "patient001_frame01.h5", subject.image, subject.label)
    with pytest.raises(ValueError, match="fits several layouts") as error:
        detect_layout(source)
    assert "nnunet" in str(error.value) and "acdc-hdf5" in str(error.value)
    assert detect_layout(source, "acdc-hdf5")[0].name == "acdc-hdf5"


def test_a_named_layout_that_does_not_fit_says_what_it_needs(nnunet):
    with pytest.raises(ValueError, match="train_npz"):
        detect_layout(nnunet(), "synapse-transunet")


def test_unknown_layout_name_and_missing_folder(tmp_path, nnunet):
    with pytest.raises(ValueError, match="unknown layout 'nnnet'; expected one of acdc-nifti"):
        detect_layout(nnunet(), "nnnet")
    with pytest.raises(ValueError, match="is not a folder"):
        detect_layout(tmp_path / "absent")


def test_a_prepared_data_set_is_not_a_source(nnunet, tmp_path):
    prepare(nnunet(), tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="prepared data set already"):
        detect_layout(tmp_path / "out")
