import itertools

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from mamba_unet.inference import Predictor, choose_device
from mamba_unet.views.intensity import window
from mamba_unet.views.patches import Patches
from mamba_unet.volumes import limits
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.volume import Volume

ORIENTATIONS = [
    "".join(code[0] if flip else code[1] for code, flip in zip(axes, flips, strict=True))
    for axes in itertools.permutations(("LR", "AP", "SI"))
    for flips in itertools.product((False, True), repeat=3)
]


def oriented(array: np.ndarray, spacing_mm: tuple[float, ...], orientation: str) -> nib.Nifti1Image:
    """A NIfTI image whose array (X, Y, Z) lies as `orientation` (of X, Y, Z) says, slightly oblique."""
    axes = nib.orientations.axcodes2ornt(orientation)
    directions = np.zeros((3, 3))
    for column, (row, sign) in enumerate(axes):
        directions[int(row), column] = sign
    tilt = nib.eulerangles.euler2mat(0.1, -0.07, 0.05)
    affine = np.eye(4)
    affine[:3, :3] = tilt @ directions * spacing_mm
    affine[:3, 3] = (-70, 33, 250)
    return nib.Nifti1Image(array, affine)


def records_slices(predictor: Predictor) -> list[np.ndarray]:
    """What the predictor's network is shown from now on, slice by slice."""
    shown: list[np.ndarray] = []
    predictor.members[0].register_forward_pre_hook(lambda _, inputs: shown.extend(inputs[0][:, 0].numpy()))
    return shown


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("trained", ["SPL", "SAR", None])
def test_a_box_in_one_corner_comes_back_in_that_corner_in_every_orientation(
    save_threshold, corner, tmp_path, orientation, trained
):
    nib.save(oriented(corner, (1.5, 1.5, 1.6), orientation), tmp_path / "a.nii.gz")
    Predictor(save_threshold(orientation=trained))(tmp_path / "a.nii.gz").save(tmp_path / "b.nii.gz")
    stored, result = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "b.nii.gz")
    assert np.array_equal(np.asarray(result.dataobj), corner > 3.5)
    assert np.array_equal(result.affine, stored.affine) and result.header.get_zooms() == stored.header.get_zooms()


@pytest.mark.parametrize("orientation", ORIENTATIONS[::6])
@pytest.mark.parametrize("trained", ["SPL", "SAR", None])
def test_a_box_in_one_octant_comes_back_in_it_through_patches_on_another_grid(
    save_threshold, tmp_path, orientation, trained
):
    """The network sees voxels half as wide; the result lies on the image's own grid."""
    box = np.zeros((20, 16, 12), np.float32)
    box[1:7, 9:14, 2:5] = 7
    nib.save(oriented(box, (1.5, 1.4, 1.6), orientation), tmp_path / "a.nii.gz")
    view = Patches((8, 16, 12), (0.8, 0.7, 0.75) if trained else (0.7, 0.7, 0.7))
    Predictor(save_threshold(orientation=trained, view=view))(tmp_path / "a.nii.gz").save(tmp_path / "b.nii.gz")
    result = np.asarray(nib.load(tmp_path / "b.nii.gz").dataobj) > 0
    wrong = result != (box > 3.5)
    assert not wrong[1:7, 9:14, 2:5][1:-1, 1:-1, 1:-1].any()  # within the box
    wrong[0:8, 8:15, 1:6] = False  # its rim may move by a voxel
    assert not wrong.any() and 0.8 < result.sum() / 90 < 1.25


def test_a_volume_smaller_than_the_patch_and_a_cine_come_back_whole(save_threshold, corner, tmp_path):
    predictor = Predictor(save_threshold(view=Patches((16, 32, 48), (8.0, 1.4, 1.5))))
    segmentation = predictor(corner.T, spacing_mm=(8.0, 1.4, 1.5))
    assert np.array_equal(segmentation.label, corner.T > 3.5)
    assert predictor.members[0].sizes == [(1, 1, 16, 32, 48)]
    frames = np.stack([corner, 100 * corner[::-1], np.roll(corner, 5, axis=1) - 30], axis=-1)  # (X, Y, Z, T)
    cine = predictor(nib.Nifti1Image(frames, np.diag([1.5, 1.4, 8, 1])))
    for number in range(3):  # each by itself, as a volume of its own
        alone = predictor(nib.Nifti1Image(frames[..., number], np.diag([1.5, 1.4, 8, 1])))
        assert np.array_equal(cine.labels[number], alone.label) and alone.label.any()


