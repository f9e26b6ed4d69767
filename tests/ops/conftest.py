"""What the scans' tests share: the tolerances, the backends at hand, and memory that shows what was never written."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mamba_unet.ops import backend_status

# Largest error allowed, as a part of the largest value in the tensor (or of 1, if that is larger). The recurrence runs
# in float32 for half inputs too; what they lose is in the gradients, which come back in the input's own type.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 5e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def agree(result: Tensor, truth: Tensor, name: str) -> None:
    """Fail unless a result is close to the float64 truth, by the tolerance of the result's own type."""
    assert result.shape == truth.shape, name
    if truth.numel():
        error = (result.double() - truth.double()).abs().max().item()
        allowed = TOLERANCE[result.dtype] * max(1.0, truth.abs().max().item())
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"  # NaN fails


@pytest.fixture
def assert_agree():
    return agree


@pytest.fixture(params=["torch", "cpu"])
def fast_backend(request) -> str:
    """Each backend that runs on CPU tensors and is not the reference."""
    status = {row.name: row for row in backend_status("cpu")}[request.param]
    if not status.available:
        pytest.skip(f"backend {status.name!r}: {status.reason}")
    return request.param


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan() -> Iterator[None]:
    """In deterministic mode torch fills new memory with NaN: what a kernel forgets to write fails its test."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
