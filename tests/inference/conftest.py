"""Scans of which every voxel's place can be told."""

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture
def checkpoint(save_threshold):
    return save_threshold()


@pytest.fixture
def corner() -> np.ndarray:
    """(X, Y, Z) with one bright box in a corner that no flip or transposition maps to itself."""
    array = np.zeros((20, 16, 5), np.float32)
    array[1:6, 9:14, 1] = 7
    array[2, 3, 4] = 0.5  # below half of the maximum
    return array


@pytest.fixture
def save_scan(tmp_path, corner):
    """Writes the corner's scan as NIfTI, or another array (X, Y, Z)."""

    def save(name, array=corner, affine=None, folder="images"):
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1]) if affine is None else affine), path)
        return path

    return save
