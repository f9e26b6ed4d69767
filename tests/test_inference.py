import h5py
import nibabel as nib
import numpy as np
import pytest
import torch

from mamba_unet.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.data import prepare
from mamba_unet.inference import Predictor, choose_device, predict_files, predict_volume


class Threshold(torch.nn.Module):
    """A 'network' whose answer is known: class 1 where the image is above one half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(tuple(x.shape))
        return torch.cat([0.5 - x, x - 0.5], dim=1) * self.weight


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A folder that loads as the threshold network."""
    metadata = CheckpointMetadata(
        "threshold", {}, ["background", "bright"], {"method": "minmax"}, (24, 24), orientation="SPL"
    )
    monkeypatch.setattr("mamba_unet.models.registry.build_model", lambda *args, **kwargs: Threshold())
    save_checkpoint(tmp_path / "run" / "best.safetensors", Threshold(), metadata)
    return tmp_path / "run"


def corner_image() -> np.ndarray:
    """(X, Y, Z) with one bright box in a corner that no flip or transposition maps to itself."""
    array = np.zeros((20, 16, 5), np.float32)
    array[1:6, 9:14, 1] = 7
    array[2, 3, 4] = 0.5  # below half of the maximum
    return array


def test_slices_go_through_the_network_in_batches_of_its_image_size():
    network = Threshold()
    image = np.zeros((5, 12, 10), np.float32)
    image[3, 2:6, 4:8] = 1
    label = predict_volume(network, image, (24, 20), batch_size=2)
    assert network.sizes == [(2, 1, 24, 20), (2, 1, 24, 20), (1, 1, 24, 20)]
    assert label.dtype == np.uint8 and np.array_equal(label, image)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAS", "SPL", "PIR"])
def test_a_nifti_comes_back_in_its_own_geometry_in_the_right_corner(checkpoint, tmp_path, orientation):
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(orientation)
        ),
        (20, 16, 5),
    )
    stored = nib.Nifti1Image(corner_image(), np.diag([-1.5, -1.4, 8, 1]) @ np.linalg.inv(affine))
    stored.header["descrip"] = b"a scan"
    nib.save(stored, tmp_path / "case_0000.nii.gz")
    stored = nib.load(tmp_path / "case_0000.nii.gz")  # the affine as the file has it, in float32
    written, failures = predict_files(Predictor(checkpoint), [tmp_path / "case_0000.nii.gz"], tmp_path / "out")

    assert not failures and [path.name for path in written] == ["case.nii.gz"]
    result = nib.load(written[0])
    assert result.shape == stored.shape and result.get_data_dtype() == np.uint8
    assert np.array_equal(result.affine, stored.affine)
    assert result.header.get_zooms() == stored.header.get_zooms()
    assert np.array_equal(np.asarray(result.dataobj), corner_image() > 3.5)
    assert b'"1": "bright"' in result.header.extensions[0].get_content()


def test_the_header_stays_what_it_was_in_either_version_of_nifti(checkpoint, tmp_path):
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        stored = kind(corner_image(), np.diag([1.1, 1.2, 8, 1]))
        stored.set_qform(np.diag([1.1, 1.2, 8, 1]), 2)
        stored.set_sform(np.diag([1.0, 1.3, 8, 1]), 4)
        nib.save(stored, tmp_path / "a.nii.gz")
        stored = nib.load(tmp_path / "a.nii.gz")
        Predictor(checkpoint)(tmp_path / "a.nii.gz").save(tmp_path / "b.nii.gz")
        result = nib.load(tmp_path / "b.nii.gz")
        assert type(result) is kind and np.array_equal(result.affine, stored.affine)
        for get in ("get_qform", "get_sform"):
            (before, code), (after, same) = (getattr(image, get)(coded=True) for image in (stored, result))
            assert code == same and np.array_equal(before, after)


