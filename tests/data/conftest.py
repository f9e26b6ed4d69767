"""Small data sets in every layout, made of the same made-up subjects."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.diag([-1.5, -1.4, 9.0, 1.0])


def make_subject(seed: int, shape: tuple[int, int, int] = (3, 16, 12), classes: int = 4) -> SimpleNamespace:
    """image int16 and label uint8, (D, H, W), with every class in the label."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, shape).astype(np.uint8)
    return SimpleNamespace(image=(rng.integers(0, 500, shape) + 100 * label).astype(np.int16), label=label)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """(D, H, W) -> a file of (X, Y, Z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine, dtype=array.dtype), path)
    return path


def save_h5(path: Path, image: np.ndarray, label: np.ndarray) -> Path:
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["image"], file["label"] = image, label
    return path


def minmax(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32)
    return (image - image.min()) / (image.max() - image.min())


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The functions above, for tests (which cannot import a conftest)."""
    return SimpleNamespace(subject=make_subject, nifti=save_nifti, h5=save_h5, minmax=minmax, affine=AFFINE)


@pytest.fixture
def nnunet(tmp_path: Path) -> Callable[..., Path]:
    """Write `count` subjects in nnU-Net's raw layout; returns the folder."""

    def write(count: int = 5, ending: str = ".nii.gz", **described: object) -> Path:
        from mamba_unet.files import write_json

        source = tmp_path / "nnunet"
        for seed in range(count):
            subject = make_subject(seed)
            save_nifti(source / "imagesTr" / f"s{seed}_0000{ending}", subject.image)
            save_nifti(source / "labelsTr" / f"s{seed}{ending}", subject.label)
        labels = {"background": 0, "one": 1, "two": 2, "three": 3}
        write_json(source / "dataset.json", {"channel_names": {"0": "MRI"}, "labels": labels, **described})
        return source

    return write


def write_picture(path: Path, array: np.ndarray) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture(scope="session")
def save_picture() -> Callable[[Path, np.ndarray], Path]:
    return write_picture


@pytest.fixture
def picture_set(tmp_path: Path) -> Callable[..., Path]:
    """Write images/NAME.png and masks/NAME.png; `values` are those of every mask, `odd` of single ones by name."""

    def write(
        names: Sequence[str], values: Sequence[int] = (0, 255), odd: Mapping[str, Sequence[int]] = MappingProxyType({})
    ) -> Path:
        rng = np.random.default_rng(0)
        for name in names:
            held = np.array(odd.get(name, values))
            mask = held[np.arange(8 * 9) % len(held)].reshape(8, 9).astype(np.uint8)
            write_picture(tmp_path / "set" / "images" / f"{name}.png", rng.integers(0, 256, (8, 9), dtype=np.uint8))
            write_picture(tmp_path / "set" / "masks" / f"{name}.png", mask)
        return tmp_path / "set"

    return write


@pytest.fixture
def shared_case(tmp_path: Path) -> Callable[[str], Path]:
    """Write a case of `../shared/cases/make_scans.py` and return its folder."""

    def write(name: str) -> Path:
        script = Path(__file__).resolve().parents[3] / "shared" / "cases" / "make_scans.py"
        if not script.is_file():
            pytest.skip(f"{script} is absent")
        spec = importlib.util.spec_from_file_location("make_scans", script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        (tmp_path / name).mkdir()
        getattr(module, name)(tmp_path / name)
        return tmp_path / name

    return write
