"""A network whose answer is known, volumes for it, and the server that both meet in."""

import socket
import threading
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest
import torch

from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.views.intensity import MINMAX
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices


class Threshold(torch.nn.Module):
    """Class 1 above a third of the range, class 2 above two thirds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-x, x - 2 / 3, 3 * x - 2], dim=1) * self.weight


@pytest.fixture(scope="session")
def predictor(tmp_path_factory):
    """The threshold network as a Predictor: background, myocardium (grey), left ventricle (white)."""
    from mamba_unet.inference import Predictor

    names = ["background", "myocardium", "left ventricle"]
    preprocessing = Preprocessing((MINMAX,), "SPL", Slices((24, 32))).to_json()
    metadata = CheckpointMetadata("threshold", {}, names, preprocessing, "phantom")
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "best.safetensors", Threshold(), metadata)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mamba_unet.models.loading.build_model", lambda *args, **kwargs: Threshold())
        return Predictor(folder, device="cpu", batch_size=2)


@pytest.fixture(scope="session")
def listening():
    """Runs an app behind a real socket, as `serve` does, within a `with`; its address."""
    import uvicorn

    from mamba_unet.serve.connection import Connection

    @contextmanager
    def run(app):
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=Connection, log_level="warning", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join()

    return run


def ring(radius: int = 4) -> np.ndarray:
    """(X, Y, Z) = (32, 24, 6): a white disc in a grey ring, off the middle, in all but the outermost slices."""
    x, y = np.mgrid[:32, :24]
    distance = np.hypot(x - 12, y - 9)
    slice_ = np.where(distance < radius, 100, np.where(distance < 7, 50, 0))
    return np.stack([0 * slice_, *[slice_] * 4, 0 * slice_], axis=-1).astype(np.int16)


@pytest.fixture(scope="session")
def volume_file(tmp_path_factory):
    """A volume of 1.5 x 1.5 x 8 mm."""
    path = tmp_path_factory.mktemp("volume") / "patient007_frame01.nii.gz"
    nib.save(nib.Nifti1Image(ring(), np.diag([-1.5, -1.5, 8, 1])), path)
    return path


@pytest.fixture(scope="session")
def cine_file(tmp_path_factory):
    """Four frames of a beating heart: the largest is frame 1, the smallest frame 3."""
    path = tmp_path_factory.mktemp("cine") / "patient007_4d.nii.gz"
    frames = np.stack([ring(radius) for radius in (5, 6, 4, 3)], axis=-1)
    nib.save(nib.Nifti1Image(frames, np.diag([-1.5, -1.5, 8, 1])), path)
    return path


@pytest.fixture(scope="session")
def dicom_study(tmp_path_factory):
    """A folder `study` with two series of the ring below it, 3 `short axis` and 4 `again`."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    study = tmp_path_factory.mktemp("dicom") / "study"
    shared = {
        "SOPClassUID": MRImageStorage,
        "Modality": "MR",
        "StudyInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "PatientName": "Test^Synthetic",
        "PatientID": "synthetic",
        "PixelSpacing": [1.5, 1.5],
        "SliceThickness": 8,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "Rows": 24,
        "Columns": 32,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
    }
    for number, description in ((3, "short axis"), (4, "again")):
        folder, series = study / f"series{number}", generate_uid()
        folder.mkdir(parents=True)
        for index, pixels in enumerate(ring().T):
            one = Dataset()
            one.update(shared | {"SeriesInstanceUID": series, "SeriesNumber": number, "SeriesDescription": description})
            one.SOPInstanceUID, one.InstanceNumber = generate_uid(), index + 1
            one.ImagePositionPatient = [0, 0, 8 * index]
            one.PixelData = pixels.tobytes()
            one.file_meta = FileMetaDataset()
            one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            one.save_as(folder / f"IM{index}", enforce_file_format=True)
    return study
