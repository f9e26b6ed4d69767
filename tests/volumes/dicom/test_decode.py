import io
from pathlib import Path

import numpy as np
import pytest

from mamba_unet.volumes.formats import UnreadableError


def encode(writer_compressor, pixels):
    """A frame as SimpleITK's GDCM compresses it: its bytes, and the transfer syntax."""
    import pydicom
    import SimpleITK as sitk

    folder = Path(encode.folder)
    writer = sitk.ImageFileWriter()
    writer.SetUseCompression(True)
    writer.SetCompressor(writer_compressor)
    writer.SetFileName(str(folder / "encoded.dcm"))
    writer.Execute(sitk.GetImageFromArray(pixels[None]))
    return pydicom.dcmread(folder / "encoded.dcm")


@pytest.fixture
def compressed(write_series, tmp_path):
    """Writes a series whose frames another library has compressed."""

    def write(folder, array, compressor, relabel=None):
        encode.folder = tmp_path

        def edit(dataset, t, d):
            encoded = encode(compressor, array[d])
            dataset.PixelData = encoded.PixelData
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = relabel or encoded.file_meta.TransferSyntaxUID

        write_series(folder, array, edit=edit)
        return folder

    return write


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
@pytest.mark.parametrize(
    ("compressor", "syntax"),
    [("JPEG", "1.2.840.10008.1.2.4.70"), ("JPEG", "1.2.840.10008.1.2.4.57"), ("JPEG2000", "1.2.840.10008.1.2.4.90")],
)
def test_lossless_jpeg_of_hospitals_comes_back_exactly(
    read_only, compressed, tmp_path, volume, compressor, syntax, kind
):
    array = np.kron(volume, np.ones((1, 8, 8))).astype(np.int16)
    array = array if kind is np.int16 else (array + 500).astype(np.uint16)
    image = read_only(compressed(tmp_path / "series", array, compressor, syntax))
    assert image.dicom[0].file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(image.grey[0], array)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"])
def test_run_lengths_and_jpeg_ls_come_back_exactly(read_only, write_series, tmp_path, volume, syntax):
    write_series(tmp_path, volume, syntax=syntax)
    assert np.array_equal(read_only(tmp_path).grey[0], volume)


def test_baseline_jpeg_comes_back_nearly(read_only, write_series, tmp_path):
    from PIL import Image
    from pydicom.encaps import encapsulate

    array = np.linspace(0, 255, 3 * 32 * 48).reshape(3, 32, 48).astype(np.uint8)

    def to_jpeg(dataset, t, d):
        stream = io.BytesIO()
        Image.fromarray(array[d]).save(stream, "JPEG", quality=98)
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"

    write_series(tmp_path, array, edit=to_jpeg)
    assert np.abs(read_only(tmp_path).grey[0] - array.astype(int)).max() <= 3


def test_a_transfer_syntax_that_nothing_decodes_is_named(read_only, write_series, tmp_path, volume):
    from pydicom.encaps import encapsulate

    def to_ht(dataset, t, d):
        dataset.PixelData = encapsulate([b"no codestream"])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"

    write_series(tmp_path, volume, edit=to_ht)
    with pytest.raises(UnreadableError, match=r"IM000\d: its pixels \(High-Throughput JPEG 2000.* cannot be decoded"):
        read_only(tmp_path)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_a_compressed_image_of_another_size_or_cut_short_is_refused(
    read_only, compressed, tmp_path, volume, compressor
):
    array = np.kron(volume, np.ones((1, 8, 8))).astype(np.int16)
    folder = compressed(tmp_path / "series", array, compressor)
    files = sorted(folder.iterdir())
    data = files[1].read_bytes()
    files[1].write_bytes(data.replace(b"\x28\x00\x10\x00US\x02\x00\x30\x00", b"\x28\x00\x10\x00US\x02\x00\x31\x00"))
    with pytest.raises(UnreadableError, match="hold an image of 48 x 40 pixels, expected 49 x 40"):
        read_only(files[1])
    end = data.rindex(b"\xff\xd9")
    files[1].write_bytes(data[:end] + bytes(2) + data[end + 2 :])
    with pytest.raises(UnreadableError, match="the compressed data are cut short"):
        read_only(files[1])


def test_a_length_that_a_damaged_file_claims_is_not_handed_to_a_decoder(read_only, compressed, tmp_path, volume):
    array = np.kron(volume, np.ones((1, 8, 8))).astype(np.int16)
    for file in compressed(tmp_path / "series", array, "JPEG").iterdir():
        data = file.read_bytes()
        at = data.rindex(b"\xfe\xff\x00\xe0") + 7  # the highest byte of the frame's length: 3 GB, and no more bytes
        file.write_bytes(data[:at] + b"\xc7" + data[at + 1 :])
    assert np.array_equal(read_only(tmp_path / "series").grey[0], array)