def test_an_image_of_unknown_voxel_size_is_taken_to_have_the_networks_and_that_is_said(save_threshold, corner, caplog):
    predictor = Predictor(save_threshold(view=Patches((8, 8, 8), (8.0, 1.4, 1.5))))
    assert np.array_equal(predictor(corner.T).label, corner.T > 3.5)
    assert "its voxel size is unknown" in caplog.text and "8 x 1.4 x 1.5 mm" in caplog.text


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_network_sees_every_orientation_as_it_was_trained(save_threshold, orientation):
    """The same head, stored in 48 ways: rows, columns and slices reach the network alike."""
    head = np.random.default_rng(0).random((6, 5, 4)).astype(np.float32)  # along L, P, S
    reference = nib.Nifti1Image(head, np.diag([-1.0, -1.0, 1.0, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("LPS"), nib.orientations.axcodes2ornt(orientation)
    )
    predictor = Predictor(save_threshold(image_size=(5, 6), orientation="SPL"))
    shown = records_slices(predictor)
    predictor(reference.as_reoriented(turn))
    scaled = (head - head.min()) / (head.max() - head.min())
    assert np.allclose(shown, scaled.transpose(2, 1, 0))
    through_patches = Predictor(save_threshold(orientation="SPL", view=Patches((4, 5, 6), None)))
    shown = records_slices(through_patches)
    through_patches(reference.as_reoriented(turn))
    assert np.allclose(shown, scaled.transpose(2, 1, 0), atol=1e-6)


@pytest.mark.parametrize("thick", [0, 1, 2])
def test_slices_are_cut_across_the_thick_axis(save_threshold, corner, thick):
    """Sagittal, coronal and axial acquisitions: the through-plane axis is the one of the widest spacing."""
    predictor = Predictor(save_threshold(orientation=None))
    shown = records_slices(predictor)
    array = np.moveaxis(corner, 2, thick)
    spacing = [1.2] * 3
    spacing[thick] = 8.0
    segmentation = predictor(nib.Nifti1Image(array, np.diag([*spacing, 1.0])))
    assert len(shown) == 5 and segmentation.slice_axis == 2 - thick
    assert np.array_equal(segmentation.label, array.T > 3.5)


@pytest.mark.parametrize(("axis", "count"), [("x", 20), ("y", 16), ("z", 5)])
def test_the_axis_can_be_chosen_against_the_spacing(checkpoint, corner, axis, count):
    predictor = Predictor(checkpoint)
    shown = records_slices(predictor)
    segmentation = predictor(nib.Nifti1Image(corner, np.diag([1.0, 1.0, 8.0, 1.0])), slice_axis=axis)
    assert len(shown) == count and np.array_equal(segmentation.label, corner.T > 3.5)
    with pytest.raises(ValueError, match="slice_axis='w'; expected one of x, y, z"):
        predictor(corner, slice_axis="w")


def test_the_header_stays_what_it_was_in_either_version_of_nifti(checkpoint, corner, tmp_path):
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        stored = kind(corner, np.diag([1.1, 1.2, 8, 1]))
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
        assert b'"1": "bright"' in result.header.extensions[0].get_content()


@pytest.mark.parametrize("shape", [(20, 16), (20, 16, 1), (20, 16, 5, 1)])
def test_shapes_with_two_or_four_axes_are_kept(checkpoint, corner, tmp_path, shape):
    nib.save(nib.Nifti1Image(np.resize(corner, shape), np.eye(4)), tmp_path / "a.nii.gz")
    Predictor(checkpoint)(tmp_path / "a.nii.gz").save(tmp_path / "b.nii.gz")
    assert nib.load(tmp_path / "b.nii.gz").shape == shape


def test_nothing_is_measured_in_units_that_nobody_told(checkpoint, corner, tmp_path):
    """Neither ml of a NIfTI file without a voxel size, nor a mean of values that `prepare` scaled."""
    image = nib.Nifti1Image(corner, np.eye(4))
    for unit, known in (("unknown", False), ("mm", True)):
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / f"{unit}.nii.gz")
        segmentation = Predictor(checkpoint)(tmp_path / f"{unit}.nii.gz")
        assert all((one.volume_ml is not None) == known for one in segmentation.statistics)
        assert all(np.isfinite(one.mean_intensity) for one in segmentation.statistics)
    predictor = Predictor(checkpoint)
    (scaled,) = predictor.segment([predictor.prepare(Volume.from_array(corner), scaled=True)])
    assert all(one.mean_intensity is None for one in scaled.statistics)


def test_scaled_and_offset_integers_are_read_as_their_values(checkpoint, corner, tmp_path):
    image = nib.Nifti1Image(corner.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, -5.0)
    nib.save(image, tmp_path / "a.nii.gz")
    Predictor(checkpoint)(tmp_path / "a.nii.gz").save(tmp_path / "b.nii.gz")
    result = nib.load(tmp_path / "b.nii.gz")
    assert result.header.get_slope_inter() in [(1.0, 0.0), (None, None)]
    assert set(np.unique(result.dataobj)) == {0, 1}


def test_each_frame_of_a_cine_is_scaled_by_itself_and_comes_back_as_a_cine(checkpoint, corner, tmp_path):
    frames = np.stack([corner, 100 * corner[::-1], np.roll(corner, 5, axis=1) - 30], axis=-1)  # (X, Y, Z, T)
    image = nib.Nifti1Image(frames, np.diag([1.5, 1.5, 8, 1]))
    image.header.set_zooms((1.5, 1.5, 8, 0.04))
    nib.save(image, tmp_path / "patient001_4d.nii.gz")
    segmentation = Predictor(checkpoint)(tmp_path / "patient001_4d.nii.gz")
    assert segmentation.label.shape == (3, 5, 16, 20)
    assert segmentation.image.min(axis=(1, 2, 3, 4)).tolist() == [0] * 3
    assert segmentation.image.max(axis=(1, 2, 3, 4)).tolist() == [1] * 3
    segmentation.save(tmp_path / "b.nii.gz")
    result = nib.load(tmp_path / "b.nii.gz")
    expected = np.stack([corner > 3.5, corner[::-1] > 3.5, np.roll(corner, 5, axis=1) > 3.5], axis=-1)
    assert np.array_equal(np.asarray(result.dataobj), expected)
    assert result.header.get_zooms() == nib.load(tmp_path / "patient001_4d.nii.gz").header.get_zooms()


def test_intensities_that_are_scaled_already_are_taken_as_they_are_and_said(save_threshold, corner, tmp_path, caplog):
    predictor = Predictor(save_threshold(intensity=window(-125, 275)))
    with h5py.File(tmp_path / "case0001.npy.h5", "w") as file:
        file["image"] = corner.T / 7
    segmentation = predictor(tmp_path / "case0001.npy.h5")
    assert np.array_equal(segmentation.label, corner.T > 3.5)
    assert "case0001.npy.h5: in 0..1 already" in caplog.text


@pytest.mark.parametrize("kind", ["array", "nibabel", "sitk", "scan", "mha", "h5"])
def test_an_image_may_come_in_any_form_and_gives_the_same_labels(checkpoint, corner, tmp_path, kind):
    spacing = (8.0, 1.4, 1.5)
    arguments = {}
    if kind == "array":
        image, arguments = corner.T, {"spacing_mm": spacing}
    elif kind == "nibabel":
        image = nib.Nifti1Image(corner, np.diag([-1.5, -1.4, 8, 1]))
    elif kind == "scan":
        image = Volume.from_array(corner.T, spacing)
    elif kind == "h5":
        image, arguments = tmp_path / "a.h5", {"spacing_mm": spacing}
        with h5py.File(image, "w") as file:
            file["image"] = corner.T
    else:
        image = sitk.GetImageFromArray(corner.T)
        image.SetSpacing(spacing[::-1])
        if kind == "mha":
            sitk.WriteImage(image, tmp_path / "a.mha")
            image = tmp_path / "a.mha"
    segmentation = Predictor(checkpoint)(image, **arguments)
    assert np.array_equal(segmentation.label, corner.T > 3.5)
    assert segmentation.spacing_mm == pytest.approx(spacing)


def test_a_flat_array_or_picture_gives_a_flat_label(checkpoint, corner, tmp_path):
    flat = corner[..., 1].T
    assert np.array_equal(Predictor(checkpoint)(flat).label, flat > 3.5)
    Image.fromarray((flat * 30).astype(np.uint8)).save(tmp_path / "eye.png")
    segmentation = Predictor(checkpoint)(tmp_path / "eye.png")
    assert np.array_equal(np.squeeze(segmentation.label), flat > 3.5) and segmentation.spacing_mm is None


def test_the_result_goes_back_to_nibabel_and_simpleitk_in_its_place(checkpoint, corner, tmp_path):
    image = oriented(corner, (1.5, 1.4, 8.0), "PIR")
    nib.save(image, tmp_path / "a.nii.gz")
    segmentation = Predictor(checkpoint)(tmp_path / "a.nii.gz")
    back = segmentation.to_nibabel()
    assert np.array_equal(back.affine, nib.load(tmp_path / "a.nii.gz").affine)
    assert np.array_equal(np.asarray(back.dataobj), corner > 3.5)
    ours, read = segmentation.to_sitk(), sitk.ReadImage(tmp_path / "a.nii.gz")
    assert np.array_equal(sitk.GetArrayFromImage(ours), corner.T > 3.5)
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(ours, get)(), getattr(read, get)(), atol=1e-4), get

    flat = sitk.GetImageFromArray(corner[..., 1].T)
    flat.SetSpacing((0.5, 0.7))
    flat.SetOrigin((3.0, -4.0))
    result = Predictor(checkpoint)(flat).to_sitk()
    assert result.GetSize() == flat.GetSize() and result.GetOrigin() == flat.GetOrigin()
    assert result.GetSpacing() == pytest.approx(flat.GetSpacing())


