"""Volumes and DICOM objects whose every voxel and position is known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


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
