import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.volume import Volume

FIELDS = {"type": "short", "dimension": "3", "sizes": "5 4 3", "endian": "little", "encoding": "raw"}
VALUES = np.arange(60, dtype="<i2")
STORED = VALUES.tobytes()


def write(path, values=STORED, more="", **fields):
    lines = [f"{key.replace('_', ' ')}: {value}" for key, value in {**FIELDS, **fields}.items() if value is not None]
    path.write_bytes(("\n".join(["NRRD0004", *lines]) + f"\n{more}\n").encode() + values)
    return path


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"spacings": "2 3 4"},
        {"spacings": "2 3 4", "axis_mins": "10 20 30"},
        {"spacings": "2 3 4", "axis_mins": "10 20 30", "centers": "node node node"},
        {"space": "RAS", "space_directions": "(1,0,0) (0,2,0) (0,0,3)", "space_origin": "(1,2,3)"},
        {"space": "LAS", "space_directions": "(1,0,0) (0,2,0) (0,0,3)", "space_origin": "(1,2,3)"},
        {"space": "left-posterior-superior", "space_directions": "(0,2,0) (1,0,0) (0,0,-3)"},
        {"space": "scanner-xyz", "space_directions": "(1,0,0) (0,2,0) (0,0,3)", "space_origin": "(1,2,3)"},
        {"space_dimension": "3", "space_directions": "(1,0,0) (0,2,0) (0,0,3)"},
        {"endian": "big"},
        {"encoding": "gzip"},
        {"type": "unsigned short int"},
    ],
)
def test_a_header_means_what_it_means_to_simpleitk(tmp_path, fields):
    values = gzip.compress(VALUES.tobytes()) if fields.get("encoding") == "gzip" else VALUES.tobytes()
    path = write(tmp_path / "a.nrrd", values, **fields)
    ours, theirs = read_volume(path), Volume.from_sitk(sitk.ReadImage(path))
    assert np.array_equal(ours.array, theirs.array) and ours.affine == pytest.approx(theirs.affine)
    sized = "spacings" in fields or "space_directions" in fields
    assert [note.split(";")[0] for note in ours.notes] == ([] if sized else ["the header tells no size of its voxels"])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dimension": "99"}, "dimension is 99; expected 2 to 5"),
        ({"dimension": "-3"}, "dimension is -3"),
        ({"dimension": "%n"}, "dimension is '%n'; expected 1 whole number"),
        ({"sizes": "5 4"}, "sizes is '5 4'; expected 3 whole numbers"),
        ({"sizes": "5 4 -3"}, "expected positive numbers of voxels"),
        ({"sizes": "60000 60000 60000"}, "GiB of memory, the limit is"),
        ({"type": "block"}, "type is 'block'; expected numbers"),
        ({"type": None}, "type is ''"),
        ({"encoding": "bzip2"}, "encoding is 'bzip2'; expected raw or gzip"),
        ({"encoding": "txt"}, "expected raw or gzip"),
        ({"endian": None}, "endian is ''; expected little or big"),
        ({"line_skip": "-5"}, "line skip -5"),
        ({"byte_skip": "-7"}, "byte skip -7"),
        ({"byte_skip": "10"}, "110 bytes of values, expected 120"),
        ({"data_file": "/etc/passwd"}, "is elsewhere"),
        ({"data_file": "../secret.raw"}, "is elsewhere"),
        ({"datafile": "a%c.raw 1 2 1"}, "is elsewhere"),
        ({"data_file": "LIST"}, "is elsewhere"),
        ({"data_file": "absent.raw"}, "is not beside it"),
        ({"kinds": "list list domain"}, "axes of list, list, domain"),
        ({"kinds": "domain"}, "kinds are 'domain'; expected 3"),
        ({"space_directions": "(1,0,0) (0,1,0)"}, "expected a vector for every axis"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,x,0)"}, "expected 3 numbers"),
        ({"space_directions": "(1,0,0) (0,1,0) (0,0,0)"}, "do not span a space"),
        ({"spacings": "1 1e30 1"}, "voxels of 1 x 1e\\+30 x 1 mm"),
        ({"encoding": "gzip"}, "damaged"),
    ],
)
def test_a_damaged_header_is_one_sentence(tmp_path, fields, reason):
    with pytest.raises(UnreadableError, match=reason) as error:
        read_volume(write(tmp_path / "a.nrrd", **fields))
    assert "\n" not in str(error.value) and len(error.value.reason) < 400