def test_probabilities_sum_to_one_and_the_label_is_the_largest(checkpoint, corner, tmp_path):
    predictor = Predictor(checkpoint)
    image = nib.Nifti1Image(corner, np.diag([8, 1.5, 1.4, 1]))  # slices across X
    plain, segmentation = predictor(image), predictor(image, probabilities=True)
    assert plain.probabilities is None and segmentation.probabilities.shape == (1, 2, 5, 16, 20)
    assert np.allclose(segmentation.probabilities.sum(axis=1), 1)
    assert np.array_equal(segmentation.probabilities.argmax(axis=1), segmentation.labels)
    assert np.array_equal(segmentation.labels, plain.labels)
    segmentation.save_probabilities(tmp_path / "p.nii.gz")
    stored = np.asarray(nib.load(tmp_path / "p.nii.gz").dataobj)
    assert stored.shape == (20, 16, 5, 2) and stored.dtype == np.float32
    assert np.array_equal(stored.argmax(axis=-1), corner > 3.5)
    segmentation.save_uncertainty(tmp_path / "u.nii.gz")
    stored = np.asarray(nib.load(tmp_path / "u.nii.gz").dataobj)
    assert np.array_equal(stored, segmentation.uncertainty[0].T) and stored.shape == corner.shape
    (structure,) = segmentation.statistics
    assert structure.mean_uncertainty == pytest.approx(segmentation.uncertainty[segmentation.labels == 1].mean())
    assert plain.uncertainty is None and plain.statistics[0].mean_uncertainty is None
    for save in (plain.save_probabilities, plain.save_uncertainty):
        with pytest.raises(ValueError, match="probabilities=True"):
            save(tmp_path / "p.nii.gz")


