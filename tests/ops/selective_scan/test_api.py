"""The selective scan: against independent numbers, its backends against the reference, and its refusals."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mamba_unet.ops import selective_scan

INPUTS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def sequence(batch=2, channels=6, length=7, states=4, groups=None, seed=0, dtype=torch.float32) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    grouped = () if groups is None else (groups,)
    return {
        "u": randn(batch, channels, length),
        "delta": randn(batch, channels, length),
        "A": -torch.rand(channels, states, generator=generator).mul(4).to(dtype),
        "B": randn(batch, *grouped, states, length),
        "C": randn(batch, *grouped, states, length),
        "D": randn(channels),
        "z": randn(batch, channels, length),
        "delta_bias": randn(channels),
    }


def scan_and_differentiate(
    inputs: dict, backend: str, softplus: bool = True, terms: bool = False
) -> dict[str, torch.Tensor]:
    """The outputs and all gradients of a loss in which every output value counts differently; for the sums of terms,
    by the absolute values of its weights."""
    leaves = {name: x.detach().clone(memory_format=torch.preserve_format) for name, x in inputs.items()}
    for x in leaves.values():
        x.requires_grad_()
    out, last_state = selective_scan(**leaves, delta_softplus=softplus, return_last_state=True, backend=backend)
    weights = [torch.linspace(-1, 1, out.numel()), torch.linspace(-2, 1, last_state.numel())]
    weights = [x.abs() for x in weights] if terms else weights
    loss = sum((x.double() * w.view(x.shape)).sum() for x, w in zip((out, last_state), weights, strict=True))
    gradients = torch.autograd.grad(loss, tuple(leaves.values()))
    return {"out": out, "last_state": last_state, **dict(zip(leaves, gradients, strict=True))}


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("name", ["small", "groups", "long"])
def test_matches_independent_numbers_to_1e9(conformance_dir, name, backend):
    stored = {k: torch.from_numpy(v) for k, v in np.load(conformance_dir / f"selective_scan_{name}.npz").items()}
    inputs = {k: stored[k].requires_grad_() for k in INPUTS if k in stored}
    out, last_state = selective_scan(**inputs, delta_softplus=True, return_last_state=True, backend=backend)
    gradients = torch.autograd.grad(out, tuple(inputs.values()), stored["out_grad"])
    torch.testing.assert_close(out, stored["out"], rtol=0, atol=1e-9)
    torch.testing.assert_close(last_state, stored["last_state"], rtol=0, atol=1e-9)
    for k, gradient in zip(inputs, gradients, strict=True):
        torch.testing.assert_close(gradient, stored[f"{k}_grad"], rtol=0, atol=1e-9, msg=k)


def test_a_scan_of_two_steps_by_hand():
    """One channel, one state, A = -1, delta = 1: h = (2, 2 / e + 3), out = C h + D u."""
    one = torch.ones(1, 1, 2)
    u = torch.tensor([[[2.0, 3.0]]])
    out, last = selective_scan(u, one, -torch.ones(1, 1), one, 10 * one, torch.ones(1), return_last_state=True)
    h = 2 / np.e + 3
    torch.testing.assert_close(out, torch.tensor([[[22.0, 10 * h + 3]]]))
    torch.testing.assert_close(last, torch.tensor([[[h]]], dtype=torch.float32))


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("softplus", [True, False])
def test_gradients_pass_gradcheck(backend, softplus):
    inputs = sequence(1, 4, 5, 3, groups=2, dtype=torch.float64)

    def scan(*tensors):
        return selective_scan(
            **dict(zip(INPUTS, tensors, strict=True)), delta_softplus=softplus, return_last_state=True, backend=backend
        )

    assert torch.autograd.gradcheck(scan, [inputs[k].requires_grad_() for k in INPUTS])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(0, 2),
    groups=st.sampled_from([None, 1, 2, 3]),
    channels_per_group=st.integers(1, 19),
    length=st.sampled_from([1, 2, 15, 16, 17, 32, 33, 70]),
    states=st.sampled_from([1, 3, 16, 17, 64]),
    softplus=st.booleans(),
    optional=st.sets(st.sampled_from(["D", "z", "delta_bias"])),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_the_reference(
    fast_backend,
    assert_agree,
    sums_of_absolute_terms,
    batch,
    groups,
    channels_per_group,
    length,
    states,
    softplus,
    optional,
    seed,
):
    inputs = sequence(batch, channels_per_group * (groups or 1), length, states, groups, seed)
    if not softplus:  # the steps themselves: keep them positive on the whole, or the states explode
        inputs["delta"] = inputs["delta"].abs()
    inputs = {k: v for k, v in inputs.items() if k in ("u", "delta", "A", "B", "C") or k in optional}
    if not softplus:
        inputs.pop("delta_bias", None)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference", softplus)
    result = scan_and_differentiate(inputs, fast_backend, softplus)
    terms = sums_of_absolute_terms(scan_and_differentiate, inputs, softplus=softplus)
    for name in truth:
        assert_agree(result[name], truth[name], name, terms[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_are_scanned_in_float32(fast_backend, assert_agree, dtype):
    inputs = sequence(2, 5, 40, 16, dtype=dtype)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference")
    result = scan_and_differentiate(inputs, fast_backend)
    assert result["out"].dtype == dtype
    assert result["last_state"].dtype == torch.float32
    for name in truth:
        assert_agree(result[name], truth[name], name)


def test_parameters_may_stay_float32_beside_half_inputs(fast_backend, assert_agree):
    inputs = {k: v if k in ("A", "D", "delta_bias") else v.bfloat16() for k, v in sequence(2, 5, 20, 4).items()}
    truth = selective_scan(**{k: v.double() for k, v in inputs.items()}, delta_softplus=True, backend="reference")
    out = selective_scan(**inputs, delta_softplus=True, backend=fast_backend)
    assert out.dtype == torch.bfloat16
    assert_agree(out, truth, "out")


def test_inputs_need_not_be_contiguous(fast_backend, assert_agree):
    inputs = sequence(2, 6, 9, 4, groups=2)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference")
    scattered = {k: torch.stack((v, v), dim=-1)[..., 0].mT if v.ndim > 1 else v for k, v in inputs.items()}
    scattered = {k: v.contiguous().mT if v.ndim > 1 else v for k, v in scattered.items()}
    result = scan_and_differentiate(scattered, fast_backend)
    for name in truth:
        assert_agree(result[name], truth[name], name)


def test_a_broadcast_input_gets_its_gradient(fast_backend, assert_agree):
    inputs = sequence(2, 4, 6, 3)
    gradients = []
    for backend, dtype in (("reference", torch.float64), (fast_backend, torch.float32)):
        B = inputs["B"][:1].to(dtype).requires_grad_()
        rest = {k: v.to(dtype) for k, v in inputs.items() if k != "B"}
        selective_scan(**rest, B=B.expand(2, -1, -1), backend=backend).sum().backward()
        gradients.append(B.grad)
    assert_agree(gradients[1], gradients[0], "B")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"])
def test_nan_and_inf_come_out(fast_backend, name, value):
    inputs = sequence(1, 3, 40, 4)
    for x in inputs.values():
        x.abs_()  # no infinity meets its opposite, no exponential hides one
    inputs["A"].neg_()
    inputs[name].view(-1)[1] = value
    truth = selective_scan(**inputs, delta_softplus=True, backend="reference")
    out = selective_scan(**inputs, delta_softplus=True, backend=fast_backend)
    assert torch.equal(out.isnan(), truth.isnan())
    assert torch.equal(out.isposinf(), truth.isposinf())
    assert torch.equal(out.isneginf(), truth.isneginf())


def test_large_steps_forget_and_negative_steps_explode_as_in_the_reference(fast_backend):
    """exp(delta A) from 0 to infinity, beyond what the kernel's fast exponential takes."""
    inputs = sequence(1, 20, 40, 4)
    inputs.pop("delta_bias")
    inputs["delta"] = inputs["delta"] * 100
    truth = selective_scan(**inputs, backend="reference")
    out = selective_scan(**inputs, backend=fast_backend)
    finite = truth.isfinite()
    assert 0 < finite.sum() < finite.numel()
    torch.testing.assert_close(out[finite], truth[finite], rtol=1e-4, atol=1e-4)
    assert not out[~finite].isfinite().any()


