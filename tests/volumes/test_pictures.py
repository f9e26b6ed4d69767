import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mamba_unet.volumes import limits
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.read import read_volume

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3)


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
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    packed = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + packed)
    monkeypatch.setattr(limits, "max_bytes", 1 << 30)
    with pytest.raises(UnreadableError, match=r"needs 1\.12 GiB of memory, the limit is 1 GiB"):
        read_volume(tmp_path / "a.png")
    assert Image.MAX_IMAGE_PIXELS