def test_an_ensemble_averages_its_members_whatever_their_image_sizes(save_threshold, corner):
    runs = [save_threshold("a", weight=1.0), save_threshold("b", weight=-3.0, image_size=(16, 20))]
    runs.append(save_threshold("c", weight=0.5))
    alone = [Predictor(run)(corner.T, probabilities=True).probabilities for run in runs]
    together = Predictor(runs)(corner.T, probabilities=True)
    assert np.allclose(together.probabilities, np.mean(alone, axis=0), atol=1e-6)
    assert np.array_equal(together.label, np.mean(alone, axis=0)[0].argmax(axis=0))
    assert np.array_equal(Predictor(runs)(corner.T).label, together.label)


def test_slices_and_volumes_that_would_see_an_image_turned_in_different_ways_are_no_ensemble_for_it(save_threshold):
    runs = [save_threshold("a"), save_threshold("b", view=Patches((4, 8, 8), None))]
    head = np.random.default_rng(0).random((12, 12, 12)).astype(np.float32)
    axial, coronal = (nib.Nifti1Image(head, np.diag(size)) for size in ((-1.0, -1, 4, 1), (-1.0, -4, 1, 1)))
    for one in (runs, runs[::-1]):
        predictor = Predictor(one)
        assert predictor(axial).label.shape == head.shape
        with pytest.raises(ValueError, match="turned in different ways"):
            predictor(coronal)


