import json

import nibabel as nib
import numpy as np
import pytest

from mamba_unet.cli import main
from mamba_unet.data import PreparedDataset, export, prepare

CT = {"method": "window", "low": -125.0, "high": 275.0}


@pytest.fixture
def synapse(tmp_path, make):
    """Two test cases, one of training, one of validation, with whole Hounsfield units."""
    for number in (1, 2, 5, 7):
        subject = make.subject(number, shape=(3, 8, 6), classes=14)
        image = (subject.image * 2 - 600).clip(-1000, 900)
        make.nifti(tmp_path / "raw" / "img" / f"img{number:04d}.nii.gz", image.astype(np.int16))
        make.nifti(tmp_path / "raw" / "label" / f"label{number:04d}.nii.gz", subject.label)
    return prepare(tmp_path / "raw", tmp_path / "synapse", progress=False)


@pytest.fixture
def generic(nnunet, tmp_path):
    return prepare(nnunet(), tmp_path / "generic", progress=False)


def same_arrays(a, b):
    assert a.identifiers == b.identifiers
    for one, other in zip(map(a.case, a.identifiers), map(b.case, b.identifiers), strict=True):
        assert one.image.shape == other.image.shape
        assert one.image.tobytes() == other.image.tobytes() and one.label.tobytes() == other.label.tobytes()
    return True


def stored(path):
    """(D, H, W)."""
    return np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)


def test_transunets_layout_comes_back_bit_for_bit(synapse, tmp_path):
    (note,) = export(synapse, tmp_path / "out", "synapse-transunet", progress=False)
    assert "voxel size" in note
    again = prepare(tmp_path / "out", tmp_path / "again", progress=False)
    assert same_arrays(synapse, again)
    assert (again.fingerprint, again.splits, again.intensity) == (synapse.fingerprint, synapse.splits, (CT,))


def test_transunets_files_and_lists_are_named_as_it_names_them(synapse, tmp_path):
    import h5py

    export(synapse, tmp_path / "out", "synapse-transunet", progress=False)
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {
        *(f"train_npz/case{number:04d}_slice{index:03d}.npz" for number in (5, 7) for index in range(3)),
        "test_vol_h5/case0001.npy.h5",
        "test_vol_h5/case0002.npy.h5",
        "lists_Synapse/train.txt",
        "lists_Synapse/val.txt",
        "lists_Synapse/test_vol.txt",
    }
    lists = {path.stem: path.read_text() for path in (tmp_path / "out" / "lists_Synapse").iterdir()}
    assert lists["train"] == "case0005_slice000\ncase0005_slice001\ncase0005_slice002\n"
    assert lists["val"] == lists["train"].replace("case0005", "case0007")
    assert lists["test_vol"] == "case0001\ncase0002\n"
    with np.load(tmp_path / "out" / "train_npz" / "case0005_slice001.npz") as arrays:
        assert np.array_equal(arrays["label"], synapse.case("case0005").label[1])
        assert arrays["image"].dtype == arrays["label"].dtype == np.float32
    with h5py.File(tmp_path / "out" / "test_vol_h5" / "case0002.npy.h5") as arrays:
        assert np.array_equal(arrays["image"], synapse.case("case0002").image[0])
        assert arrays["label"].dtype == np.float32


def test_nnunets_layout_has_ct_in_whole_hounsfield_units(synapse, tmp_path):
    out = tmp_path / "Dataset502_Synapse"
    assert export(synapse, out, "nnunet", progress=False) == []
    described = json.loads((out / "dataset.json").read_text())
    assert described["channel_names"] == {"0": "CT"}
    assert described["labels"] == {name: index for index, name in enumerate(synapse.class_names)}
    assert described["numTraining"] == 2 and described["file_ending"] == ".nii.gz"
    assert json.loads((out / "splits_final.json").read_text()) == [{"train": ["case0005"], "val": ["case0007"]}]
    for folder, number in (("Tr", 5), ("Tr", 7), ("Ts", 1), ("Ts", 2)):
        case = synapse.case(f"case{number:04d}")
        image = nib.load(out / f"images{folder}" / f"{case.identifier}_0000.nii.gz")
        source = stored(tmp_path / "raw" / "img" / f"img{number:04d}.nii.gz")
        assert np.array_equal(stored(image.get_filename()), source.clip(-125, 275))
        np.testing.assert_allclose(image.affine, case.affine, rtol=1e-6)
        np.testing.assert_allclose(image.header.get_zooms(), case.spacing_mm[::-1], rtol=1e-6)
        assert np.array_equal(stored(out / f"labels{folder}" / f"{case.identifier}.nii.gz"), case.label)
    again = prepare(out, tmp_path / "again", splits=synapse.folder / "splits.json", progress=False)
    assert same_arrays(synapse, again)
    assert (again.fingerprint, again.splits, again.orientation) == (
        synapse.fingerprint,
        synapse.splits,
        synapse.orientation,
    )


