import zipfile

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.read import case_name, read_volume

AFFINE = np.array([[0.0, -2.0, 0.3, 5], [1.5, 0, 0, 6], [0, 0.4, 8, 7], [0, 0, 0, 1]])
GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)


def grey_volume() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1000, (9, 17, 13), dtype=np.int16)


def itk_image() -> sitk.Image:
    image = sitk.GetImageFromArray(grey_volume())
    image.SetDirection([0, 0, 1, -1, 0, 0, 0, -1, 0])  # columns to the front, rows down, slices to the left
    image.SetSpacing([1.5, 1.4, 8])
    image.SetOrigin([10, -20, 30])
    return image


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nifti_keeps_what_puts_a_result_back(tmp_path, ending):
    image = nib.Nifti2Image(grey_volume().T, AFFINE)
    nib.save(image, tmp_path / f"patient001_4d{ending}")
    scan = read_volume(tmp_path / f"patient001_4d{ending}")
    assert scan.name == "patient001_4d" and scan.source == tmp_path / f"patient001_4d{ending}"
    assert np.array_equal(scan.grey, grey_volume()[None]) and np.array_equal(scan.affine, AFFINE)
    assert scan.stored_shape == (13, 17, 9) and isinstance(scan.header, nib.Nifti2Header)
    (tmp_path / f"patient001_4d{ending}").unlink()
    assert scan.array.sum() == grey_volume().sum()  # an upload may be removed once it is read


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_itk_files_lie_where_they_do_as_nifti(tmp_path, ending):
    sitk.WriteImage(itk_image(), tmp_path / f"a{ending}")
    sitk.WriteImage(itk_image(), tmp_path / "b.nii.gz")
    scan, nifti = read_volume(tmp_path / f"a{ending}"), read_volume(tmp_path / "b.nii.gz")
    assert scan.affine == pytest.approx(nifti.affine, abs=1e-5) and scan.orientation == nifti.orientation == "LIA"
    assert np.array_equal(scan.array, nifti.array) and scan.spacing_mm == (8.0, 1.4, 1.5)
    assert scan.name == "a" and scan.header is None


def test_a_cine_and_a_single_slice_of_itk(tmp_path):
    cine = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    sitk.WriteImage(sitk.GetImageFromArray(cine, isVector=False), tmp_path / "cine.nrrd")
    sitk.WriteImage(sitk.GetImageFromArray(cine[0, 0]), tmp_path / "slice.mha")
    assert np.array_equal(read_volume(tmp_path / "cine.nrrd").grey, cine)
    assert np.array_equal(read_volume(tmp_path / "slice.mha").grey, cine[:1, :1])


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("array", [GREY, GREY.astype(np.uint16) * 1000], ids=["8 bits", "16 bits"])
def test_grey_pictures_are_single_slices_without_geometry(tmp_path, ending, array):
    Image.fromarray(array).save(tmp_path / f"a{ending}")
    scan = read_volume(tmp_path / f"a{ending}")
    assert np.array_equal(scan.grey[0, 0], array) and scan.array.dtype == array.dtype
    assert scan.affine is None and scan.spacing_mm is None and scan.orientation is None


def test_jpeg_and_bmp_are_pictures(tmp_path):
    smooth = np.full((16, 24), 100, np.uint8)
    for name in ("a.jpg", "b.JPEG", "c.bmp"):
        Image.fromarray(smooth).save(tmp_path / name)
        assert np.array_equal(read_volume(tmp_path / name).grey[0, 0], smooth)


def test_the_pages_of_a_tiff_are_slices(tmp_path):
    pages = [Image.fromarray(GREY.astype(np.uint16) * 1000 + number) for number in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_volume(tmp_path / "a.tif").grey[0], np.stack([np.asarray(page) for page in pages]))
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=[Image.new("I;16", (5, 5))])
    with pytest.raises(UnreadableError, match=r"b\.tif: pages of different sizes: 2 x 3, 5 x 5"):
        read_volume(tmp_path / "b.tif")


