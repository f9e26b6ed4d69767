"""Files broken in ways that a seed draws: each is read or refused in one sentence, soon and within bounds."""

import gzip
import io
import re
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from safetensors.torch import save_file

from mamba_unet.data import PreparedDataset, prepare, write_phantom
from mamba_unet.models.checkpoint import HEADER_KEY, CheckpointError, read_metadata
from mamba_unet.training.recipe import load_recipe, save_recipe
from mamba_unet.volumes import limits
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.read import read_volume

FEW, MANY = 150, 3000  # broken files of each kind
DEADLINE_S = 20
LIMIT = 256 << 20  # bytes that one file may ask for
PEAK = 3 * LIMIT + (300 << 20)  # of the process that reads: the volume, what readers need beside it, the libraries
NUMBERS = (0, 1, 2, 3, 4, 7, 255, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)
WORDS = (b"0", b"-1", b"99", b"1000000000", b"9" * 400, b"nan", b"1e30", b"%s%n", b"\0", b"= =", b"", b"LOCAL", b"../x")
BARE = re.compile(r"(\w+\.)*\w*(Error|Exception|error)\b")  # a library's words and nothing of ours

VALUES = np.random.default_rng(0).integers(0, 1000, (6, 7, 8), dtype=np.int16)


def write_nifti(path: Path) -> None:
    nib.save((nib.Nifti2Image if "2" in path.stem else nib.Nifti1Image)(VALUES, np.diag([1.5, 1.5, 8, 1])), path)


def write_itk(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VALUES), path, useCompression="packed" in path.stem)


def write_picture(path: Path) -> None:
    pages = [Image.fromarray(page.astype(np.uint8)) for page in VALUES]
    more = {"save_all": True, "append_images": pages[1:], "compression": "tiff_deflate"}
    pages[0].save(path, **(more if path.suffix == ".tif" else {}))


