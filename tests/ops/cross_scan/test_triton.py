"""The Triton scan of a map against the reference: on a GPU if there is one, else interpreted.

The interpreter needs TRITON_INTERPRET=1 in the environment from the start; tests/ops/test_triton_scan.py runs this file
so. It takes milliseconds for what a GPU does in nanoseconds, hence images of a few pixels, cut into tiny tiles.
"""

import os

import pytest
import torch

from mamba_unet.ops.cross_scan.inputs import Inputs
from mamba_unet.ops.cross_scan.reference import cross_scan as reference
from mamba_unet.ops.cross_scan.torch import cross_scan as portable

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no CUDA device; test_triton_scan.py runs these under Triton's interpreter", allow_module_level=True)
triton_scan = pytest.importorskip("mamba_unet.ops.triton_scan", reason="triton is not installed")

from mamba_unet.ops.cross_scan.triton import cross_scan  # noqa: E402 (after the skips)

DEVICE = "cpu" if INTERPRETED else "cuda"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the deterministic mode of these tests demands it of CUDA
INPUTS = Inputs._fields


@pytest.fixture(autouse=True)
def several_of_everything(request, monkeypatch):
    """Segments, tiles and blocks of channels so small that a few pixels fill several."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(triton_scan, "FORWARD_TILE", 4)
        monkeypatch.setattr(triton_scan, "BACKWARD_TILE", 2)
        monkeypatch.setattr(triton_scan, "MIN_SEGMENT", 4)
        monkeypatch.setattr(triton_scan, "MAX_BLOCK_D", 4)


def map_of(batch, shape, channels, states, dtype=torch.float32, seed=0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    walks = 2 * len(shape)

    def randn(*sizes):
        return torch.randn(*sizes, generator=generator).to(DEVICE, dtype)

    return [
        randn(batch, *shape, channels),
        randn(batch, *shape, walks, channels),
        randn(batch, *shape, walks, states),
        randn(batch, *shape, walks, states),
        -torch.rand(walks, channels, states, generator=generator).mul(4).to(DEVICE, dtype),
        randn(channels),
        randn(walks, channels) - 1,
    ]


def scan_and_differentiate(scan, inputs) -> dict[str, torch.Tensor]:
    """The output and all gradients of a loss in which every output value counts differently."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = scan(Inputs(*leaves))
    weights = torch.linspace(-1, 1, y.numel(), device=y.device, dtype=y.dtype).view(y.shape)
    return {"y": y, **dict(zip(INPUTS, torch.autograd.grad(y, leaves, weights), strict=False))}


def check(assert_agree, inputs, scan=cross_scan, truth=reference):
    truth = scan_and_differentiate(truth, [x.double() for x in inputs])
    result = scan_and_differentiate(scan, inputs)
    for name in truth:
        assert_agree(result[name], truth[name], name)


@pytest.mark.parametrize(
    ("batch", "shape", "channels", "states"),
    [
        pytest.param(1, (3, 2), 6, 5, id="tall, two blocks of channels"),
        pytest.param(2, (1, 5), 3, 1, id="a row, one state, two images"),
        pytest.param(1, (5, 1), 4, 16, id="a column, 16 states"),
        pytest.param(1, (1, 1), 2, 3, id="one pixel"),
        pytest.param(0, (3, 2), 4, 2, id="no image"),
        pytest.param(2, (5,), 6, 2, id="one axis"),
        pytest.param(1, (2, 3, 2), 6, 3, id="a volume"),
        pytest.param(2, (3, 1, 2), 3, 2, id="a volume of one row in each slice"),
        pytest.param(1, (1, 2, 3), 3, 2, id="a volume of one slice"),
    ],
)
def test_agrees_with_the_reference(assert_agree, batch, shape, channels, states):
    check(assert_agree, map_of(batch, shape, channels, states))