@pytest.mark.parametrize(
    ("unit", "mm"), [("mm", 1), ("m", 1e3), ("cm", 10), ("\u00b5m", 1e-3), ("micron", 1e-3), ("", 1)]
)
def test_lengths_are_brought_to_millimetres(tmp_path, unit, mm):
    said = f'"{unit}" "{unit}" "mm"'
    in_space = {
        "space": "left-posterior-superior",
        "space_directions": "(1,0,0) (0,2,0) (0,0,4)",
        "space_origin": "(10,20,30)",
        "space_units": said,
    }
    for name, fields in (("a", in_space), ("b", {"spacings": "1 2 4", "axis_mins": "9.5 19 28", "units": said})):
        volume = read_volume(write(tmp_path / f"{name}.nrrd", **fields))
        assert volume.spacing_mm == pytest.approx((4, 2 * mm, mm))
        assert volume.affine[:3, 3] == pytest.approx([-10 * mm, -20 * mm, 30])


def test_a_detached_header_takes_one_file_beside_it(tmp_path):
    (tmp_path / "a.raw").write_bytes(b"xx" + VALUES.tobytes())
    for skip in ("2", "-1"):
        for name in ("a.raw", "./a.raw"):
            volume = read_volume(write(tmp_path / "a.nhdr", b"", data_file=name, byte_skip=skip))
            assert np.array_equal(volume.grey[0].ravel(), VALUES)


@pytest.mark.parametrize("kind", ["time", "list"])
def test_an_axis_without_a_direction_is_time(tmp_path, kind):
    """As Slicer writes a cine."""
    space, axes = "(1,0,0) (0,2,0) (0,0,4)", "domain domain domain"
    for sizes, directions, kinds in (
        ("2 5 2 3", f"none {space}", f"{kind} {axes}"),
        ("5 2 3 2", f"{space} none", f"{axes} {kind}"),
    ):
        fields = {"dimension": "4", "sizes": sizes, "space_directions": directions, "kinds": kinds}
        volume = read_volume(write(tmp_path / "a.nrrd", space="left-posterior-superior", **fields))
        frames = VALUES.reshape(3, 2, 5, 2).transpose(3, 0, 1, 2) if sizes[0] == "2" else VALUES.reshape(2, 3, 2, 5)
        assert np.array_equal(volume.grey, frames) and volume.spacing_mm == (4, 2, 1)
        assert volume.stored_shape == (5, 2, 3, 2)
    if kind == "list":  # three may be red, green and blue
        colours = {"sizes": "3 5 2 2", "space_directions": f"none {space}", "kinds": f"{kind} {axes}"}
        with pytest.raises(UnreadableError, match="3 values of int16 per voxel; expected one, or colours in bytes"):
            read_volume(write(tmp_path / "c.nrrd", space="left-posterior-superior", **fields | colours))
    with pytest.raises(UnreadableError, match="expected a vector for every axis in space"):
        read_volume(write(tmp_path / "b.nrrd", **fields | {"space_directions": "(1,0,0) none (0,1,0) (0,0,1)"}))


def test_a_segmentation_of_slicer_has_names_and_one_layer(tmp_path):
    more = "Segment0_LabelValue:=2\nSegment0_Name:=spleen\nSegment1_LabelValue:=1\nSegment1_Name:=liver\n"
    volume = read_volume(write(tmp_path / "a.seg.nrrd", more=more), "label")
    assert volume.class_names == ("background", "liver", "spleen") and volume.name == "a"
    fields = {"dimension": "4", "sizes": "2 5 2 3", "kinds": "list domain domain domain"}
    with pytest.raises(UnreadableError, match="a segmentation of 2 layers, whose segments may overlap"):
        read_volume(write(tmp_path / "b.seg.nrrd", more=more, **fields), "label")
