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
    assert np.array_equal(image.array[0], array)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"])
def test_run_lengths_and_jpeg_ls_come_back_exactly(read_only, write_series, tmp_path, volume, syntax):
    write_series(tmp_path, volume, syntax=syntax)
    assert np.array_equal(read_only(tmp_path).array[0], volume)


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
    assert np.abs(read_only(tmp_path).array[0] - array.astype(int)).max() <= 3


def test_a_transfer_syntax_that_nothing_decodes_is_named(read_only, write_series, tmp_path, volume):
    from pydicom.encaps import encapsulate

    def to_ht(dataset, t, d):
        dataset.PixelData = encapsulate([b"no codestream"])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"

    write_series(tmp_path, volume, edit=to_ht)
    with pytest.raises(UnreadableError, match=r"IM000\d: its pixels \(High-Throughput JPEG 2000.* cannot be decoded"):
        read_only(tmp_path)