def test_memory_for_a_finer_grid_is_asked_for_before_it_is_taken(save_threshold, monkeypatch):
    predictor = Predictor(save_threshold(view=Patches((8, 8, 8), (1.0, 1.0, 1.0))))
    monkeypatch.setattr(limits, "max_bytes", 10 * 2**20)
    small = np.random.default_rng(0).random((16, 16, 16)).astype(np.float32)
    assert predictor(small, spacing_mm=(2, 2, 2)).label.shape == small.shape
    with pytest.raises(UnreadableError, match=r"needs 0\.0264 GiB of memory, the limit is"):
        predictor(small, spacing_mm=(12, 12, 12))


def test_every_network_of_an_ensemble_sees_all_symmetries(save_threshold, corner):
    runs = [save_threshold("a"), save_threshold("b", image_size=(16, 20))]
    plain, mirrored = Predictor(runs), Predictor(runs, tta=True)
    for predictor in (plain, mirrored):
        predictor(corner.T)
    seen = [[sum(count for count, *_ in member.sizes) for member in one.members] for one in (plain, mirrored)]
    assert all(more == 8 * once for once, more in zip(*seen, strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["background", "dark"]}, "class_names"),
        ({"intensity": window(0, 1)}, "intensity"),
        ({"orientation": None}, "orientation"),
    ],
)
def test_networks_of_different_data_are_no_ensemble(save_threshold, changes, message):
    with pytest.raises(ValueError, match=message):
        Predictor([save_threshold("a"), save_threshold("b", **changes)])


def test_slices_of_several_scans_share_batches(checkpoint, corner):
    predictor = Predictor(checkpoint, batch_size=4)
    taken = []

    def scans():
        for number, length in enumerate((5, 2, 1, 5)):
            taken.append(number)
            yield predictor.prepare(Volume.from_array(corner.T[:length] * number, name=str(number)))

    finished = []
    for segmentation in predictor.segment(scans()):
        finished.append((segmentation.volume.name, taken[-1]))
        assert np.array_equal(segmentation.labels, segmentation.image[:, 0] > 0.5)
    assert [size[0] for size in predictor.members[0].sizes] == [4, 4, 4, 1]
    assert finished == [("0", 2), ("1", 2), ("2", 2), ("3", 3)]  # as soon as their last slice is done


def test_progress_counts_slices_and_may_stop_the_work(checkpoint, corner):
    predictor = Predictor(checkpoint, batch_size=2)
    counted = []
    predictor(corner.T, progress=lambda done, total: counted.append((done, total)))
    assert counted == [(2, 5), (4, 5), (5, 5)]

    class CancelledError(Exception):
        pass

    def cancel(done, total):
        raise CancelledError

    predictor.members[0].sizes.clear()
    with pytest.raises(CancelledError):
        predictor(corner.T, progress=cancel)
    assert len(predictor.members[0].sizes) == 1


