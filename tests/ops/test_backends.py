import os
import subprocess
import sys

import pytest
import torch

from mamba_unet.ops import backend_status, backends, selective_scan, use_backend


@pytest.fixture
def sequence() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "u": torch.randn(1, 4, 5),
        "delta": torch.rand(1, 4, 5),
        "A": -torch.rand(4, 3),
        "B": torch.randn(1, 3, 5),
        "C": torch.randn(1, 3, 5),
    }


@pytest.fixture
def without_library(monkeypatch) -> None:
    """As on a machine that had no C compiler at installation."""
    monkeypatch.setitem(backends._absences, ("cpu", "cpu"), "its library was not built")


def run_python(code: str, **environment: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", **environment},
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_status_lists_every_backend_with_a_reason():
    rows = backend_status("cpu")
    assert [row.name for row in rows] == ["auto", *backends.BACKENDS]
    assert all(row.reason for row in rows)
    assert rows[0].reason in ("picks 'cpu'", "picks 'torch'")


def test_auto_falls_back_to_torch_and_says_so_once(sequence, without_library, monkeypatch):
    monkeypatch.setattr(backends, "_warned", False)
    assert backend_status("cpu")[0].reason == "picks 'torch'"
    with pytest.warns(RuntimeWarning, match="portable 'torch' backend.*not built"):
        selective_scan(**sequence)
    selective_scan(**sequence)  # a second warning would be an error


def test_a_backend_asked_for_by_name_is_an_error_where_it_cannot_run(sequence, without_library):
    with pytest.raises(ValueError, match="'cpu' cannot run on cpu tensors here: its library was not built"):
        selective_scan(**sequence, backend="cpu")


def test_unknown_backend_is_an_error(sequence):
    with pytest.raises(ValueError, match=r"no backend is named 'cuda'.*'triton'"):
        selective_scan(**sequence, backend="cuda")
    with pytest.raises(ValueError, match="no backend is named"), use_backend("gpu"):
        pass


def test_use_backend_holds_inside_the_block_only(sequence, without_library):
    u = sequence["u"]
    assert backends.choose("reference", u) == "reference"
    with use_backend("reference"):
        assert backends.choose("auto", u) == "reference"
        with use_backend("torch"):
            assert backends.choose("auto", u) == "torch"
            assert backends.choose("reference", u) == "reference"
        assert backends.choose("auto", u) == "reference"
    assert backends._in_force == "auto"


def test_use_backend_is_undone_by_an_error():
    with pytest.raises(KeyError), use_backend("torch"):
        raise KeyError
    assert backends._in_force == "auto"


def test_float64_goes_through_torch_instead_of_the_kernel(sequence):
    assert backends.choose("auto", sequence["u"].double()) == "torch"


def test_triton_asked_for_where_it_cannot_be_imported_is_a_clear_error():
    printed = run_python(
        """
import sys
sys.modules["triton"] = None
import torch
from mamba_unet.ops import selective_scan
x = torch.ones(1, 2, 3)
try:
    selective_scan(x, x, -torch.ones(2, 4), torch.ones(1, 4, 3), torch.ones(1, 4, 3), backend="triton")
except ValueError as error:
    print(error)
""",
        TRITON_INTERPRET="1",
    )
    assert "'triton' cannot run on cpu tensors here: triton cannot be imported" in printed


def test_works_where_triton_cannot_be_imported():
    printed = run_python(
        """
import sys
sys.modules["triton"] = None  # importing it raises ImportError
import torch
from mamba_unet.ops import backend_status, cross_scan
y = cross_scan(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4, 4), torch.ones(1, 2, 3, 4, 5), torch.ones(1, 2, 3, 4, 5),
              -torch.ones(4, 4, 5), torch.ones(4), torch.ones(4, 4), backend="torch")
print(y.shape, backend_status("cuda")[-1])
"""
    )
    assert "torch.Size([1, 2, 3, 4])" in printed
    assert "available=False" in printed


def test_importing_the_scans_does_not_import_triton_or_the_compiler():
    printed = run_python("import sys, mamba_unet.ops as o; print({'triton', 'torch._dynamo'} & set(sys.modules))")
    assert printed.strip() == "set()"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch's own derivatives
def test_forward_mode_is_exact_or_an_error(sequence):
    def scan(u, backend="auto"):
        return selective_scan(**{**sequence, "u": u}, backend=backend)

    tangent = torch.randn_like(sequence["u"])
    _, got = torch.func.jvp(scan, (sequence["u"],), (tangent,))
    jacobian = torch.autograd.functional.jacobian(scan, sequence["u"])
    torch.testing.assert_close(got, (jacobian.flatten(3) @ tangent.flatten()).view_as(got))
    for backend in ("torch", "cpu"):
        with pytest.raises(ValueError, match=r"no forward-mode derivatives \(jvp\); use backend=\"reference\""):
            torch.func.jvp(lambda u, name=backend: scan(u, name), (sequence["u"],), (tangent,))


@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_a_backward_pass_through_vmap_is_an_error(sequence, backend):
    u = sequence["u"].expand(3, -1, -1, -1).clone().requires_grad_()
    y = torch.vmap(lambda one: selective_scan(**{**sequence, "u": one}, backend=backend))(u)
    assert torch.allclose(y[2], selective_scan(**sequence), atol=1e-5)
    with pytest.raises(RuntimeError, match=r"inside torch\.vmap cannot be differentiated"):
        y.sum().backward()