def write_dicom(path: Path) -> None:
    """A series of six slices in a folder; or in a zip, packed."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    files = {}
    for number, pixels in enumerate(VALUES):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.PatientID, dataset.InstanceNumber = "MR", "synthetic", number + 1
        dataset.PixelSpacing, dataset.ImageOrientationPatient = [1.5, 1.5], [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [0, 0, 5 * number]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.PixelData = pixels.tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        files[f"{number}.dcm"] = stream.getvalue()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(f"series/{name}", content)
    else:
        path.mkdir()
        for name, content in files.items():
            (path / name).write_bytes(content)


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=VALUES, compression="gzip", shuffle=True)


KINDS: dict[str, Callable[[Path], None]] = {
    "a.nii": write_nifti,
    "a.nii.gz": write_nifti,
    "2.nii": write_nifti,
    "a.mha": write_itk,
    "packed.mha": write_itk,
    "a.mhd": write_itk,
    "a.nrrd": write_itk,
    "packed.nrrd": write_itk,
    "a.png": write_picture,
    "a.jpg": write_picture,
    "a.bmp": write_picture,
    "a.gif": write_picture,
    "a.tif": write_picture,
    "a.h5": write_hdf5,
    "a.npz": lambda path: np.savez_compressed(path, image=VALUES),
    "a.npy": lambda path: np.save(path, VALUES),
    "series.zip": write_dicom,
}


def broken(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with one to four faults, most of them in its first bytes, where headers are."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, max(1, min(len(out), 600) if rng.random() < 0.8 else len(out))))
        match rng.integers(0, 6):
            case 0:
                out[at : at + 1] = bytes([int(rng.integers(0, 256))])
            case 1:
                form = rng.choice(["<I", ">I", "<H", ">H", "<Q"])
                size = struct.calcsize(form)
                out[at : at + size] = struct.pack(form, int(rng.choice(NUMBERS)) % (1 << 8 * size))
            case 2:
                out[at : at + 4] = struct.pack("<f", float(rng.choice([0, -1, np.nan, np.inf, 1e30])))
            case 3:  # a word of a text
                words = [*re.finditer(rb"[-\w.]+", bytes(out[:2000]))]
                if words:
                    word = words[int(rng.integers(len(words)))]
                    out[word.start() : word.end()] = WORDS[int(rng.integers(len(WORDS)))]
            case 4:
                out = out[: max(1, int(len(out) * rng.random()))]
            case 5:
                out[at:at] = rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8).tobytes()
    return bytes(out)


def peak_bytes(reader: Reader) -> int:
    status = Path(f"/proc/{reader._process.pid}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def break_and_read(name: str, count: int, folder: Path) -> None:
    whole = folder / name
    KINDS[name](whole)
    data = gzip.decompress(whole.read_bytes()) if name.endswith(".gz") else whole.read_bytes()
    rng = np.random.default_rng(sum(name.encode()))
    expected = read_volume(whole).array
    with Reader(deadline_s=DEADLINE_S) as reader:
        reader.read(partial(read_volume, whole), whole)
        for number in range(count):
            content = broken(data, rng)
            if name.endswith(".gz"):  # half of them within the packing, whose checksum is then right
                content = gzip.compress(content) if number % 2 else broken(whole_packed(data), rng)
            path = folder / f"{number}{name}"
            path.write_bytes(content)
            try:
                volume = reader.read(partial(read_volume, path), path)
            except UnreadableError as error:
                reason = error.reason
                assert len(reason) > 20 and not BARE.match(reason) and "\n" not in reason, (path, reason)
                assert "ended the process" not in reason and "not read within" not in reason, (path, reason)
            else:
                assert volume.array.nbytes <= LIMIT, path
                if name.endswith(".gz") and not number % 2:  # a checksum held: these are the values
                    assert np.array_equal(volume.array, expected), path
            path.unlink()
        assert peak_bytes(reader) < PEAK


def whole_packed(data: bytes) -> bytes:
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", mtime=0) as file:
        file.write(data)
    return stream.getvalue()


def refused_in_a_sentence(error: Exception) -> None:
    said = str(error)
    reason = said.split(": ", 1)[-1]
    assert len(reason) > 20 and not BARE.match(reason), said


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.fuzz)])
def test_a_series_with_a_broken_slice_is_read_or_refused_in_a_sentence(count, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "max_bytes", LIMIT)
    write_dicom(tmp_path / "series")
    path, rng = tmp_path / "series" / "3.dcm", np.random.default_rng(0)
    data = path.read_bytes()
    start = data.index(b"DICM") + 4
    with Reader(deadline_s=DEADLINE_S) as reader:
        for _ in range(count):
            path.write_bytes(data[:start] + broken(data[start:], rng))
            try:
                volume = reader.read(partial(read_volume, path.parent), path.parent)
            except UnreadableError as error:
                refused_in_a_sentence(error)
                assert "ended the process" not in error.reason and "not read within" not in error.reason
            else:
                assert volume.array.nbytes <= LIMIT
        assert peak_bytes(reader) < PEAK


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.fuzz)])
def test_a_broken_recipe_is_read_or_refused_in_a_sentence(count, tmp_path):
    rng = np.random.default_rng(0)
    save_recipe(tmp_path / "recipe.yaml", load_recipe("acdc_mamba_unet", {"data": "data", "out": "run"}))
    whole = (tmp_path / "recipe.yaml").read_bytes()
    for _ in range(count):
        (tmp_path / "recipe.yaml").write_bytes(broken(whole, rng))
        try:
            load_recipe(tmp_path / "recipe.yaml")
        except (ValueError, FileNotFoundError) as error:
            refused_in_a_sentence(error)


@pytest.mark.parametrize("count", [2 * FEW, pytest.param(2 * MANY, marks=pytest.mark.fuzz)])
def test_a_broken_prepared_folder_is_read_or_refused_in_a_sentence(count, tmp_path):
    write_phantom(tmp_path / "raw", cases=3, seed=0)
    folder = prepare(tmp_path / "raw", tmp_path / "data", progress=False).folder
    names = ["dataset.json", "splits.json", *(f"{kind}/phantom_001.npy" for kind in ("images", "labels"))]
    rng = np.random.default_rng(0)
    for number in range(count):
        file = folder / names[number % len(names)]
        whole = file.read_bytes()
        file.write_bytes(broken(whole, rng))
        try:
            prepared = PreparedDataset(folder)
            for identifier in prepared.identifiers:
                case = prepared.case(identifier)
                assert case.image.shape[1:] == case.label.shape == prepared.shape(identifier)
                assert prepared.preprocessing() and prepared.content_hash(identifier) and prepared.patients
        except ValueError as error:
            refused_in_a_sentence(error)
        file.write_bytes(whole)


@pytest.mark.parametrize("name", KINDS)
def test_a_broken_file_is_read_or_refused_in_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "max_bytes", LIMIT)
    break_and_read(name, FEW, tmp_path)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", KINDS)
def test_many_broken_files_are_read_or_refused_in_a_sentence(name, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "max_bytes", LIMIT)
    break_and_read(name, MANY, tmp_path)


@pytest.mark.parametrize("count", [10 * FEW, pytest.param(10 * MANY, marks=pytest.mark.fuzz)])
def test_the_header_of_a_broken_checkpoint_is_read_or_refused_in_a_sentence(count, tmp_path):
    path, rng = tmp_path / "best.safetensors", np.random.default_rng(0)
    metadata = '{"model": "unet", "config": {}, "class_names": ["background", "heart"], "preprocessing": {"format": 1}}'
    save_file({"weight": torch.zeros(3)}, path, {HEADER_KEY: metadata})
    data = path.read_bytes()
    for _ in range(count):
        path.write_bytes(broken(data, rng))
        try:
            read_metadata(path)
        except CheckpointError as error:
            assert len(str(error)) > 20 and not BARE.match(str(error).removeprefix(f"{path}: ")), error
