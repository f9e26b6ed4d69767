"""The scan in standard operators: whatever backend is asked for, `torch.onnx.export` writes Scan, for any length."""

import numpy as np
import pytest
import torch

from mamba_unet.ops import cross_scan, selective_scan
from mamba_unet.ops.backends import standard_operators

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's exporter's
AUTO = torch.export.Dim.AUTO


class Sequences(torch.nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, u, delta, A, B, C):
        return selective_scan(u, delta, A, B, C, delta_softplus=True, return_last_state=True, backend=self.backend)


class Maps(torch.nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, u, dt, B, C, A, D, bias):
        return cross_scan(u, dt, B, C, A, D, bias, backend=self.backend)


def sequences(batch: int, length: int) -> tuple[torch.Tensor, ...]:
    u, delta = torch.randn(2, batch, 6, length)
    return u, delta, -torch.rand(6, 3), *torch.randn(2, batch, 2, 3, length)


def maps(batch: int, *sizes: int) -> tuple[torch.Tensor, ...]:
    walks = 2 * len(sizes)
    u, dt = torch.randn(batch, *sizes, 5), torch.randn(batch, *sizes, walks, 5)
    B, C = torch.randn(2, batch, *sizes, walks, 3)
    return u, dt, B, C, -torch.rand(walks, 5, 3), torch.randn(5), torch.randn(walks, 5)


SEQUENCES = (
    Sequences,
    sequences,
    [(2, 9), (1, 17), (3, 2)],
    [*[{0: AUTO, 2: AUTO}] * 2, None, *[{0: AUTO, 3: AUTO}] * 2],
)
MAPS = (Maps, maps, [(2, 3, 5), (1, 6, 2), (3, 1, 4)], [*[{0: AUTO, 1: AUTO, 2: AUTO}] * 4, None, None, None])
OPEN_VOLUME = {axis: AUTO for axis in range(4)}
VOLUMES = (Maps, maps, [(2, 3, 4, 5), (1, 2, 6, 3)], [*[OPEN_VOLUME] * 4, None, None, None])


@pytest.mark.parametrize(
    ("backend", "what"),
    [("auto", SEQUENCES), ("cpu", MAPS), ("torch", MAPS), ("reference", MAPS), ("auto", VOLUMES)],
    ids=["sequence", "map-cpu", "map-torch", "map-reference", "volume"],
)
def test_a_plain_onnx_export_scans_any_size_by_the_standard_operator(backend, what, tmp_path):
    pytest.importorskip("onnxscript")
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    module, inputs, (first, *others), open_axes = what
    torch.manual_seed(0)
    path = tmp_path / "scan.onnx"
    torch.onnx.export(module(backend).eval(), inputs(*first), path, dynamic_shapes=tuple(open_axes), verbose=False)
    model = onnx.load(path)
    assert [node.op_type for node in model.graph.node].count("Scan") == 1
    assert {entry.domain for entry in model.opset_import} == {""}
    session = ort.InferenceSession(path)
    for sizes in (first, *others):
        given = inputs(*sizes)
        expected = module("reference")(*given)
        got = session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), given, strict=True)})
        for one, other in zip(expected if isinstance(expected, tuple) else (expected,), got, strict=True):
            np.testing.assert_allclose(other, one.numpy(), rtol=1e-4, atol=1e-5)


def test_inside_standard_operators_torch_export_knows_no_operator_of_ours_and_outside_it_does():
    def operators() -> set[str]:
        program = torch.export.export(Maps("auto").eval(), maps(1, 4, 3))
        return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}

    assert any("mamba_unet" in name for name in operators())
    with standard_operators():
        inside = operators()
    assert "scan" in inside and not any("mamba_unet" in name for name in inside)
    assert any("mamba_unet" in name for name in operators())
