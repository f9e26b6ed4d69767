"""The uncertainty of a voxel, against values that a person can work out."""

import numpy as np
import pytest

from mamba_unet.measures.uncertainty import uncertainty


def test_it_is_zero_for_one_class_and_one_for_all_alike_and_entropy_between():
    voxels = [[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0.9, 0.1, 0, 0]]
    found = uncertainty(np.array(voxels, np.float32).T.reshape(1, 4, 1, 2, 2))
    assert found.shape == (1, 1, 2, 2) and found.dtype == np.float32
    assert found.ravel() == pytest.approx([0, 1, 0.5, 0.2344977], abs=1e-6)  # the last in bits: 0.4689955 of 2
