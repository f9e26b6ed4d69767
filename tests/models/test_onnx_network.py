import sys

import pytest
import torch

from mamba_unet.models.checkpoint import CheckpointError, read_metadata
from mamba_unet.models.loading import load_checkpoint
from mamba_unet.models.onnx_network import OnnxNetwork

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's exporter's


class Double(torch.nn.Module):
    def forward(self, image):
        return 2 * image


@pytest.fixture
def plain_file(tmp_path):
    """An ONNX file of another program: it has no manifest."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "double.onnx"
    program = torch.onnx.export(
        Double().eval(), (torch.zeros(2, 1, 3, 3),), input_names=["image"], output_names=["logits"], verbose=False
    )
    program.save(path)
    return path


def test_it_computes_in_float32_and_refuses_a_device_without_a_provider(plain_file):
    network = OnnxNetwork(plain_file)
    image = torch.rand(2, 1, 3, 3)
    assert torch.equal(network(image), 2 * image)
    assert network(image.half()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"onnxruntime .* cannot compute on meta here, only on cpu.*--device"):
        network.to("meta")


def test_a_file_without_manifest_says_how_one_is_made(plain_file):
    assert read_metadata(plain_file) is None
    with pytest.raises(CheckpointError, match="holds weights only"):
        load_checkpoint(plain_file)


def test_a_damaged_file_is_named(tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=r"broken.onnx is no ONNX file that onnxruntime can run"):
        load_checkpoint(path)


def test_without_onnxruntime_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = tmp_path / "network.onnx"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r'pip install "mamba-unet\[onnx\]"'):
        load_checkpoint(path)
