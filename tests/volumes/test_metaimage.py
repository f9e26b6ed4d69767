import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from mamba_unet.volumes import limits
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.volume import Volume

FIELDS = {"ObjectType": "Image", "NDims": "3", "DimSize": "5 4 3", "ElementType": "MET_UCHAR"}
VALUES = np.arange(60, dtype=np.uint8)
STORED = VALUES.tobytes()


def write(path, last="ElementDataFile = LOCAL", values=STORED, **fields):
    lines = [f"{key} = {value}" for key, value in {**FIELDS, **fields}.items()]
    path.write_bytes("\n".join([*lines, last, ""]).encode("latin-1") + values)
    return path


@pytest.mark.parametrize("name", ["{secret}", "../secret.raw", "below/../../secret.raw", "..\\secret.raw", ".."])
@pytest.mark.parametrize(
    "line",
    [
        "ElementDataFile = {}",
        "ElementDataFile={}",
        "ElementDataFile = = {}",
        "ElementDataFile == {}",
        "ElementDataFile : {}",
        "ElementDataFile: {}",
        "ElementDataFile : = {}",
        "ElementDataFile\0 = {}",
        "\rElementDataFile = {}",
        "ElementDataFile = LIST\n{}",
        "ElementDataFile = = LIST\n{}",
        "ElementDataFile = list 3\n{}",
        "elementdatafile = {}\nElementDataFile = LOCAL",
        "ElementDataFile = secret%craw 47 47 1",
        "ElementDataFile = %s%s%s%n {}",
        "ElementDataFile = %03d.raw 1 3 1\n{}",
        "ElementDataFile = file:{}",
    ],
)
def test_no_form_of_a_header_reaches_for_files_elsewhere(tmp_path, line, name):
    (tmp_path / "sent").mkdir()
    (tmp_path / "secret.raw").write_bytes(VALUES.tobytes())
    for end in (".mhd", ".mha"):
        path = write(tmp_path / "sent" / f"a{end}", line.format(name.format(secret=tmp_path / "secret.raw")))
        with pytest.raises(UnreadableError, match=r"is elsewhere|expected|is no text"):
            read_volume(path)


