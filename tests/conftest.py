"""Shared fixtures: where real data and conformance numbers lie, and a skip that says so where they do not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small tensors, and several test processes side by side
os.environ["OMP_NUM_THREADS"] = "1"  # for the commands that tests start

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(config, items):
    """Tests marked `fuzz` run only where they are asked for."""
    if "fuzz" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("fuzz")])
        items[:] = [item for item in items if not item.get_closest_marker("fuzz")]


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"{path} is absent")
    return path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data: `MAMBA_UNET_DATA`, else `../shared/data` beside the repository."""
    return _folder(Path(os.environ.get("MAMBA_UNET_DATA", SHARED / "data")))


@pytest.fixture(scope="session")
def acdc_dir(data_dir: Path) -> Path:
    return _folder(data_dir / "acdc")


@pytest.fixture(scope="session")
def ct_dir(data_dir: Path) -> Path:
    return _folder(data_dir / "ct")


@pytest.fixture(scope="session")
def conformance_dir() -> Path:
    """Numbers from independent implementations that ours must reproduce."""
    return _folder(SHARED / "conformance")


class _Ends:
    """`read_volume`, which ends its process at one file once it has been sent to another process."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self):
        from mamba_unet.volumes.read import read_volume

        source = "lambda file, *more: __import__('os').abort() if file.name == name else read(file, *more)"
        return eval, (source, {"read": read_volume, "name": self.name})

    def __call__(self, *_):
        raise AssertionError("read in the process of the tests")


@pytest.fixture
def ends_its_reader(monkeypatch) -> Callable[[str, str], None]:
    """(module, name of a file): at this file the library crashes that the module reads files by."""
    return lambda module, name: monkeypatch.setattr(f"{module}.read_volume", _Ends(name))
