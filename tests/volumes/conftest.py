"""Synthetic DICOM series whose every voxel and position is known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def write_series(
    folder: Path,
    array: np.ndarray,
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0),
    spacing_mm: tuple[float, float, float] = (5.0, 1.5, 0.75),
    origin: tuple[float, float, float] = (-40.0, 30.0, 100.0),
    shear_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    syntax: str | None = None,
    edit: Callable | None = None,
    **attributes,
) -> list[Path]:
    """Write (D, H, W) or a cine (T, D, H, W) as single-frame MR files, shuffled in name and InstanceNumber.

    Args:
        orientation: ImageOrientationPatient; slices step along its normal.
        spacing_mm: between slices, rows and columns.
        origin: of the first voxel, left posterior superior.
        shear_mm: added to the position from slice to slice, a gantry's tilt.
        syntax: transfer syntax to compress to.
        edit: called with (data set, frame, slice) before each is written; True leaves the file out.
        attributes: for all data sets, SeriesNumber=3, ...
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    frames = array if array.ndim == 4 else array[None]
    row, column = np.reshape(orientation, (2, 3)).astype(float)
    step = np.cross(row, column) * spacing_mm[0] + shear_mm
    names = np.random.default_rng(0).permutation(frames.shape[0] * frames.shape[1])
    shared = {
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "SOPClassUID": MRImageStorage,
        "Modality": "MR",
        "SeriesNumber": 1,
        "SeriesDescription": "synthetic",
        "PatientName": "Test^Synthetic",
        "PatientID": "synthetic",
        "PixelSpacing": list(spacing_mm[1:]),
        "SliceThickness": spacing_mm[0] / 2,  # not the step: slices may have gaps or overlap
        "ImageOrientationPatient": [float(f"{value:.12g}") for value in (*row, *column)],
        "Rows": frames.shape[2],
        "Columns": frames.shape[3],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * array.itemsize,
        "BitsStored": 8 * array.itemsize,
        "HighBit": 8 * array.itemsize - 1,
        "PixelRepresentation": int(array.dtype.kind == "i"),
        **attributes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for t, frame in enumerate(frames):
        for d, pixels in enumerate(frame):
            dataset, number = Dataset(), int(names[t * len(frame) + d])
            dataset.update(shared)
            dataset.SOPInstanceUID = generate_uid()
            dataset.InstanceNumber = number + 1
            dataset.ImagePositionPatient = [float(f"{value:.12g}") for value in origin + d * step]
            if len(frames) > 1:
                dataset.TriggerTime = 40 * t + 0.5 * d
            dataset.PixelData = pixels.tobytes()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            if edit is not None and edit(dataset, t, d):
                continue
            if syntax is not None:
                dataset.compress(syntax, generate_instance_uid=False)
            written.append(folder / f"IM{number:04d}")  # no extension, as scanners export
            dataset.save_as(written[-1], enforce_file_format=True)
    return written


@pytest.fixture(name="write_series")
def _write_series() -> Callable[..., list[Path]]:
    return write_series


@pytest.fixture
def volume() -> np.ndarray:
    """(4, 6, 5) without any symmetry: no flip, turn or shuffle of slices maps it to itself."""
    return np.arange(4 * 6 * 5, dtype=np.int16).reshape(4, 6, 5) ** 2 - 500


@pytest.fixture
def write_enhanced() -> Callable[..., None]:
    """Writes a cine (T, D, H, W) as one Enhanced MR object, its frames shuffled."""

    def write(file: Path, array: np.ndarray, orientation, spacing_mm=(5.0, 1.5, 0.75), origin=(-40.0, 30.0, 100.0)):
        from pydicom import Dataset
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

        def item(**attributes) -> list[Dataset]:
            dataset = Dataset()
            dataset.update(attributes)
            return [dataset]

        dataset = item(
            SOPClassUID=EnhancedMRImageStorage,
            SOPInstanceUID=generate_uid(),
            StudyInstanceUID=generate_uid(),
            SeriesInstanceUID=generate_uid(),
            FrameOfReferenceUID=generate_uid(),
            Modality="MR",
            SeriesNumber=7,
            PatientName="Test^Synthetic",
            PatientID="synthetic",
            NumberOfFrames=array.shape[0] * array.shape[1],
            Rows=array.shape[2],
            Columns=array.shape[3],
            SamplesPerPixel=1,
            PhotometricInterpretation="MONOCHROME2",
            BitsAllocated=16,
            BitsStored=16,
            HighBit=15,
            PixelRepresentation=1,
            SharedFunctionalGroupsSequence=item(
                PixelMeasuresSequence=item(PixelSpacing=list(spacing_mm[1:]), SliceThickness=spacing_mm[0]),
                PlaneOrientationSequence=item(ImageOrientationPatient=list(orientation)),
                PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=-10, RescaleType="US"),
            ),
        )[0]
        step = np.cross(*np.reshape(orientation, (2, 3))) * spacing_mm[0]
        places = np.random.default_rng(1).permutation([(t, d) for t, d in np.ndindex(array.shape[:2])])
        groups = [
            item(
                PlanePositionSequence=item(ImagePositionPatient=[float(v) for v in origin + d * step]),
                FrameContentSequence=item(TemporalPositionIndex=int(t) + 1),
            )[0]
            for t, d in places
        ]
        dataset.PerFrameFunctionalGroupsSequence = groups
        dataset.PixelData = b"".join(array[t, d].tobytes() for t, d in places)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(file, enforce_file_format=True)

    return write