def test_values_lie_in_the_file_or_in_one_beside_it(tmp_path):
    for file, last, fields, values in (
        ("a.mha", "ElementDataFile = LOCAL", {}, VALUES.tobytes()),
        ("b.mhd", "ElementDataFile = b data.raw", {}, b""),
        ("c.mhd", "ElementDataFile = c.raw", {"HeaderSize": "7"}, b""),
        ("d.mhd", "ElementDataFile = c.raw", {"HeaderSize": "-1"}, b""),
        ("e.mha", "ElementDataFile = LOCAL", {"CompressedData": "True"}, zlib.compress(VALUES.tobytes())),
    ):
        (tmp_path / "b data.raw").write_bytes(VALUES.tobytes())
        (tmp_path / "c.raw").write_bytes(b"1234567" + VALUES.tobytes())
        volume = read_volume(write(tmp_path / file, last, values, **fields))
        assert np.array_equal(volume.grey[0], VALUES.reshape(3, 4, 5)), file
    with pytest.raises(UnreadableError, match=r"its data file absent\.raw is not beside it; copy both"):
        read_volume(write(tmp_path / "f.mhd", "ElementDataFile = absent.raw"))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"NDims": "99"}, "NDims is 99; expected 2, 3 or 4"),
        ({"NDims": "-3"}, "NDims is -3"),
        ({"NDims": "1000000000"}, "NDims is 1000000000"),
        ({"NDims": "9" * 5000}, "NDims is"),
        ({"NDims": "%s%n"}, "NDims is '%s%n'; expected 1 whole number"),
        ({"DimSize": "5 4"}, "DimSize is '5 4'; expected 3 whole numbers"),
        ({"DimSize": "5 4 0"}, "expected positive numbers of voxels"),
        ({"DimSize": "5 -4 -3"}, "expected positive numbers of voxels"),
        ({"DimSize": "4000000 4000000 4000000"}, "expected positive|needs .* GiB of memory, the limit is"),
        ({"DimSize": "40000 40000 40000"}, "needs .* GiB of memory, the limit is .*--max-memory"),
        ({"ElementType": "MET_STRING"}, "ElementType is 'MET_STRING'"),
        ({"ElementNumberOfChannels": "7"}, "7 values of uint8 per voxel|cut short"),
        ({"ElementNumberOfChannels": "-1"}, "expected positive numbers"),
        ({"ElementSpacing": "1 0 1"}, "do not span a space"),
        ({"ElementSpacing": "1 nan 1"}, "do not span a space"),
        ({"ElementSpacing": "1e30 1 1"}, r"voxels of 1 x 1 x 1e\+30 mm; expected"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, "do not span a space"),
        ({"Offset": "1 2 3", "Origin": "1 2 3"}, "its header tells Offset twice"),
        ({"Modality": "MET_MOD_MR\nElementSpacing: 1 1 2"}, "'ElementSpacing: 1 1 2' in its header; expected `Key ="),
        ({"Offset": "1 2"}, "Offset is '1 2'; expected 3 numbers"),
        ({"BinaryData": "False"}, "written as text"),
        ({"HeaderSize": "1000000"}, "HeaderSize is 1000000"),
        ({"CompressedData": "True"}, "damaged or cut short"),
        ({"DimSize": "5 4 4"}, "60 bytes of values, expected 80: cut short"),
        ({"Offset\0": "1"}, "no text"),
        ({"Comment": "\x1b[2J"}, "no text"),
        ({"Comment": "x" * (1 << 17)}, "its header has no end"),
    ],
)
def test_a_damaged_header_is_one_sentence(tmp_path, fields, reason):
    with pytest.raises(UnreadableError, match=reason) as error:
        read_volume(write(tmp_path / "a.mha", **fields))
    assert "\n" not in str(error.value) and len(error.value.reason) < 400


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("cm", 10), ("um", 1e-3), ("?", 1)])
def test_lengths_are_brought_to_millimetres(tmp_path, unit, mm):
    path = write(tmp_path / "a.mha", DistanceUnits=unit, ElementSpacing="1 2 4", Offset="10 20 30")
    volume = read_volume(path)
    assert volume.spacing_mm == pytest.approx((4 * mm, 2 * mm, mm))
    assert volume.affine[:3, 3] == pytest.approx([-10 * mm, -20 * mm, 30 * mm])
    with pytest.raises(UnreadableError, match="DistanceUnits is 'inch'; expected one of mm, cm"):
        read_volume(write(tmp_path / "b.mha", DistanceUnits="inch"))


def test_a_scale_of_values_that_itk_leaves_out_is_noted(tmp_path):
    fields = {"ElementToIntensityFunctionSlope": "0.5", "ElementToIntensityFunctionOffset": "-1000"}
    path = write(tmp_path / "a.mha", ElementSpacing="2 1 1", **fields)
    volume = read_volume(path)
    assert np.array_equal(volume.array, Volume.from_sitk(sitk.ReadImage(path)).array)
    assert "slope 0.5, offset -1000" in volume.notes[0]
    plain = dict(zip(fields, "10", strict=True))
    assert not read_volume(write(tmp_path / "b.mha", ElementSpacing="2 1 1", **plain)).notes


def test_a_size_that_the_header_does_not_tell_is_noted(tmp_path):
    (note,) = read_volume(write(tmp_path / "a.mha")).notes
    assert note == "the header tells no size of its voxels; 1 mm is taken, so volumes are a guess"
    flat = {"NDims": "2", "DimSize": "10 6", "ElementSpacing": "0.5 0.5"}
    (note,) = read_volume(write(tmp_path / "b.mha", **flat)).notes
    assert note == "a single slice without its thickness; 1 mm is taken, so volumes are a guess"