def test_grey_saved_as_colours_is_grey(tmp_path):
    Image.fromarray(np.stack([GREY] * 3, -1)).save(tmp_path / "rgb.png")
    Image.fromarray(np.stack([GREY, GREY, GREY, GREY[::-1]], -1)).save(tmp_path / "rgba.png")
    Image.fromarray(np.stack([GREY, GREY[::-1]], -1)).save(tmp_path / "la.png")
    indices = Image.fromarray(5 - GREY)  # into a palette that runs the other way
    indices.putpalette([value for grey in range(5, -1, -1) for value in [grey] * 3])
    indices.save(tmp_path / "palette.png")
    for name in ("rgb", "rgba", "la", "palette"):
        assert np.array_equal(read_volume(tmp_path / f"{name}.png").grey[0, 0], GREY), name


def test_colours_are_three_channels(tmp_path):
    colours = np.stack([GREY, GREY, GREY + 1], -1)
    Image.fromarray(colours).save(tmp_path / "rgb.png")
    Image.fromarray(np.stack([GREY, GREY + 9, GREY, GREY], -1), mode="CMYK").save(tmp_path / "cmyk.tif")
    sitk.WriteImage(sitk.GetImageFromArray(colours[None], isVector=True), tmp_path / "rgb.mha")
    for name in ("rgb.png", "rgb.mha"):
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.array[0, :, 0], np.moveaxis(colours, -1, 0)), name
    assert read_volume(tmp_path / "cmyk.tif").channels == 3


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees, clockwise
    picture = np.tile(np.arange(8, dtype=np.uint8) * 30, (4, 1))
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_volume(tmp_path / "a.png").grey[0, 0], np.rot90(picture, -1))


def test_an_animation_is_refused(tmp_path):
    pages = [Image.fromarray(GREY + number) for number in range(3)]
    pages[0].save(tmp_path / "a.gif", save_all=True, append_images=pages[1:])
    with pytest.raises(UnreadableError, match="an animation of 3 pictures"):
        read_volume(tmp_path / "a.gif")


def test_hdf5_and_npz_hold_an_array_image(tmp_path, acdc_dir):
    with h5py.File(tmp_path / "case0001.npy.h5", "w") as file:
        file["image"], file["label"] = grey_volume(), grey_volume() > 0
    np.savez(tmp_path / "b.npz", image=grey_volume()[0])
    scan = read_volume(tmp_path / "case0001.npy.h5")
    assert scan.name == "case0001" and np.array_equal(scan.grey, grey_volume()[None]) and scan.spacing_mm is None
    assert np.array_equal(read_volume(tmp_path / "b.npz").grey, grey_volume()[None, :1])
    scan = read_volume(acdc_dir / "ACDC_training_volumes" / "patient001_frame01.h5")
    assert scan.shape == (10, 256, 216) and scan.name == "patient001_frame01"
    np.savez(tmp_path / "c.npz", volume=grey_volume(), mask=grey_volume())
    with pytest.raises(UnreadableError, match=r"c\.npz: no array 'image' in it; it holds volume, mask"):
        read_volume(tmp_path / "c.npz")


