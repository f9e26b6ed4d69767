"""The Triton selective scan against the reference, on a GPU or interpreted (see the tests of cross_scan)."""

import os

import pytest
import torch

from mamba_unet.ops.selective_scan.inputs import Inputs
from mamba_unet.ops.selective_scan.reference import selective_scan as reference
from mamba_unet.ops.selective_scan.torch import selective_scan as portable

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no CUDA device; test_triton_scan.py runs these under Triton's interpreter", allow_module_level=True)
triton_scan = pytest.importorskip("mamba_unet.ops.triton_scan", reason="triton is not installed")

from mamba_unet.ops.selective_scan.triton import selective_scan  # noqa: E402 (after the skips)

DEVICE = "cpu" if INTERPRETED else "cuda"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the deterministic mode of these tests demands it of CUDA


@pytest.fixture(autouse=True)
def several_of_everything(request, monkeypatch):
    """Segments, tiles and blocks of channels so small that a few steps fill several."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(triton_scan, "FORWARD_TILE", 4)
        monkeypatch.setattr(triton_scan, "BACKWARD_TILE", 2)
        monkeypatch.setattr(triton_scan, "MIN_SEGMENT", 4)
        monkeypatch.setattr(triton_scan, "MAX_BLOCK_D", 4)


def sequence(batch, channels, length, states, groups=1, dtype=torch.float32) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    return {
        "u": randn(batch, channels, length),
        "delta": randn(batch, channels, length),
        "A": -torch.rand(channels, states, generator=generator).mul(4).to(DEVICE, dtype),
        "B": randn(batch, groups, states, length),
        "C": randn(batch, groups, states, length),
        "D": randn(channels),
        "z": randn(batch, channels, length),
        "delta_bias": randn(channels),
    }


def scan_and_differentiate(scan, inputs, softplus) -> dict[str, torch.Tensor]:
    """Both outputs and all gradients of a loss in which every output value counts differently."""
    leaves = {name: None if x is None else x.detach().requires_grad_() for name, x in inputs.items()}
    out, last_state = scan(Inputs(**leaves, delta_softplus=softplus))
    loss = sum(
        (x.double() * torch.linspace(-1, 2, x.numel(), device=x.device).view(x.shape)).sum() for x in (out, last_state)
    )
    given = {name: x for name, x in leaves.items() if x is not None}
    gradients = torch.autograd.grad(loss, tuple(given.values()))
    return {"out": out, "last_state": last_state, **dict(zip(given, gradients, strict=True))}


def check(assert_agree, inputs, softplus=True, truth=reference):
    exact = {name: None if x is None else x.double() for name, x in inputs.items()}
    truth = scan_and_differentiate(truth, exact, softplus)
    result = scan_and_differentiate(selective_scan, inputs, softplus)
    for name in truth:
        assert_agree(result[name], truth[name], name)


@pytest.mark.parametrize(
    ("batch", "channels", "length", "states", "groups"),
    [
        pytest.param(2, 6, 7, 3, 2, id="two groups, two images"),
        pytest.param(1, 2, 37, 2, 1, id="more segments than one tile of the carry"),
        pytest.param(1, 3, 1, 16, 1, id="one step"),
        pytest.param(0, 4, 5, 2, 1, id="no sequence"),
    ],
)
def test_agrees_with_the_reference(assert_agree, batch, channels, length, states, groups):
    check(assert_agree, sequence(batch, channels, length, states, groups))


def test_without_softplus_and_options(assert_agree):
    inputs = sequence(1, 3, 6, 2)
    inputs["delta"].abs_()
    inputs |= {"D": None, "z": None, "delta_bias": None}
    check(assert_agree, inputs, softplus=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_computes_in_float32_at_least(assert_agree, dtype):
    check(assert_agree, sequence(1, 3, 6, 2, dtype=dtype))


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 4])
def test_agrees_with_the_portable_scan_on_a_gpu(assert_agree, dtype, groups):
    check(assert_agree, sequence(2, 192, 3001, 16, groups, dtype), truth=portable)
