"""What one file holds: pixels, tiles, several frames."""

import numpy as np
import pytest
from pydicom.uid import CTImageStorage

from mamba_unet.volumes.formats import UnreadableError

SIEMENS = "SIEMENS MR HEADER"


def csa_header(tiles: str) -> bytes:
    """A Siemens CSA header of one field, NumberOfImagesInMosaic."""

    def integers(*values):
        return b"".join(value.to_bytes(4, "little") for value in values)

    field = b"NumberOfImagesInMosaic".ljust(64, b"\0") + integers(1) + b"US\0\0" + integers(0, 6, 77)
    text = tiles.encode()
    return b"SV10\4\3\2\1" + bytes(8) + field + integers(8, len(text), 77, 8) + text.ljust(8, b"\0") + bytes(60)


def by_text(dataset):
    dataset.private_block(0x0051, SIEMENS, create=True).add_new(0x16, "LO", "p2 M/ND/MOSAIC")


def by_number(dataset):
    dataset.private_block(0x0019, SIEMENS, create=True).add_new(0x0A, "US", 16)


def by_csa(dataset):
    dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa_header("16"))


def by_type(dataset):
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]


@pytest.mark.parametrize("tell", [by_type, by_text, by_number, by_csa])
def test_a_siemens_mosaic_is_refused_by_name(read_only, write_series, tmp_path, volume, tell):
    write_series(tmp_path, np.stack([volume[:1]] * 3), edit=lambda dataset, t, d: tell(dataset))
    with pytest.raises(UnreadableError, match=r"a Siemens MOSAIC: all slices lie as tiles in one image.*NIfTI"):
        read_only(tmp_path)


def test_a_siemens_image_without_tiles_is_read(read_only, write_series, tmp_path, volume):
    def edit(dataset, t, d):
        dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa_header(""))
        dataset.private_block(0x0019, SIEMENS, create=True).add_new(0x0A, "US", 1)

    write_series(tmp_path, volume, edit=edit)
    assert np.array_equal(read_only(tmp_path).grey[0], volume)


@pytest.fixture
def one_file(write_series, tmp_path, volume):
    """Writes a volume as one CT file with one position."""

    def write(**attributes):
        def edit(dataset, t, d):
            dataset.NumberOfFrames, dataset.PixelData = len(volume), volume.tobytes()

        write_series(tmp_path, volume[:1], edit=edit, SOPClassUID=CTImageStorage, Modality="CT", **attributes)
        return tmp_path

    return write


@pytest.mark.parametrize("step", [5, -5])
def test_a_ct_in_one_file_lies_along_its_normal_in_the_steps_it_tells(read_only, one_file, volume, caplog, step):
    image = read_only(one_file(SpacingBetweenSlices=step))
    assert np.array_equal(image.grey[0], volume[:: np.sign(step)]) and image.spacing_mm == (5, 1.5, 0.75)
    assert image.affine[2, 3] == min(100, 100 + 3 * step)
    assert "4 frames and one position" in caplog.text


@pytest.mark.parametrize("told", [{}, {"SpacingBetweenSlices": 5, "FrameTime": 40}, {"SpacingBetweenSlices": 0}])
def test_frames_whose_positions_are_not_told_are_refused(read_only, one_file, told):
    with pytest.raises(UnreadableError, match="4 frames without a position of each"):
        read_only(one_file(**told))


def test_bits_that_cannot_be_are_refused(read_only, write_series, tmp_path, volume):
    write_series(tmp_path, volume, BitsStored=12, HighBit=9)
    with pytest.raises(UnreadableError, match="BitsAllocated 16, BitsStored 12, HighBit 9: expected"):
        read_only(tmp_path)