def test_a_batch_that_does_not_fit_into_memory_says_which_would(checkpoint, corner, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    predictor = Predictor(checkpoint, batch_size=5)
    monkeypatch.setattr(predictor.members[0], "forward", full)
    with pytest.raises(ValueError, match=r"5 tiles at a time .*batch_size=1, --batch-size"):
        predictor(corner.T)


def test_the_trainings_own_data_are_sliced_as_training_was_whatever_their_spacing(checkpoint, corner):
    sagittal = Volume.from_nibabel(nib.Nifti1Image(corner, np.diag([-6.0, -1.0, 1.0, 1.0])))
    predictor = Predictor(checkpoint)
    assert predictor(sagittal).slice_axis == 2
    assert predictor(predictor.preprocessing.as_trained(sagittal)).slice_axis == 0
    flat = Volume.from_array(corner.T, (1.0, 1.0, 6.0))
    assert predictor(flat).slice_axis == 2 and predictor(predictor.preprocessing.as_trained(flat)).slice_axis == 0


def test_what_is_no_finite_image_is_refused_by_name(checkpoint, tmp_path):
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), np.nan, np.float32), np.eye(4)), tmp_path / "hollow.nii.gz")
    with pytest.raises(UnreadableError, match=r"hollow\.nii\.gz: .*NaN"):
        Predictor(checkpoint)(tmp_path / "hollow.nii.gz")


def test_a_real_ct_is_segmented_in_its_place(save_threshold, ct_dir, tmp_path):
    stored = nib.load(ct_dir / "ct.nii.gz")
    hounsfield = np.asarray(stored.dataobj)
    run = save_threshold(intensity=window(-125, 275), image_size=hounsfield.shape[1::-1], orientation="SPR")
    Predictor(run)(ct_dir / "ct.nii.gz").save(tmp_path / "a.nii.gz")
    result = nib.load(tmp_path / "a.nii.gz")
    assert np.array_equal(result.affine, stored.affine)
    assert np.array_equal(np.asarray(result.dataobj), hounsfield > 75)


def test_a_real_heart_in_hdf5_is_segmented_whole(save_threshold, acdc_dir):
    path = next(acdc_dir.rglob("patient001_frame01.h5"))
    with h5py.File(path) as file:
        image = file["image"][()]
    segmentation = Predictor(save_threshold(image_size=image.shape[1:]))(path, spacing_mm=(10, 1.56, 1.56))
    assert np.array_equal(segmentation.label, segmentation.image[0, 0] > 0.5)
    assert np.allclose(segmentation.image[0, 0], image, atol=1e-6) and len(segmentation.statistics) == 1


def test_a_hub_id_is_taken_as_a_checkpoint(checkpoint, corner, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(checkpoint / "best.safetensors"))
    assert np.array_equal(Predictor("hf:someone/threshold")(corner.T).label, corner.T > 3.5)


def test_a_device_that_is_not_there_is_said():
    assert choose_device("cpu") == torch.device("cpu")
    for device in ("cuda:77", "meta"):
        with pytest.raises(ValueError, match="mamba-unet info"):
            choose_device(device)


def test_a_slice_that_lies_across_itks_plane_becomes_an_image_there_all_the_same(checkpoint, corner):
    """A coronal slice: of its two directions, one is none in ITK's plane of x and y."""
    coronal = np.array([[1.5, 0, 0, 5], [0, 0, 1, 6], [0, 2, 0, 7], [0, 0, 0, 1.0]])
    segmentation = Predictor(checkpoint)(nib.Nifti1Image(corner[..., 1].copy(), coronal))
    image = segmentation.to_sitk()
    assert image.GetSize() == (20, 16) and image.GetSpacing() == (1.5, 2)
    assert np.array_equal(sitk.GetArrayFromImage(image), corner[..., 1].T > 3.5)
