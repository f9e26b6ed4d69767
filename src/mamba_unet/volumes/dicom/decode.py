"""Pixels of a DICOM file as stored numbers, whatever they are compressed with."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.volumes.dicom.files import RefusedError, reading
from mamba_unet.volumes.dicom.frame import Frame
from mamba_unet.volumes.limits import require_memory

if TYPE_CHECKING:
    from pydicom import Dataset


# what pydicom has no decoder for: JPEG extended and lossless, and JPEG 2000 of more bits than Pillow takes
_BY_GDCM = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (51, 57, 70, 90, 91))


def same_pixels(a: Frame, b: Frame) -> bool:
    """Whether two images store the same numbers, however they are compressed."""
    if a.dataset.PixelData == b.dataset.PixelData:
        return a.index == b.index
    if max(_count(frame.dataset) for frame in (a, b)) > 1:
        return False
    return np.array_equal(*(decode(Path(frame.name), frame.dataset) for frame in (a, b)))


def check_pixel_data(file: Path, dataset: "Dataset") -> None:
    """That the file holds as many pixels as its attributes tell: they are asked for memory, and decoders for theirs.

    A compressed frame tells its size in a header of its own. Run lengths tell none, but two bytes are 128 at most.

    Raises:
        UnreadableError: names the file, what it holds and what was expected.
    """
    from pydicom.encaps import generate_frames, parse_fragments
    from pydicom.uid import RLELossless

    rows, columns, count = dataset.Rows, dataset.Columns, _count(dataset)
    expected = -(-rows * columns * count * dataset.BitsAllocated // 8)
    require_memory(file, expected)
    syntax, data = dataset.file_meta.TransferSyntaxUID, dataset.PixelData
    if not syntax.is_encapsulated:
        if len(data) < expected:
            raise RefusedError(f"{len(data)} bytes of pixels, expected {expected}: cut short; copy it again")
        return
    with _decoding(file, dataset):
        if parse_fragments(data)[0] < count:
            raise RefusedError(f"{parse_fragments(data)[0]} frames, expected {count}")
        for coded in generate_frames(data, number_of_frames=count):
            if syntax == RLELossless:
                if expected // count > 64 * len(coded):
                    raise RefusedError(f"{len(coded)} bytes of run lengths cannot hold {rows} x {columns} pixels")
                continue
            if b"\xff\xd9" not in coded[-16:]:  # the end of a JPEG, JPEG-LS or JPEG 2000 stream
                raise RefusedError("the compressed data are cut short")
            size = _coded_size(coded)
            if size != (rows, columns):
                what = "no image" if size is None else f"an image of {size[0]} x {size[1]} pixels"
                raise RefusedError(f"the compressed data hold {what}, expected {rows} x {columns}")


def decode(file: Path, dataset: "Dataset") -> np.ndarray:
    """Stored pixel values, (N, H, W); by GDCM what pydicom has no decoder for, as JPEG Lossless.

    Raises:
        UnreadableError: names the file, which is damaged or of a transfer syntax that nothing here decodes.
    """
    from pydicom.pixels import pixel_array

    with _decoding(file, dataset):
        try:
            pixels = pixel_array(dataset, correct_unused_bits=False)
        except (RuntimeError, NotImplementedError) as error:  # a decoder gave up, or there is none
            if dataset.file_meta.TransferSyntaxUID not in _BY_GDCM:
                raise RefusedError("damaged, or of a kind that nothing here decodes") from error
            pixels = _decode_with_gdcm(dataset)
        return pixels.reshape(_count(dataset), dataset.Rows, dataset.Columns)


def _count(dataset: "Dataset") -> int:
    return int(dataset.get("NumberOfFrames") or 1)


@contextmanager
def _decoding(file: Path, dataset: "Dataset") -> Iterator[None]:
    syntax = dataset.file_meta.TransferSyntaxUID
    remedy = "; export the series again, uncompressed" if syntax.is_encapsulated else ""
    with reading(file, f"its pixels ({syntax.name}) cannot be decoded{remedy}: "):
        yield


def _coded_size(coded: bytes) -> tuple[int, int] | None:
    """Rows and columns in the header of a JPEG, JPEG-LS or JPEG 2000 stream; None where there is none.

    Source: ITU-T T.81, B.2.2; T.87, C.2.2; T.800, A.5.1.
    """
    at = coded.find(b"\xff\x4f\xff\x51")
    if 0 <= at and len(coded) >= at + 24:
        right, bottom, left, top = (int.from_bytes(coded[at + i : at + i + 4], "big") for i in (8, 12, 16, 20))
        return bottom - top, right - left
    at = coded.find(b"\xff\xd8\xff") + 2
    while 2 <= at <= len(coded) - 9:
        if coded[at] != 0xFF:
            return None
        marker = coded[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(coded[at + 5 : at + 7], "big"), int.from_bytes(coded[at + 7 : at + 9], "big")
        filled = marker == 0xFF  # padding before a marker
        at += 1 if filled else 2 + int.from_bytes(coded[at + 2 : at + 4], "big")
    return None


def _decode_with_gdcm(dataset: "Dataset") -> np.ndarray:
    import SimpleITK as sitk
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate, generate_frames
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    # only the pixels, as a picture: GDCM would apply the scale that we apply ourselves
    picture = Dataset()
    for keyword in (
        *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
        *("BitsAllocated", "PixelRepresentation"),
    ):
        if keyword in dataset:
            picture[keyword] = dataset[keyword]
    # packed anew: GDCM makes room for what a damaged length claims
    picture.PixelData = encapsulate([*generate_frames(dataset.PixelData, number_of_frames=_count(dataset))])
    picture["PixelData"].is_undefined_length = True
    # with all their bits: what is above BitsStored is judged where values are made of them
    picture.BitsStored, picture.HighBit = dataset.BitsAllocated, dataset.BitsAllocated - 1
    picture.SOPClassUID, picture.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    picture.file_meta = FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "picture.dcm"
        picture.save_as(file, enforce_file_format=True)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(file))
        try:
            return sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            raise RefusedError("damaged, or of a kind that nothing here decodes") from error
