"""The scan of a map of one, two or three axes: its meaning, its backends against the reference, and its refusals."""

from collections.abc import Sequence
from math import prod

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mamba_unet.ops import cross_scan, selective_scan

INPUTS = ("u", "dt", "B", "C", "A", "D", "dt_bias")
SHAPES = {1: (11,), 2: (5, 7), 3: (3, 4, 5)}  # of a map with so many axes


@pytest.fixture(params=SHAPES)
def shape(request) -> tuple[int, ...]:
    return SHAPES[request.param]


def map_of(
    shape: Sequence[int] = (5, 7), batch=2, channels=6, states=4, seed=0, dtype=torch.float32
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    walks = 2 * len(shape)

    def randn(*sizes):
        return torch.randn(*sizes, generator=generator).to(dtype)

    return {
        "u": randn(batch, *shape, channels),
        "dt": randn(batch, *shape, walks, channels),
        "B": randn(batch, *shape, walks, states),
        "C": randn(batch, *shape, walks, states),
        "A": -torch.rand(walks, channels, states, generator=generator).mul(4).to(dtype),
        "D": randn(channels),
        "dt_bias": randn(walks, channels),
    }


def with_low_rank_dt(inputs: dict[str, torch.Tensor], rank: int) -> dict[str, torch.Tensor]:
    """The same with dt as `rank` numbers per position and walk and the weight that they are multiplied by."""
    generator = torch.Generator().manual_seed(rank)
    *positions, walks, channels = inputs["dt"].shape
    dt = torch.randn(*positions, walks, rank, generator=generator).to(inputs["dt"].dtype)
    weight = torch.randn(walks, channels, rank, generator=generator).div(rank**0.5).to(inputs["dt"].dtype)
    return {**inputs, "dt": dt, "dt_weight": weight}


def scan_and_differentiate(
    inputs: dict[str, torch.Tensor], backend: str, terms: bool = False
) -> dict[str, torch.Tensor]:
    """The output and all gradients of a loss in which every output value counts differently; for the sums of terms,
    by the absolute values of its weights."""
    leaves = {name: x.detach().clone(memory_format=torch.preserve_format) for name, x in inputs.items()}
    for x in leaves.values():
        x.requires_grad_()
    y = cross_scan(**leaves, backend=backend)
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
    loss = (y.double() * (weights.abs() if terms else weights)).sum()
    gradients = torch.autograd.grad(loss, tuple(leaves.values()))
    return {"y": y, **dict(zip(leaves, gradients, strict=True))}


WALKS = {  # the positions, numbered row by row, in the order in which each walk comes to them
    (4,): ["0123", "3210"],
    (2, 3): ["012345", "031425", "543210", "524130"],
    # slice 0 holds 0 1 / 2 3, slice 1 holds 4 5 / 6 7
    (2, 2, 2): ["01234567", "02134657", "04152637", "76543210", "75643120", "73625140"],
}


@pytest.mark.parametrize(("shape", "walk"), [(shape, k) for shape, orders in WALKS.items() for k in range(len(orders))])
@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_a_walk_visits_the_positions_in_its_order(backend, shape, walk):
    """With no decay, B = C = 1 and delta = 1, the output is the running sum of u along the walk."""
    walks, order = len(WALKS[shape]), [int(position) for position in WALKS[shape][walk]]
    u = 10.0 ** torch.arange(prod(shape)).view(1, *shape, 1)
    C = torch.zeros(1, *shape, walks, 1)
    C[..., walk, :] = 1
    delta_is_one = torch.full((1, *shape, walks, 1), 0.541324854612918)  # softplus^-1(1)
    A, D, bias = torch.zeros(walks, 1, 1), torch.zeros(1), torch.zeros(walks, 1)
    y = cross_scan(u, delta_is_one, torch.ones_like(C), C, A, D, bias, backend=backend)
    torch.testing.assert_close(y.flatten()[order], u.flatten()[order].cumsum(0))


def test_a_scan_that_is_the_identity_brings_every_position_back_to_its_place(fast_backend, shape):
    """A state that forgets at once (exp(delta A) = 0) and delta = B = C = 1: each walk puts out what it is given."""
    inputs = map_of(shape, channels=20)
    inputs["dt"] = torch.full_like(inputs["dt"], 0.541324854612918)
    inputs |= {name: torch.ones_like(inputs[name]) for name in ("B", "C")}
    inputs |= {
        "A": torch.full_like(inputs["A"], -1e4),
        "D": torch.zeros(20),
        "dt_bias": torch.zeros_like(inputs["dt_bias"]),
    }
    y = cross_scan(**inputs, backend=fast_backend)
    walks_times_states = inputs["B"].shape[-2:].numel()
    torch.testing.assert_close(y, walks_times_states * inputs["u"])


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
@pytest.mark.parametrize("sides", [(9,), (1, 9), (1, 1, 9)])
def test_a_row_is_selective_scans_from_either_end(backend, sides):
    """On a map of one row, of any number of axes, the walks are the same path, half of them backwards."""
    x = map_of(sides)

    def along_the_row(k):
        u, dt, B, C = (v.flatten(1, len(sides)) for v in (x["u"], *(x[n][..., k, :] for n in ("dt", "B", "C"))))
        bias = x["dt_bias"][k]
        out = selective_scan(u.mT, dt.mT, x["A"][k], B.mT, C.mT, None, None, bias, True, backend="reference")
        return out.mT.unflatten(1, sides)

    y = cross_scan(**x, backend=backend)
    forwards = sum(along_the_row(k) for k in range(len(sides)))
    x = {name: v.flip(len(sides)) if name in ("u", "dt", "B", "C") else v for name, v in x.items()}
    backwards = sum(along_the_row(k) for k in range(len(sides), 2 * len(sides))).flip(len(sides))
    x = {name: v.flip(len(sides)) if name in ("u", "dt", "B", "C") else v for name, v in x.items()}
    torch.testing.assert_close(y, forwards + backwards + x["u"] * x["D"])


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("sides", [(2, 3), (2, 1, 3)])
def test_gradients_pass_gradcheck(backend, rank, sides):
    inputs = map_of(sides, 1, 2, 2, dtype=torch.float64)
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)

    def scan(*tensors):
        return cross_scan(*tensors, backend=backend)

    assert torch.autograd.gradcheck(scan, [x.requires_grad_() for x in inputs.values()])


