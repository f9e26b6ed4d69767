import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mamba_unet.volumes import limits
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.read import read_volume

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)


def png(width: int, height: int, bits: int, colours: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(array: np.ndarray, sample_format: int, photometric: int = 1, planes: int = 1) -> bytes:
    """Sample formats are 1 without a sign, 2 with one, 3 floating point; photometrics 0 white is 0, 2 colours."""
    height, width = array.shape
    tags = {256: width, 257: height, 258: 8 * array.itemsize, 259: 1, 262: photometric, 273: 8, 277: planes}
    tags |= {278: height, 279: array.nbytes, 284: 1 if planes == 1 else 2, 339: sample_format}
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) if tag in (273, 279) else struct.pack("<HHIHxx", tag, 3, 1, value)
        for tag, value in tags.items()
    )
    head = b"II*\0" + struct.pack("<I", 8 + array.nbytes) + array.tobytes()
    return head + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("stored", "sample_format"), [("<u1", 1), ("<i1", 2), ("<u2", 1), ("<i2", 2), ("<u4", 1), ("<i4", 2), ("<f4", 3)]
)
def test_numbers_of_a_tiff_are_those_that_were_stored(tmp_path, stored, sample_format):
    kind = np.dtype(stored)
    low, high = (-1e6, 1e6) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    array = np.array([[0, 1, 77], [high // 2, high, low]], kind)
    (tmp_path / "a.tif").write_bytes(tiff(array, sample_format))
    found = read_volume(tmp_path / "a.tif").grey[0, 0]
    assert np.array_equal(found, array), found


def test_white_as_zero_is_turned_round_in_bytes_and_refused_in_more(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(GREY, 1, photometric=0))
    assert np.array_equal(read_volume(tmp_path / "a.tif").grey[0, 0], 255 - GREY)
    (tmp_path / "b.tif").write_bytes(tiff(GREY.astype("<u2"), 1, photometric=0))
    with pytest.raises(UnreadableError, match="white is 0 in it"):
        read_volume(tmp_path / "b.tif")


@pytest.mark.parametrize(("kind", "sample_format"), [("u1", 1), ("<u2", 1), ("<i2", 2), ("<f4", 3)])
def test_planes_are_refused_for_they_may_be_slices(tmp_path, kind, sample_format):
    """tifffile writes 3 or 4 slices so if it is not told what they are."""
    (tmp_path / "a.tif").write_bytes(tiff(GREY.astype(kind), sample_format, photometric=2, planes=3))
    with pytest.raises(UnreadableError, match="3 planes, which may be slices or colours"):
        read_volume(tmp_path / "a.tif")


@pytest.mark.parametrize(("colours", "channels"), [(4, 2), (2, 3), (6, 4)])  # grey with opacity, colours, both
@pytest.mark.parametrize("kind", ["image", "label"])
def test_grey_values_that_would_be_cut_to_8_bits_are_refused(tmp_path, colours, channels, kind):
    """Else a mask of classes 1, 2, 3 is empty, and 1000 grey values are four."""
    pixels = np.repeat(GREY[..., None], channels, axis=-1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    (tmp_path / "a.png").write_bytes(png(3, 2, 16, colours, rows))
    with pytest.raises(UnreadableError, match=r"grey values of 16 bits .* save it as grey alone"):
        read_volume(tmp_path / "a.png", kind)


def test_colours_of_16_bits_are_read_as_8(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 1 << 16, (2, 3, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    (tmp_path / "a.png").write_bytes(png(3, 2, 16, 2, rows))
    assert np.array_equal(np.moveaxis(read_volume(tmp_path / "a.png").array[0, :, 0], 0, -1), pixels >> 8)


def test_every_page_is_checked_before_it_is_unpacked(tmp_path, monkeypatch):
    large = Image.new("I;16", (3000, 3000))
    Image.fromarray(GREY.astype(np.uint16)).save(
        tmp_path / "a.tif", save_all=True, append_images=[large] * 3, compression="tiff_deflate"
    )
    monkeypatch.setattr(limits, "max_bytes", 40 << 20)
    loaded = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: loaded.append(self.size) or load(self))
    with pytest.raises(UnreadableError, match=r"GiB of memory, the limit is"):
        read_volume(tmp_path / "a.tif")
    assert loaded.count((3000, 3000)) == 0


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "gif", "tif"])
def test_a_picture_is_checked_by_its_header(tmp_path, monkeypatch, kind):
    Image.new("L", (3000, 3000)).save(tmp_path / f"a.{kind}")
    monkeypatch.setattr(limits, "max_bytes", 8 << 20)
    with pytest.raises(UnreadableError, match=r"GiB of memory, the limit is"):
        read_volume(tmp_path / f"a.{kind}")


def test_a_tile_larger_than_the_picture_is_counted(tmp_path, monkeypatch):
    values = zlib.compress(bytes(99))
    tags = {256: 3, 257: 2, 258: 8, 259: 8, 262: 1, 277: 1, 322: 60000, 323: 60000, 324: 150, 325: len(values)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    (tmp_path / "a.tif").write_bytes(head.ljust(150, b"\0") + values)
    monkeypatch.setattr(limits, "max_bytes", 1 << 30)
    with pytest.raises(UnreadableError, match=r"GiB of memory, the limit is"):
        read_volume(tmp_path / "a.tif")


def test_of_a_cameras_jpeg_with_a_preview_the_photograph_is_taken(tmp_path):
    Image.fromarray(np.tile(GREY, (20, 20))).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(GREY)]
    )
    volume = read_volume(tmp_path / "a.jpg")
    assert volume.shape == (1, 40, 60) and "the first of the 2 pictures" in volume.notes[0]


def test_no_program_of_another_format_is_started(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(UnreadableError, match="cannot identify"):
        read_volume(tmp_path / "a.png")


def test_the_one_limit_is_ours_and_not_pillows(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(20_000, 20_000, 8, 0, bytes(99)))
    monkeypatch.setattr(limits, "max_bytes", 1 << 30)
    with pytest.raises(UnreadableError, match=r"needs 1\.12 GiB of memory, the limit is 1 GiB"):
        read_volume(tmp_path / "a.png")
    assert Image.MAX_IMAGE_PIXELS
