"""The four-direction scan: its meaning, its backends against the reference, and its refusals."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mamba_unet.ops import cross_scan, selective_scan

INPUTS = ("u", "dt", "B", "C", "A", "D", "dt_bias")


def image(batch=2, height=5, width=7, channels=6, states=4, seed=0, dtype=torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    return {
        "u": randn(batch, height, width, channels),
        "dt": randn(batch, height, width, 4, channels),
        "B": randn(batch, height, width, 4, states),
        "C": randn(batch, height, width, 4, states),
        "A": -torch.rand(4, channels, states, generator=generator).mul(4).to(dtype),
        "D": randn(channels),
        "dt_bias": randn(4, channels),
    }


def with_low_rank_dt(inputs: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """The same with dt as `rank` numbers per pixel and direction and the weight that they are multiplied by."""
    generator = torch.Generator().manual_seed(rank)
    *pixels, channels = inputs["u"].shape
    dt = torch.randn(*pixels, 4, rank, generator=generator).to(inputs["dt"].dtype)
    weight = torch.randn(4, channels, rank, generator=generator).div(rank**0.5).to(inputs["dt"].dtype)
    return {**inputs, "dt": dt, "dt_weight": weight}


def scan_and_differentiate(inputs: dict[str, torch.Tensor], backend: str) -> dict[str, torch.Tensor]:
    """The output and all gradients of a loss in which every output value counts differently."""
    leaves = {name: x.detach().clone(memory_format=torch.preserve_format) for name, x in inputs.items()}
    for x in leaves.values():
        x.requires_grad_()
    y = cross_scan(**leaves, backend=backend)
    loss = (y.double() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
    gradients = torch.autograd.grad(loss, tuple(leaves.values()))
    return {"y": y, **dict(zip(leaves, gradients, strict=True))}


@pytest.mark.parametrize(
    ("direction", "order"),
    [(0, [0, 1, 2, 3, 4, 5]), (1, [0, 3, 1, 4, 2, 5]), (2, [5, 4, 3, 2, 1, 0]), (3, [5, 2, 4, 1, 3, 0])],
)
@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_a_direction_visits_the_pixels_in_its_order(backend, direction, order):
    """With no decay, B = C = 1 and delta = 1, the output is the running sum of u along the path (here 2 x 3 pixels)."""
    u = torch.tensor([1.0, 10, 100, 1000, 10000, 100000]).view(1, 2, 3, 1)
    C = torch.zeros(1, 2, 3, 4, 1)
    C[..., direction, :] = 1
    delta_is_one = torch.full((1, 2, 3, 4, 1), 0.541324854612918)  # softplus^-1(1)
    y = cross_scan(
        u, delta_is_one, torch.ones_like(C), C, torch.zeros(4, 1, 1), torch.zeros(1), torch.zeros(4, 1), backend=backend
    )
    torch.testing.assert_close(y.flatten()[order], u.flatten()[order].cumsum(0))


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_one_row_is_two_selective_scans_each_way(backend):
    """On an image of one row, directions 0 and 1 are the same path and 2 and 3 its reverse."""
    x = image(2, 1, 9)

    def along_the_row(k):
        u, dt, B, C = x["u"][:, 0], x["dt"][:, 0, :, k], x["B"][:, 0, :, k], x["C"][:, 0, :, k]
        bias = x["dt_bias"][k]
        out = selective_scan(u.mT, dt.mT, x["A"][k], B.mT, C.mT, None, None, bias, True, backend="reference")
        return out.mT[:, None]

    forwards = along_the_row(0) + along_the_row(1)
    x = {name: v.flip(2) if v.ndim > 3 else v for name, v in x.items()}
    backwards = (along_the_row(2) + along_the_row(3)).flip(2)
    x = {name: v.flip(2) if v.ndim > 3 else v for name, v in x.items()}
    torch.testing.assert_close(cross_scan(**x, backend=backend), forwards + backwards + x["u"] * x["D"])


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_gradients_pass_gradcheck(backend, rank):
    inputs = image(1, 2, 3, 2, 2, dtype=torch.float64)
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)

    def scan(*tensors):
        return cross_scan(*tensors, backend=backend)

    assert torch.autograd.gradcheck(scan, [x.requires_grad_() for x in inputs.values()])


def test_the_reference_can_be_differentiated_twice():
    inputs = [x.requires_grad_() for x in image(1, 2, 2, 1, 1, dtype=torch.float64).values()]
    assert torch.autograd.gradgradcheck(lambda *tensors: cross_scan(*tensors, backend="reference"), inputs)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(0, 2),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 5, 15, 16, 17, 33, 48]),
    states=st.sampled_from([1, 3, 16, 17, 64]),
    rank=st.sampled_from([None, 1, 3, 4, 6, 40]),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_the_reference(fast_backend, assert_agree, batch, height, width, channels, states, rank, seed):
    inputs = image(batch, height, width, channels, states, seed)
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference")
    result = scan_and_differentiate(inputs, fast_backend)
    for name in truth:
        assert_agree(result[name], truth[name], name)


@pytest.mark.parametrize("rank", [None, 3])
def test_agrees_with_the_reference_on_a_long_path_with_realistic_parameters(fast_backend, assert_agree, rank):
    """A = -1..-N and delta from 0.001 to 0.1, as Mamba initialises them: states that remember hundreds of pixels."""
    inputs = image(1, 28, 31, 16, 16)
    inputs["A"] = -torch.arange(1.0, 17).expand(4, 16, 16).contiguous()
    inputs["dt_bias"] = torch.log(torch.expm1(torch.logspace(-3, -1, 64).view(4, 16)))
    inputs["dt"] *= 0.1
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference")
    result = scan_and_differentiate(inputs, fast_backend)
    for name in truth:
        assert_agree(result[name], truth[name], name)


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_a_low_rank_dt_is_the_product_with_its_weight(backend, assert_agree):
    inputs = with_low_rank_dt(image(2, 5, 7, 20, 16), 3)
    y = cross_scan(**inputs, backend=backend)
    weight = inputs.pop("dt_weight").double()
    inputs["dt"] = torch.einsum("kdr, bhwkr -> bhwkd", weight, inputs["dt"].double())
    assert_agree(y, cross_scan(**{k: v.double() for k, v in inputs.items()}, backend="reference"), "y")


@pytest.mark.parametrize("rank", [None, 3])
def test_autocast_does_not_reach_the_scan(fast_backend, assert_agree, rank):
    inputs = image(2, 5, 7, 20, 16)
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)
    truth = cross_scan(**{k: v.double() for k, v in inputs.items()}, backend="reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = cross_scan(**inputs, backend=fast_backend)
    assert_agree(y, truth, "y")


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_float64_stays_float64(backend, assert_agree):
    inputs = with_low_rank_dt(image(dtype=torch.float64), 2)
    truth = scan_and_differentiate(inputs, "reference")
    result = scan_and_differentiate(inputs, backend)
    for name in truth:
        assert result[name].dtype == torch.float64
        assert_agree(result[name], truth[name], name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
@pytest.mark.parametrize("rank", [None, 3])
def test_half_inputs_give_a_float32_output(backend, assert_agree, dtype, rank):
    inputs = image(2, 6, 5, 9, 16, dtype=dtype)
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference")
    result = scan_and_differentiate(inputs, backend)
    assert result["y"].dtype == torch.float32
    for name in truth:
        assert_agree(result[name], truth[name], name)


def channels_first(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(-1, 1).contiguous().movedim(1, -1)


def directions_first(x: torch.Tensor) -> torch.Tensor:
    return x.movedim(-2, 0).contiguous().movedim(0, -2)


def cut_from_a_larger_tensor(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(x, (3, 2))[..., 3:-2]


def columns_first(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("scatter", [channels_first, directions_first, cut_from_a_larger_tensor, columns_first])
@pytest.mark.parametrize("low_rank", [False, True])
def test_inputs_need_not_be_contiguous(fast_backend, assert_agree, scatter, low_rank):
    inputs = with_low_rank_dt(image(2, 5, 7, 18, 16), 3)
    inputs = inputs if low_rank else image(2, 5, 7, 18, 16)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference")
    scattered = {k: scatter(v) if v.ndim > 3 else v.mT.contiguous().mT if v.ndim == 3 else v for k, v in inputs.items()}
    gradients = {k: v.requires_grad_() for k, v in scattered.items()}
    y = cross_scan(**gradients, backend=fast_backend)
    loss = (y.double() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum()
    result = {"y": y, **dict(zip(inputs, torch.autograd.grad(loss, tuple(gradients.values())), strict=True))}
    for name in truth:
        assert_agree(result[name], truth[name], name)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [*INPUTS, "dt_weight"])
def test_nan_and_inf_come_out(fast_backend, name, value):
    inputs = image(1, 4, 9, 3, 4)
    inputs = with_low_rank_dt(inputs, 3) if name == "dt_weight" else inputs
    for x in inputs.values():
        x.abs_()  # no infinity meets its opposite
    inputs["A"].neg_()
    inputs[name].view(-1)[1] = value
    truth = cross_scan(**inputs, backend="reference")
    y = cross_scan(**inputs, backend=fast_backend)
    assert torch.equal(y.isnan(), truth.isnan())
    assert torch.equal(y.isposinf(), truth.isposinf())
    assert torch.equal(y.isneginf(), truth.isneginf())


@pytest.mark.parametrize("rank", [None, 3])
def test_nan_reaches_the_gradients(fast_backend, rank):
    inputs = image(1, 4, 9, 3, 4)
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)
    inputs["u"][0, 2, 3, 1] = float("nan")
    truth = scan_and_differentiate(inputs, "reference")
    result = scan_and_differentiate(inputs, fast_backend)
    for name in truth:
        assert torch.equal(result[name].isnan(), truth[name].isnan()), name


@pytest.mark.parametrize("wanted", ["dt", "dt_weight"])
def test_only_the_gradients_asked_for(fast_backend, wanted):
    inputs = with_low_rank_dt(image(), 3)
    inputs[wanted].requires_grad_()
    cross_scan(**inputs, backend=fast_backend).sum().backward()
    assert inputs[wanted].grad.abs().sum() > 0
    assert inputs["u"].grad is None


@pytest.mark.parametrize("low_rank", [False, True])
def test_compiles_and_exports_as_one_operation(fast_backend, low_rank):
    def images(*sizes):
        return with_low_rank_dt(image(*sizes), 3) if low_rank else image(*sizes)

    inputs = images(2, 5, 7)

    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return cross_scan(*tensors, backend=fast_backend)

    tensors = tuple(inputs.values())
    expected = Scan()(*tensors)
    torch.testing.assert_close(torch.compile(Scan(), fullgraph=True, backend="eager")(*tensors), expected)
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    pixels = {0: batch, 1: height, 2: width}
    program = torch.export.export(Scan(), tensors, dynamic_shapes=((pixels,) * 4 + (None,) * (len(tensors) - 4),))
    torch.testing.assert_close(program.module()(*tensors), expected)
    assert len([node for node in program.graph.nodes if "mamba_unet" in str(node.target)]) == 1
    larger = tuple(images(1, 6, 9).values())
    torch.testing.assert_close(program.module()(*larger), Scan()(*larger))


@pytest.mark.parametrize("low_rank", [False, True])
def test_compiled_gradients(fast_backend, assert_agree, low_rank):
    inputs = [x.requires_grad_() for x in (with_low_rank_dt(image(), 3) if low_rank else image()).values()]
    scan = torch.compile(lambda *x: cross_scan(*x, backend=fast_backend), fullgraph=True, backend="aot_eager")
    compiled = torch.autograd.grad(scan(*inputs).square().sum(), inputs)
    eager = torch.autograd.grad(cross_scan(*inputs, backend=fast_backend).square().sum(), inputs)
    for result, truth in zip(compiled, eager, strict=True):
        assert_agree(result, truth, "gradient")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(7, 6)}, r"u must have shape \(B, \*S, D\) with one to 3 axes S"),
        ({"u": torch.zeros(2, 0, 7, 6)}, "at least 1"),
        ({"dt": torch.zeros(2, 7, 5, 4, 6)}, r"dt must have shape \(B, \*S, 4, D\) = \(2, 5, 7, 4, 6\)"),
        ({"B": torch.zeros(2, 5, 7, 4, 5)}, "B must have shape"),
        ({"C": torch.zeros(2, 5, 7, 2, 4)}, "C must have shape"),
        ({"A": torch.zeros(24, 4)}, r"A must have shape \(4, D, N\)"),
        ({"A": torch.zeros(4, 6, 65)}, "d_state N must be 1..64, not 65"),
        ({"D": torch.zeros(4, 6)}, "D must have shape"),
        ({"dt_bias": torch.zeros(24)}, "dt_bias must have shape"),
        ({"dt": torch.zeros(2, 5, 7, 4, 6, dtype=torch.int32)}, "dt must be real floating point"),
        ({"dt_weight": torch.zeros(4, 6, 3)}, r"dt must have shape \(B, \*S, 4, R\), as .* = \(2, 5, 7, 4, 3\)"),
        ({"dt_weight": torch.zeros(4, 5, 6)}, r"dt_weight must have shape \(4, D, R\) = \(4, 6, 6\)"),
        ({"dt_weight": torch.zeros(4, 6)}, r"dt_weight must have shape \(4, D, R\) with R at least 1"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        cross_scan(**{**image(), **change})