def test_autocast_does_not_reach_the_recurrence(fast_backend, assert_agree):
    inputs = sequence(2, 5, 50, 16)
    truth = scan_and_differentiate({k: v.double() for k, v in inputs.items()}, "reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = scan_and_differentiate(inputs, fast_backend)
    for name in truth:
        assert_agree(result[name], truth[name], name)


def test_compiles_and_exports_as_one_operation(fast_backend):
    inputs = sequence(2, 5, 40, 4)

    def scan(u, delta, A, B, C):
        return selective_scan(u, delta, A, B, C, delta_softplus=True, backend=fast_backend)

    class Scan(torch.nn.Module):
        forward = staticmethod(scan)

    tensors = [inputs[k] for k in INPUTS[:5]]
    expected = scan(*tensors)
    torch.testing.assert_close(torch.compile(scan, fullgraph=True, backend="eager")(*tensors), expected)
    program = torch.export.export(Scan(), tuple(tensors))
    torch.testing.assert_close(program.module()(*tensors), expected)
    assert len([node for node in program.graph.nodes if "mamba_unet" in str(node.target)]) == 1


def test_z_gates_the_output():
    inputs = sequence()
    z = inputs.pop("z")
    torch.testing.assert_close(selective_scan(**inputs, z=z), selective_scan(**inputs) * F.silu(z))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(6, 7)}, r"u must have shape \(B, D, L\)"),
        ({"u": torch.zeros(2, 6, 0)}, "at least 1"),
        ({"delta": torch.zeros(2, 6, 8)}, r"delta must have shape \(B, D, L\) = \(2, 6, 7\), not \(2, 6, 8\)"),
        ({"A": torch.zeros(6, 65)}, "d_state N must be 1..64, not 65"),
        ({"A": torch.zeros(6, 4, dtype=torch.complex64)}, "A must be real floating point"),
        ({"A": torch.zeros(5, 4)}, "A must have shape"),
        ({"B": torch.zeros(2, 4, 4, 7)}, "groups G of B and C must divide D = 6"),
        ({"B": torch.zeros(2, 5, 7)}, "B must have shape"),
        ({"C": torch.zeros(2, 4)}, "C must have shape"),
        ({"D": torch.zeros(5)}, "D must have shape"),
        ({"z": torch.zeros(2, 6)}, "z must have shape"),
        ({"delta_bias": torch.zeros(1)}, "delta_bias must have shape"),
        ({"u": torch.zeros(2, 6, 7, dtype=torch.int64)}, "u must be real floating point, not torch.int64"),
        ({"u": [1.0]}, "u must be a tensor, not list"),
        ({"C": torch.zeros(2, 4, 7, device="meta")}, "one device; C is on meta"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**sequence(), **change})