def test_a_dicom_series_is_read_from_folder_zip_and_file(tmp_path, write_series, volume):
    files = write_series(tmp_path / "study.1", volume)
    with zipfile.ZipFile(tmp_path / "sent.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    for path, name in ((tmp_path / "study.1", "study.1"), (tmp_path / "sent.zip", "sent")):
        scan = read_volume(path)
        assert scan.name == name and scan.source == path and scan.slices_along == 0 and len(scan.dicom) == len(volume)
        assert np.array_equal(scan.grey[0], volume) and scan.orientation == "SPL"
    scan = read_volume(files[0])
    assert scan.shape == (1, *volume.shape[1:]) and scan.name == files[0].name


def test_several_dicom_series_are_listed(tmp_path, write_series, volume):
    write_series(tmp_path / "a", volume, SeriesNumber=3, SeriesDescription="cine sa")
    write_series(tmp_path / "b", volume, SeriesNumber=7, SeriesDescription="late enhancement")
    with pytest.raises(UnreadableError, match=r"2 DICOM series, expected one(.|\n)*3 'cine sa'(.|\n)*7 'late enhanc"):
        read_volume(tmp_path)


def test_dicom_says_how_slices_lie_and_nifti_does_not(tmp_path, write_series, volume):
    nib.save(nib.Nifti1Image(grey_volume().T, AFFINE), tmp_path / "a.nii")
    write_series(tmp_path / "study", volume)
    assert read_volume(tmp_path / "a.nii").slices_along is None
    assert read_volume(tmp_path / "study").slices_along == 0


def test_what_is_no_scan_is_refused_with_what_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no scan")
    zipfile.ZipFile(tmp_path / "a.zip", "w").close()
    for name, reason in (
        ("absent.nii.gz", "no such file or folder"),
        ("notes.txt", r"not a kind of file that is taken; expected NIfTI .*DICOM"),
        ("empty", "no DICOM image in it; expected NIfTI"),
        ("a.zip", "no DICOM image in it; expected NIfTI"),
    ):
        with pytest.raises(UnreadableError, match=f"{name}: {reason}"):
            read_volume(tmp_path / name)


def test_truncated_and_mislabelled_files_are_refused_by_name(tmp_path, write_series, volume):
    nib.save(nib.Nifti1Image(grey_volume().T, AFFINE), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(grey_volume().T, AFFINE), tmp_path / "a.nii")
    for ending in (".mha", ".nrrd"):
        sitk.WriteImage(itk_image(), tmp_path / f"a{ending}")
        sitk.WriteImage(itk_image(), tmp_path / f"compressed{ending}", useCompression=True)
    for ending in (".mhd", ".nhdr"):
        sitk.WriteImage(itk_image(), tmp_path / f"apart{ending}")
    for ending in (".png", ".jpg", ".tif"):
        Image.fromarray(grey_volume()[0].astype(np.uint8)).save(tmp_path / f"a{ending}")
    np.savez(tmp_path / "a.npz", image=grey_volume())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = grey_volume()
    write_series(tmp_path / "series", volume)[0].rename(tmp_path / "a.dcm")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.dcm")
    for path in sorted(path for path in tmp_path.iterdir() if path.is_file()):
        data = path.read_bytes()
        read_volume(path) if path.suffix != ".raw" else None
        for number, content in enumerate((data[: int(len(data) * 0.6)], b"", b"x" * 99)):
            path.write_bytes(content)
            read = {"apart.raw": "apart.mhd", "apart.raw.gz": "apart.nhdr"}.get(path.name, path.name)
            with pytest.raises(UnreadableError) as error:
                scan = read_volume(tmp_path / read)
                pytest.fail(f"{path.name} cut short ({number}) was read as {scan.array.shape}")
            assert read in str(error.value) and "\n" not in str(error.value)
        path.write_bytes(data)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", ".png", ".tif", ".h5", ".npz", ".npy", ".zip", ".dcm"])
def test_what_is_often_taken_for_an_image_is_named_as_what_it_is(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    for content, reason in (
        (b"<!DOCTYPE html><html>404</html>", "a web page, as a failed download leaves it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a pointer of git-lfs"),
        (b'{"message": "Not Found"}', "JSON text, as a failed download leaves it"),
        (b"", "empty; copy it again"),
    ):
        path.write_bytes(content)
        with pytest.raises(UnreadableError, match=reason):
            read_volume(path)
    if ending != ".dcm":
        path.write_bytes(bytes(128) + b"DICM" + bytes(300))
        with pytest.raises(UnreadableError, match=r"DICOM; name it \.dcm" if ending != ".zip" else "damaged|cut short"):
            read_volume(path)


def test_names_lose_endings_and_the_channel(tmp_path):
    names = {
        "case_0000.nii.gz": "case",
        "patient001_frame01.nii": "patient001_frame01",
        "case0001.npy.h5": "case0001",
        "b.c.mha": "b.c",
        "IM0001": "IM0001",
        "_0000.nii": "_0000",
    }
    assert {name: case_name(tmp_path / name) for name in names} == names
    (tmp_path / "1.2.840").mkdir()
    assert case_name(tmp_path / "1.2.840" / ".." / "1.2.840") == "1.2.840"