def test_fractions_of_a_hounsfield_unit_are_kept(tmp_path, make):
    for number in (1, 5, 7):
        subject = make.subject(number, shape=(3, 8, 6), classes=14)
        make.nifti(tmp_path / "raw" / "img" / f"img{number:04d}.nii.gz", subject.image.astype(np.float32) / 7)
        make.nifti(tmp_path / "raw" / "label" / f"label{number:04d}.nii.gz", subject.label)
    prepared = prepare(tmp_path / "raw", tmp_path / "prepared", progress=False)
    export(prepared, tmp_path / "out", "nnunet", progress=False)
    source = stored(tmp_path / "raw" / "img" / "img0001.nii.gz").clip(-125, 275)
    np.testing.assert_allclose(stored(tmp_path / "out" / "imagesTs" / "case0001_0000.nii.gz"), source, atol=5e-5)


def test_other_images_stay_in_0_to_1_for_nnunets_z_score(generic, tmp_path):
    export(generic, tmp_path / "out", "nnunet", progress=False)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["channel_names"] == {"0": "zscore"}
    again = prepare(tmp_path / "out", tmp_path / "again", splits=generic.folder / "splits.json", progress=False)
    assert same_arrays(generic, again)
    assert (again.fingerprint, again.splits) == (generic.fingerprint, generic.splits)


def test_cases_without_a_voxel_size_get_1_mm_and_a_note(tmp_path, make):
    for number in (1, 41, 91):
        subject = make.subject(number)
        make.h5(tmp_path / "raw" / f"patient{number:03d}_frame01.h5", make.minmax(subject.image), subject.label)
    (tmp_path / "split.json").write_text(
        json.dumps({"train": ["patient001"], "val": ["patient041"], "test": ["patient091"]})
    )
    prepared = prepare(tmp_path / "raw", tmp_path / "prepared", splits=tmp_path / "split.json", progress=False)
    (note,) = export(prepared, tmp_path / "out", "nnunet", progress=False)
    assert "1 x 1 x 1 mm" in note and "3 cases" in note and "patient091_frame01" in note
    image = nib.load(tmp_path / "out" / "imagesTs" / "patient091_frame01_0000.nii.gz")
    assert image.header.get_zooms() == (1, 1, 1)
    assert (image.header["sform_code"], image.header["qform_code"]) == (0, 0), "no directions are invented"
    (note,) = export(prepared, tmp_path / "said", "nnunet", spacing_mm=(8, 1.5, 1.25), progress=False)
    assert "8 x 1.5 x 1.25 mm" in note
    again = prepare(tmp_path / "said", tmp_path / "again", progress=False)
    assert again.spacing_mm("patient001_frame01") == (8, 1.5, 1.25) and again.orientation is None
    assert np.array_equal(again.case("patient001_frame01").image, prepared.case("patient001_frame01").image)


def test_a_window_that_nnunets_layout_does_not_tell_is_said(synapse, tmp_path):
    described = json.loads((synapse.folder / "dataset.json").read_text())
    described["intensity"][0]["low"] = -1000.0
    (synapse.folder / "dataset.json").write_text(json.dumps(described))
    (note,) = export(PreparedDataset(synapse.folder), tmp_path / "out", "nnunet", progress=False)
    assert "channel 0 is a window from -1000 to 275" in note and "`prepare` reads as -125 to 275" in note