def test_the_reference_can_be_differentiated_twice():
    inputs = [x.requires_grad_() for x in map_of((2, 2), 1, 1, 1, dtype=torch.float64).values()]
    assert torch.autograd.gradgradcheck(lambda *tensors: cross_scan(*tensors, backend="reference"), inputs)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(0, 2),
    sides=st.lists(st.integers(1, 9), min_size=2, max_size=2) | st.lists(st.integers(1, 5), min_size=1, max_size=3),
    channels=st.sampled_from([1, 5, 15, 16, 17, 33, 48]),
    states=st.sampled_from([1, 3, 16, 17, 64]),
    rank=st.sampled_from([None, 1, 3, 4, 6, 40]),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_the_reference(
    fast_backend, assert_agree, sums_of_absolute_terms, batch, sides, channels, states, rank, seed
):
    inputs = map_of(sides, batch, channels, states, seed)
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference")
    result = scan_and_differentiate(inputs, fast_backend)
    terms = sums_of_absolute_terms(scan_and_differentiate, inputs)
    for name in truth:
        assert_agree(result[name], truth[name], name, terms[name])


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("sides", [(28, 31), (7, 11, 12)])
def test_agrees_with_the_reference_on_a_long_path_with_realistic_parameters(fast_backend, assert_agree, sides, rank):
    """A = -1..-N and delta from 0.001 to 0.1, as Mamba initialises them: states that remember hundreds of pixels."""
    inputs = map_of(sides, 1, 16, 16)
    inputs["A"] = -torch.arange(1.0, 17).expand_as(inputs["A"]).contiguous()
    inputs["dt_bias"] = torch.log(torch.expm1(torch.logspace(-3, -1, inputs["dt_bias"].numel()).view(-1, 16)))
    inputs["dt"] *= 0.1
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference")
    result = scan_and_differentiate(inputs, fast_backend)
    for name in truth:
        assert_agree(result[name], truth[name], name)


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_a_low_rank_dt_is_the_product_with_its_weight(backend, assert_agree, shape):
    inputs = with_low_rank_dt(map_of(shape, 2, 20, 16), 3)
    y = cross_scan(**inputs, backend=backend)
    weight = inputs.pop("dt_weight").double()
    inputs["dt"] = torch.einsum("kdr, b...kr -> b...kd", weight, inputs["dt"].double())
    assert_agree(y, cross_scan(**{k: v.double() for k, v in inputs.items()}, backend="reference"), "y")


