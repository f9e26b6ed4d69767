"""What the scans' tests share: the tolerances, the backends at hand, and memory that shows what was never written."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mamba_unet.ops import backend_status

# Largest error allowed, as a part of the largest value in the tensor (or of 1, if that is larger). The recurrence runs
# in float32 for half inputs too; what they lose is in the gradients, which come back in the input's own type.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 5e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# The same where the absolute values of what is added up are known, in roundings of their sum: the most of 6,850 drawn
# inputs was 2.8. Measured by what is left where terms cancel, one of them had twice the tolerance above.
ROUNDINGS = 16


def agree(result: Tensor, truth: Tensor, name: str, terms: Tensor | None = None) -> None:
    """Fail unless a result is close to the float64 truth, by the tolerance of the result's own type.

    Args:
        terms: what is added up to the truth, in absolute values, where `sums_of_absolute_terms` tells it. Rounding is a
            part of that: where terms cancel, it is a larger one of the sum that is left.
    """
    assert result.shape == truth.shape, name
    if truth.numel():
        error = (result.double() - truth.double()).abs().max().item()
        allowed = TOLERANCE[result.dtype] * max(1.0, truth.abs().max().item())
        if terms is not None:
            allowed = ROUNDINGS * torch.finfo(result.dtype).eps * terms.max().item()
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"  # NaN fails


@pytest.fixture
def assert_agree():
    return agree


class _Decay(torch.autograd.Function):
    """(1 + x) exp(-x) for exp(-x), whose argument is rounded too, by a part of x; its derivative counts as positive."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(decay := (1 + x) * torch.exp(-x))
        return decay

    @staticmethod
    def backward(context, gradient):
        return gradient * context.saved_tensors[0]


class _Product(torch.autograd.Function):
    """a @ b, whose derivatives are the absolute values of the factors."""

    @staticmethod
    def forward(context, a, b):
        context.save_for_backward(a, b)
        return a @ b

    @staticmethod
    def backward(context, gradient):
        a, b = context.saved_tensors
        return gradient @ b.abs().mT, a.abs().mT @ gradient


class _Gate(torch.autograd.Function):
    """|silu(z)| = |z sigmoid(z)|; of its derivative, the two terms in absolute values."""

    @staticmethod
    def forward(context, z):
        context.save_for_backward(z)
        return F.silu(z).abs()

    @staticmethod
    def backward(context, gradient):
        (z,) = context.saved_tensors
        sigmoid = z.sigmoid()
        return gradient * (sigmoid + z.abs() * sigmoid * (1 - sigmoid))


class _AbsoluteTerms(TorchFunctionMode):
    """Within it, the reference scan of inputs that are not negative adds up absolute values, its gradient too."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        positive = {torch.exp: _Decay, torch.matmul: _Product, F.silu: _Gate}.get(function)
        return function(*args, **(kwargs or {})) if positive is None else positive.apply(*args)


@pytest.fixture
def sums_of_absolute_terms() -> Callable[..., dict[str, Tensor]]:
    """(differentiate, inputs) -> what `differentiate(inputs, backend, terms=True)` gives of the reference in float64,
    each number as the sum of the absolute values of the terms that it is made of.

    Steps before softplus keep their sign, and A is taken as the size of a decay.
    """

    def sums(differentiate: Callable[..., dict[str, Tensor]], inputs: Mapping[str, Tensor], **more: Any):
        signed = ("delta", "delta_bias", "dt", "dt_bias", "dt_weight", "z")
        absolute = {name: x.double() if name in signed else x.double().abs() for name, x in inputs.items()}
        with _AbsoluteTerms():
            return differentiate(absolute, "reference", terms=True, **more)

    return sums


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