def test_a_case_joined_from_slices_is_segmented_whole_under_its_own_name(checkpoint, tmp_path):
    image = corner_image().transpose(2, 1, 0) / 7
    for mark, case in enumerate(("patient001_frame01", "patient071_frame01", "patient081_frame01")):
        image[0, 0, 0] = 0.1 * mark  # no two alike
        for number, pixels in enumerate(image, start=1):
            path = tmp_path / "src" / "slices" / f"{case}_slice_{number}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["image"], file["label"] = pixels, (pixels > 0.5).astype(np.uint8)
    prepared = prepare(tmp_path / "src", tmp_path / "data", progress=False)
    assert len(prepared.identifiers) == 3
    predict_files(Predictor(checkpoint), [], tmp_path / "out", prepared, prepared.identifiers)
    for case in prepared.identifiers:
        result = nib.load(tmp_path / "out" / f"{case}.nii.gz")
        assert np.array_equal(np.asarray(result.dataobj).transpose(2, 1, 0), prepared.case(case).label)


def test_intensities_that_are_scaled_already_are_taken_as_they_are_and_said(checkpoint, tmp_path, caplog):
    predictor = Predictor(checkpoint)
    predictor.metadata.intensity.update(method="window", low=-125.0, high=275.0)
    with h5py.File(tmp_path / "case0001.npy.h5", "w") as file:
        file["image"] = corner_image().transpose(2, 1, 0) / 7
    segmentation = predictor(tmp_path / "case0001.npy.h5")
    assert np.array_equal(segmentation.label, corner_image().transpose(2, 1, 0) > 3.5)
    assert "case0001.npy.h5: in 0..1 already" in caplog.text


@pytest.mark.parametrize("shape", [(20, 16), (20, 16, 1), (20, 16, 5, 1)])
def test_shapes_with_two_or_four_axes_are_kept(checkpoint, tmp_path, shape):
    array = np.resize(corner_image(), shape)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii.gz")
    written, _ = predict_files(Predictor(checkpoint), [tmp_path / "a.nii.gz"], tmp_path / "out")
    assert nib.load(written[0]).shape == shape


def test_scaled_and_offset_integers_are_read_as_their_values(checkpoint, tmp_path):
    image = nib.Nifti1Image(corner_image().astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, -5.0)
    nib.save(image, tmp_path / "a.nii.gz")
    written, _ = predict_files(Predictor(checkpoint), [tmp_path / "a.nii.gz"], tmp_path / "out")
    result = nib.load(written[0])
    assert result.header.get_slope_inter() in [(1.0, 0.0), (None, None)]
    assert set(np.unique(result.dataobj)) == {0, 1}


def test_a_bad_file_is_reported_and_does_not_stop_the_others(checkpoint, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    nib.save(nib.Nifti1Image(corner_image(), np.eye(4)), images / "good.nii.gz")
    (images / "broken.nii.gz").write_bytes(b"\x1f\x8b no gzip")
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), np.eye(4)), images / "nan.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 3), np.float32), np.eye(4)), images / "cine.nii.gz")
    written, failures = predict_files(Predictor(checkpoint), [images], tmp_path / "out")
    assert [path.name for path in written] == ["good.nii.gz"]
    assert {name.rsplit("/", 1)[-1] for name in failures} == {"broken.nii.gz", "nan.nii.gz", "cine.nii.gz"}
    assert all("nii.gz" in error for error in failures.values())
    assert (tmp_path / "out" / "failures.json").exists()


def test_two_inputs_of_one_name_are_refused_before_anything_is_written(checkpoint, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(corner_image(), np.eye(4)), tmp_path / folder / "x.nii.gz")
    with pytest.raises(ValueError, match=r"would both be written as x\.nii\.gz"):
        predict_files(Predictor(checkpoint), [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_input_says_what_was_looked_for(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image files in"):
        predict_files(Predictor(checkpoint), [tmp_path / "empty"], tmp_path / "out")


def test_a_device_that_is_not_there_is_said():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="mamba-unet info"):
        choose_device("cuda:77")