@pytest.mark.parametrize("rank", [None, 3])
def test_autocast_does_not_reach_the_scan(fast_backend, assert_agree, shape, rank):
    inputs = map_of(shape, 2, 20, 16)
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)
    truth = cross_scan(**{k: v.double() for k, v in inputs.items()}, backend="reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = cross_scan(**inputs, backend=fast_backend)
    assert_agree(y, truth, "y")


@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
def test_float64_stays_float64(backend, assert_agree, shape):
    inputs = with_low_rank_dt(map_of(shape, dtype=torch.float64), 2)
    truth = scan_and_differentiate(inputs, "reference")
    result = scan_and_differentiate(inputs, backend)
    for name in truth:
        assert result[name].dtype == torch.float64
        assert_agree(result[name], truth[name], name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["reference", "torch", "auto"])
@pytest.mark.parametrize("rank", [None, 3])
def test_half_inputs_give_a_float32_output(backend, assert_agree, shape, dtype, rank):
    inputs = map_of(shape, 2, 9, 16, dtype=dtype)
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


def first_two_axes_swapped(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize(
    "scatter", [channels_first, directions_first, cut_from_a_larger_tensor, first_two_axes_swapped]
)
@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("sides", [(5, 7), (2, 5, 3), (5, 1)])
def test_inputs_need_not_be_contiguous(fast_backend, assert_agree, scatter, low_rank, sides):
    inputs = map_of(sides, 2, 18, 16)
    inputs = with_low_rank_dt(inputs, 3) if low_rank else inputs
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
    inputs = map_of((4, 9), 1, 3, 4)
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
    inputs = map_of((4, 9), 1, 3, 4)
    inputs = inputs if rank is None else with_low_rank_dt(inputs, rank)
    inputs["u"][0, 2, 3, 1] = float("nan")
    truth = scan_and_differentiate(inputs, "reference")
    result = scan_and_differentiate(inputs, fast_backend)
    for name in truth:
        assert torch.equal(result[name].isnan(), truth[name].isnan()), name


@pytest.mark.parametrize("wanted", ["dt", "dt_weight"])
def test_only_the_gradients_asked_for(fast_backend, wanted):
    inputs = with_low_rank_dt(map_of(), 3)
    inputs[wanted].requires_grad_()
    cross_scan(**inputs, backend=fast_backend).sum().backward()
    assert inputs[wanted].grad.abs().sum() > 0
    assert inputs["u"].grad is None


@pytest.mark.parametrize(("shape", "low_rank"), [((11,), False), ((5, 7), False), ((5, 7), True), ((3, 4, 5), True)])
def test_compiles_and_exports_as_one_operation(fast_backend, low_rank, shape):
    torch.compiler.reset()

    def maps(*sizes):
        inputs = map_of(sizes[1:], sizes[0])
        return with_low_rank_dt(inputs, 3) if low_rank else inputs

    inputs = maps(2, *shape)

    class Scan(torch.nn.Module):
        def forward(self, *tensors):
            return cross_scan(*tensors, backend=fast_backend)

    tensors = tuple(inputs.values())
    expected = Scan()(*tensors)
    torch.testing.assert_close(torch.compile(Scan(), fullgraph=True, backend="eager")(*tensors), expected)
    positions = {i: torch.export.Dim(f"size_{i}") for i in range(1 + len(shape))}
    program = torch.export.export(Scan(), tensors, dynamic_shapes=((positions,) * 4 + (None,) * (len(tensors) - 4),))
    torch.testing.assert_close(program.module()(*tensors), expected)
    assert len([node for node in program.graph.nodes if "mamba_unet" in str(node.target)]) == 1
    larger = tuple(maps(1, *(side + 1 for side in shape)).values())
    torch.testing.assert_close(program.module()(*larger), Scan()(*larger))


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("sides", [(5, 7), (2, 3, 4)])
def test_compiled_gradients(fast_backend, assert_agree, sides, low_rank):
    inputs = with_low_rank_dt(map_of(sides), 3) if low_rank else map_of(sides)
    inputs = [x.requires_grad_() for x in inputs.values()]
    scan = torch.compile(lambda *x: cross_scan(*x, backend=fast_backend), fullgraph=True, backend="aot_eager")
    compiled = torch.autograd.grad(scan(*inputs).square().sum(), inputs)
    eager = torch.autograd.grad(cross_scan(*inputs, backend=fast_backend).square().sum(), inputs)
    for result, truth in zip(compiled, eager, strict=True):
        assert_agree(result, truth, "gradient")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(2, 2, 2, 2, 2, 6)}, "with one to 3 axes S"),
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
        ({"u": torch.zeros(2, 1, 5, 7, 6)}, r"A must have shape \(6, D, N\) = \(6, 6, 4\), not \(4, 6, 4\)"),
        ({"dt_weight": torch.zeros(4, 6, 3)}, r"dt must have shape \(B, \*S, 4, R\), as .* = \(2, 5, 7, 4, 3\)"),
        ({"dt_weight": torch.zeros(4, 5, 6)}, r"dt_weight must have shape \(4, D, R\) = \(4, 6, 6\)"),
        ({"dt_weight": torch.zeros(4, 6)}, r"dt_weight must have shape \(4, D, R\) with R at least 1"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        cross_scan(**{**map_of(), **change})