def test_cases_of_other_splits_are_left_out_and_named(nnunet, tmp_path):
    (tmp_path / "split.json").write_text(json.dumps({"train": ["s0", "s1"], "val": ["s2"], "spare": ["s3", "s4"]}))
    prepared = prepare(nnunet(), tmp_path / "prepared", splits=tmp_path / "split.json", progress=False)
    (note,) = export(prepared, tmp_path / "out", "nnunet", progress=False)
    assert "2 cases" in note and "s3, s4" in note
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "imagesTr", "labelsTr", "dataset.json", "origins.json", "splits_final.json",
    }  # fmt: skip
    assert len(list((tmp_path / "out" / "imagesTr").iterdir())) == 3


def test_transunets_layout_refuses_other_classes_intensities_and_names(generic, synapse, tmp_path, make):
    with pytest.raises(ValueError, match=r"classes background, one, two, three; .*nnunet holds any"):
        export(generic, tmp_path / "out", "synapse-transunet")
    wide = prepare(tmp_path / "raw", tmp_path / "wide", intensity=CT | {"high": 500.0}, progress=False)
    with pytest.raises(ValueError, match=r"has the intensities .*500"):
        export(wide, tmp_path / "out", "synapse-transunet")
    for number in (1, 5, 7):
        (tmp_path / "named" / "imagesTr").mkdir(parents=True, exist_ok=True)
        subject = make.subject(number, shape=(3, 8, 6), classes=9)
        make.nifti(tmp_path / "named" / "imagesTr" / f"liver{number}_0000.nii.gz", subject.image)
        make.nifti(tmp_path / "named" / "labelsTr" / f"liver{number}.nii.gz", subject.label)
    labels = {name: index for index, name in enumerate(synapse.class_names)}
    (tmp_path / "named" / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    named = prepare(tmp_path / "named", tmp_path / "named-prepared", progress=False)
    with pytest.raises(ValueError, match=r"has cases named .*liver5"):
        export(named, tmp_path / "out", "synapse-transunet")
    with pytest.raises(ValueError, match=r"holds no voxel size; .*export to nnunet"):
        export(synapse, tmp_path / "out", "synapse-transunet", spacing_mm=(3, 1, 1))
    assert not (tmp_path / "out").exists()


def test_an_unknown_layout_and_a_folder_in_use_are_refused(generic, tmp_path):
    with pytest.raises(ValueError, match="'nifti'; expected one of synapse-transunet, nnunet"):
        export(generic, tmp_path / "out", "nifti")
    with pytest.raises(ValueError, match="not an empty folder"):
        export(generic, generic.folder, "nnunet")
    (tmp_path / "empty").mkdir()
    export(generic, tmp_path / "empty", "nnunet", progress=False)
    assert (tmp_path / "empty" / "dataset.json").is_file()


@pytest.mark.parametrize("name", ["ignore", "background"])
def test_a_class_whose_name_nnunet_takes_otherwise_is_refused(generic, tmp_path, name):
    generic.class_names = ["background", "one", name, "three"]
    with pytest.raises(ValueError, match=f"a class is called '{name}'; .*rename it"):
        export(generic, tmp_path / "out", "nnunet", progress=False)
    assert not (tmp_path / "out").exists()


def test_an_export_that_fails_leaves_nothing_behind(generic, tmp_path):
    (generic.folder / "images" / f"{generic.split('test')[0]}.npy").write_bytes(b"cut short")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError):
        export(generic, tmp_path / "out", "nnunet", progress=False)
    assert sorted(tmp_path.iterdir()) == before


def test_the_command_exports_and_explains_what_it_cannot(generic, tmp_path, capsys):
    assert main(["export", str(generic.folder), str(tmp_path / "out"), "--layout", "nnunet"]) == 0
    assert prepare(tmp_path / "out", tmp_path / "again", progress=False).identifiers == generic.identifiers
    assert str(tmp_path / "out") in capsys.readouterr().out
    assert main(["export", str(generic.folder), str(tmp_path / "no"), "--layout", "synapse-transunet"]) == 2
    assert "Synapse's classes" in capsys.readouterr().err
