import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from mamba_unet.volumes.dicom.find import find_series
from mamba_unet.volumes.dicom.read import read_series
from mamba_unet.volumes.volume import Volume


def _read_only(path: Path) -> Volume:
    (series,) = find_series(path)
    volume = read_series(series)
    for note in volume.notes:  # as `predict` does
        logging.getLogger("mamba_unet").warning("%s", note)
    return volume


@pytest.fixture
def read_only() -> Callable[[Path], Volume]:
    """Reads the only series in a path."""
    return _read_only