def test_packed_values_of_another_size_are_refused(tmp_path):
    packed = zlib.compress(VALUES.tobytes())
    for values, reason in (
        (zlib.compress(VALUES.tobytes()[:50]), "50 bytes of values, expected 60"),
        (packed[:-6], "cut short"),
        (packed[:-1] + bytes([packed[-1] ^ 1]), "incorrect data check"),
        (b"not packed", "damaged"),
        (zlib.compress(bytes(200 << 20)), "goes on long after the 60 bytes"),
    ):
        with pytest.raises(UnreadableError, match=reason):
            read_volume(write(tmp_path / "a.mha", values=values, CompressedData="True"))


def test_memory_is_asked_for_before_it_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "max_bytes", 59)
    with pytest.raises(UnreadableError, match=r"needs .* the limit is"):
        read_volume(write(tmp_path / "a.mha"))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_random_headers_mean_what_they_mean_to_simpleitk(tmp_path, seed, ending):
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(2, 5))
    shape = rng.integers(1 if axes == 3 else 2, 6, axes)
    colours = seed % 8 == 0 and axes < 4
    kind = "u1" if colours else rng.choice(["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8", "i8"])
    array = rng.integers(0, 100, (*shape, 3) if colours else shape).astype(kind)
    image = sitk.GetImageFromArray(array, isVector=colours)
    turn = np.linalg.qr(rng.normal(size=(min(axes, 3),) * 2))[0]
    direction = np.eye(axes)
    direction[: len(turn), : len(turn)] = turn
    image.SetDirection(direction.ravel())
    image.SetSpacing(rng.uniform(0.1, 9, axes))
    image.SetOrigin(rng.normal(0, 100, axes))
    sitk.WriteImage(image, tmp_path / f"a{ending}", useCompression=bool(seed % 2))
    ours = read_volume(tmp_path / f"a{ending}")
    theirs = Volume.from_sitk(sitk.ReadImage(tmp_path / f"a{ending}"))
    assert np.array_equal(ours.array, theirs.array) and ours.array.dtype == theirs.array.dtype
    assert ours.affine == pytest.approx(theirs.affine, abs=1e-5) and ours.stored_shape == theirs.stored_shape


@pytest.mark.parametrize("ending", [".mha", ".mhd"])
@pytest.mark.parametrize("source", ["a.nii.gz", "a.nrrd", "slice"])
def test_what_itk_writes_of_the_file_that_an_image_was_is_passed_over(tmp_path, write_series, volume, source, ending):
    if source == "slice":
        comment = {"ImageComments": "DimSize = 3", "PatientComments": "one\ntwo"}
        write_series(tmp_path, volume[:1], **comment)[0].rename(tmp_path / source)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(volume), tmp_path / source)
    image = sitk.ReadImage(tmp_path / source)
    sitk.WriteImage(image, tmp_path / f"b{ending}")
    header = (tmp_path / f"b{ending}").read_bytes()
    assert any(sign in header for sign in (b"\ndim[0] = 3\n", b"\nNRRD_kinds[0] = domain\n", b" = one\ntwo"))
    ours, theirs = read_volume(tmp_path / f"b{ending}"), Volume.from_sitk(image)
    assert np.array_equal(ours.array, theirs.array) and ours.affine == pytest.approx(theirs.affine)


@pytest.mark.parametrize(
    "fields",
    [
        {"ElementSize": "2 3 4"},
        {"Orientation": "0 1 0 -1 0 0 0 0 1", "Position": "1 2 3"},
        {"Rotation": "0 1 0 -1 0 0 0 0 1", "Origin": "1 2 3"},
        {"ElementSpacing": "-2 3 4"},
        {"ElementByteOrderMSB": "True", "ElementType": "MET_USHORT", "DimSize": "5 2 3"},
        {"ElementType": "MET_LONG", "DimSize": "5 1 3"},
        {"CenterOfRotation": "9 9 9", "AnatomicalOrientation": "LPS", "my_key": "x", "Comment": "a = b"},
    ],
)
def test_older_words_of_headers_mean_what_they_mean_to_simpleitk(tmp_path, fields):
    path = write(tmp_path / "a.mha", **fields)
    ours, theirs = read_volume(path), Volume.from_sitk(sitk.ReadImage(path))
    assert np.array_equal(ours.array, theirs.array) and ours.affine == pytest.approx(theirs.affine)
