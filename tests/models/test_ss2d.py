import numpy as np
import pytest
import torch

from mamba_unet.models import SS2D


def test_ss2d_matches_the_conformance_outputs_and_gradients(conformance_dir, fill_by_name):
    expected = {k: torch.from_numpy(v) for k, v in np.load(conformance_dir / "ss2d.npz").items()}
    ss2d = SS2D(12).double()
    fill_by_name(ss2d)
    x = expected["input"].requires_grad_()

    y = ss2d(x)
    y.backward(expected["output_grad"])

    torch.testing.assert_close(y, expected["output"], rtol=0, atol=1e-9)
    torch.testing.assert_close(x.grad, expected["input_grad"], rtol=0, atol=1e-9)
    names = [name for name, _ in ss2d.named_parameters()]
    assert {f"param_grad.{name}" for name in names} == {k for k in expected if k.startswith("param_grad.")}
    for name, parameter in ss2d.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[f"param_grad.{name}"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 5), (1, 7, 2)])
def test_ss2d_keeps_the_shape_of_any_map(shape):
    x = torch.randn(*shape, 8)
    assert SS2D(8, d_state=3)(x).shape == x.shape


def test_ss2d_starts_with_mambas_delta_and_A():
    ss2d = SS2D(32, d_state=5)
    dt = torch.nn.functional.softplus(ss2d.dt_projs_bias)
    assert dt.min() >= 1e-4 and dt.max() <= 0.1001
    torch.testing.assert_close(ss2d.A_logs.exp(), torch.arange(1.0, 6.0).expand(4 * 64, 5))


def test_scan_output_stays_float32_under_autocast_so_that_it_cannot_overflow():
    torch.manual_seed(0)
    ss2d = SS2D(16)
    x = 1e4 * torch.randn(1, 6, 6, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert ss2d.scan(torch.randn(1, 6, 6, 32, dtype=torch.bfloat16)).dtype == torch.float32
        y = ss2d(x)
    assert y.dtype == torch.bfloat16 and y.isfinite().all()