def low_rank(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The same with a dt of rank 2 and its weight."""
    return [inputs[0], inputs[1][..., :2], *inputs[2:], 0.5 * inputs[4][..., :2]]


@pytest.mark.parametrize("shape", [(5,), (3, 2), (2, 3, 2)])
def test_low_rank_dt(assert_agree, shape):
    check(assert_agree, low_rank(map_of(2, shape, 6, 5)))


def test_the_whole_of_a_low_rank_dt_is_not_kept_between_the_passes_and_changes_no_bit():
    inputs = [x.requires_grad_() for x in low_rank(map_of(1, (3, 2), 6, 5))]
    whole = inputs[0].numel() * inputs[1].shape[-2]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        y = cross_scan(Inputs(*inputs))
        expected = cross_scan(Inputs(*inputs).with_whole_dt())
    assert kept.count(whole) == 1  # of the second, which was given it
    assert torch.equal(y, expected)
    gradients = (torch.autograd.grad(one.square().sum(), inputs) for one in (y, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computes_in_float32_at_least(assert_agree, dtype):
    inputs = map_of(1, (1, 3), 3, 2, dtype)
    assert cross_scan(Inputs(*inputs)).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    check(assert_agree, inputs)


def test_one_segment_needs_no_carry(assert_agree, monkeypatch):
    monkeypatch.setattr(triton_scan, "MIN_SEGMENT", 8)
    check(assert_agree, map_of(1, (2, 3), 3, 2))


def test_inputs_need_not_be_contiguous(assert_agree):
    """Parts of one projection, channels-first, columns first and directions first: views and copies in the kernels."""
    inputs = map_of(1, (2, 3), 4, 2)
    parts = torch.cat(inputs[2:4], dim=-1)
    scattered = [
        inputs[0].movedim(-1, 1).contiguous().movedim(1, -1),
        inputs[1].movedim(3, 0).contiguous().movedim(0, 3),
        parts[..., :2],
        parts[..., 2:].transpose(1, 2).contiguous().transpose(1, 2),
        inputs[4].mT.contiguous().mT,
        *inputs[5:],
    ]
    check(assert_agree, scattered)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # numpy, on which the interpreter runs
@pytest.mark.parametrize("name", ["u", "dt", "A", "D"])
def test_infinities_come_out(name):
    inputs = map_of(1, (2, 3), 3, 3)
    for x in inputs:
        x.abs_()  # no infinity meets its opposite
    inputs[4].neg_()
    inputs[INPUTS.index(name)].view(-1)[1] = float("-inf" if name == "A" else "inf")
    truth, y = reference(Inputs(*inputs)), cross_scan(Inputs(*inputs))
    assert torch.equal(y.isinf(), truth.isinf())
    assert torch.equal(y.isnan(), truth.isnan())


def test_nan_reaches_output_and_gradients():
    inputs = map_of(1, (2, 3), 3, 3)
    inputs[0][0, 1, 1, 1] = float("nan")
    truth, result = scan_and_differentiate(reference, inputs), scan_and_differentiate(cross_scan, inputs)
    for name in truth:
        assert torch.equal(result[name].isnan(), truth[name].isnan()), name


def test_small_steps_keep_their_digits(assert_agree):
    """delta = 1e-6, where log(1 + exp(x)) computed as written has no digit left in float32."""
    inputs = map_of(1, (1, 3), 2, 2)
    inputs[1] = inputs[1] * 1e-2 - 13.8
    for x in inputs[5:]:
        x.zero_()  # D and dt_bias
    truth = reference(Inputs(*(x.double() for x in inputs)))
    assert_agree(cross_scan(Inputs(*inputs)) / truth.abs().max(), truth / truth.abs().max(), "y")


def test_compiles_and_exports_as_one_operation():
    shape = (2, 2, 2)
    inputs = tuple(low_rank(map_of(1, shape, 2, 2)))

    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return cross_scan(Inputs(*tensors))

    torch.compiler.reset()
    expected = cross_scan(Inputs(*inputs))
    compiled = torch.compile(Scan(), fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(*inputs), expected)
    leaves = [x.requires_grad_() for x in inputs]
    gradients = [torch.autograd.grad(f(*leaves).square().sum(), leaves) for f in (compiled, Scan())]
    torch.testing.assert_close(*gradients)

    positions = {i: torch.export.Dim(f"size_{i}") for i in range(1 + len(shape))}
    inputs = tuple(low_rank(map_of(2, (*shape[:-1], 3), 2, 2)))
    program = torch.export.export(Scan(), inputs, dynamic_shapes=((positions,) * 4 + (None,) * 4,))
    assert len([node for node in program.graph.nodes if "mamba_unet" in str(node.target)]) == 1
    torch.testing.assert_close(program.module()(*inputs), cross_scan(Inputs(*inputs)))


# --- on a GPU only ---


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("batch", "shape", "channels", "states"),
    [
        (1, (56, 56), 192, 16),
        (24, (28, 28), 384, 16),
        (3, (7, 7), 1536, 16),
        (2, (37, 21), 100, 5),
        (1, (9, 300), 48, 64),
        (1, (16, 56, 56), 192, 16),
        (2, (5, 37, 21), 100, 5),
        (2, (4, 7, 7), 1536, 16),
    ],
)
def test_agrees_with_the_portable_scan_on_a_gpu(assert_agree, dtype, batch, shape, channels, states):
    inputs = map_of(batch, shape, channels, states, dtype)
    # parameters, float32 as in a network: their gradients add up all pixels, up to 1e6 here, beyond float16's range
    inputs[4:] = [x.float() for x in inputs[4:]]
    check(assert_agree, inputs, truth=portable)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
def test_results_repeat_bit_for_bit():
    inputs = map_of(4, (56, 56), 192, 16, torch.bfloat16)
    first, second = scan_and_differentiate(cross_scan, inputs), scan_and_differentiate(cross_scan, inputs)
    for name in first:
        assert torch.equal(first[name], second[name]), name


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="needs a CUDA device")
def test_more_than_2_to_the_31_values():
    inputs = map_of(1, (512, 512), 256, 1, torch.bfloat16)
    inputs[:4] = [x.expand(9, *x.shape[1:]) for x in inputs[:4]]
    inputs[1] = inputs[1].contiguous()
    assert inputs[1].numel() > 2**31
    y = cross_scan(Inputs(*inputs))
    assert torch.equal(y[-1], y[0])
