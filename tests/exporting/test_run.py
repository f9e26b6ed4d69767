import json

import nibabel as nib
import numpy as np
import pytest
import torch

from mamba_unet import Predictor, export_model
from mamba_unet.cli import main
from mamba_unet.exporting import parity, run
from mamba_unet.models.checkpoint import CheckpointError, read_metadata
from mamba_unet.models.loading import load
from mamba_unet.models.onnx_network import read_manifest

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's exporter's


@pytest.fixture
def onnx():
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("mamba_unet_fine", {"d_state": 1, "scan_from": 1}),  # as in mini-deep
        ("mamba_unet_fine_dwconv", {}),
        ("mamba_unet_3d", {}),
        ("unet", {}),
        ("attention_unet", {}),
        ("swin_unet", {}),
        ("transunet", {}),
        ("unet_3d", {}),
    ],
)
def test_every_kind_of_network_becomes_an_onnx_file_of_open_sizes(name, arguments, make_checkpoint, onnx, tmp_path):
    folder = make_checkpoint(name, **arguments)
    done = export_model(folder, tmp_path / "network.onnx")
    model = onnx.load(done.path)
    assert {entry.domain for entry in model.opset_import} == {""} and not model.functions
    axes = ["depth", "height", "width"] if name.endswith("3d") else ["height", "width"]
    shape = [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 1, *axes]
    network, exported = load(folder), load(done.path)
    sizes = [(3, 20, 33, 50), (1, 8, 64, 32)] if name.endswith("3d") else [(3, 33, 50), (1, 16, 64), (2, 96, 40)]
    with torch.no_grad():
        for batch, *size in sizes:
            image = torch.rand(batch, 1, *size)
            torch.testing.assert_close(exported(image), network(image), rtol=0, atol=1e-4)


def test_the_manifest_says_what_the_checkpoint_says_and_where_it_came_from(checkpoint, onnx_file):
    assert read_metadata(onnx_file) == read_metadata(checkpoint / "best.safetensors")
    facts = json.loads(read_manifest(onnx_file)[run.EXPORT_KEY])
    digest = run.sha256([checkpoint / "best.safetensors"])
    assert facts["checkpoint_sha256"] == digest and facts["precision"] == "float32"


@pytest.mark.parametrize("words", [[], ["--tta", "--probabilities"]])
def test_predict_writes_the_same_files_with_the_onnx_file_as_with_the_checkpoint(
    checkpoint, onnx_file, scan, tmp_path, words
):
    for name, network in (("ours", checkpoint), ("theirs", onnx_file)):
        assert main(["predict", str(network), str(scan), "--out", str(tmp_path / name), "--device", "cpu", *words]) == 0
    ours, theirs = (sorted(path.name for path in (tmp_path / name).glob("*.nii.gz")) for name in ("ours", "theirs"))
    assert ours == theirs
    one, other = (nib.load(tmp_path / name / "eye.nii.gz") for name in ("ours", "theirs"))
    assert (np.asarray(one.dataobj) == np.asarray(other.dataobj)).mean() > 0.999
    assert np.array_equal(one.affine, other.affine) and bytes(one.header.binaryblock) == bytes(other.header.binaryblock)


def test_the_checkpoint_and_its_file_make_an_ensemble(checkpoint, onnx_file, scan):
    both = Predictor([checkpoint, onnx_file], "cpu")(scan, probabilities=True)
    alone = Predictor(checkpoint, "cpu")(scan, probabilities=True)
    np.testing.assert_allclose(both.probabilities, alone.probabilities, atol=1e-5)


def test_half_precision_makes_the_file_smaller_and_keeps_the_answers(checkpoint, onnx_file, scan, tmp_path, capsys):
    out = tmp_path / "half.onnx"
    words = ["export-model", str(checkpoint), str(out), "--precision", "float16", "--check-image", str(scan)]
    assert main(words) == 0
    weights = sum(parameter.numel() for parameter in load(checkpoint).parameters())
    assert onnx_file.stat().st_size - out.stat().st_size > 1.2 * weights, "two bytes of each, less new casts"
    printed = capsys.readouterr().out
    assert "random, 2 x 40 x 48: largest difference" in printed and "eye.nii.gz: largest difference" in printed
    with torch.no_grad():
        image = torch.rand(1, 1, 33, 50)
        assert load(out)(image).dtype == torch.float32
        torch.testing.assert_close(load(out)(image), load(checkpoint)(image), rtol=0, atol=0.05)


def test_a_file_that_answers_otherwise_is_not_left_there(checkpoint, onnx_file, tmp_path, monkeypatch):
    monkeypatch.setitem(run.FORMATS, "onnx", run.Format(".onnx", _write_zeros, _Zeros))
    with pytest.raises(ValueError, match=r"net.onnx was not written: .* differ .* by more than 0.0001"):
        export_model(checkpoint, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def _write_zeros(path, network, image, manifest):
    path.write_bytes(b"")


class _Zeros(torch.nn.Module):
    def __init__(self, path):
        super().__init__()

    def forward(self, image):
        return image.new_zeros(image.shape[0], 3, *image.shape[2:])


def test_nan_is_no_agreement():
    network = torch.nn.Identity()
    network.register_parameter("weight", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(ValueError, match="differ"):
        parity.compare(
            network, lambda x: x * float("nan"), {"x": torch.ones(1, 2, 3, 3)}, parity.BOUNDS["float32"], "x"
        )


def test_torch_export_is_one_file_of_standard_operators_for_any_number_of_images(checkpoint, tmp_path):
    done = export_model(checkpoint, tmp_path / "network.pt2", "torch-export")
    files = {run.EXPORT_KEY: ""}
    program = torch.export.load(done.path, extra_files=files)
    assert json.loads(files[run.EXPORT_KEY])["format"] == "torch-export"
    assert not any("mamba_unet" in str(node.target) for node in program.graph.nodes)
    image = torch.rand(3, 1, 40, 48)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(image), load(checkpoint)(image), rtol=0, atol=1e-4)
    with pytest.raises(CheckpointError, match=r"torch.export.load"):
        Predictor(done.path)


@pytest.mark.parametrize(
    ("out", "how", "message"),
    [
        ("net.pt", {}, "a file of onnx ends in .onnx"),
        ("net.onnx", {"format": "tflite"}, "expected one of onnx, torch-export, monai-bundle"),
        ("net.onnx", {"precision": "int8"}, "written in float32 or float16, not in 'int8'"),
        ("bundle", {"format": "monai-bundle", "precision": "float16"}, "written in float32"),
        (".", {"format": "monai-bundle"}, "is there already"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_done(checkpoint, tmp_path, out, how, message):
    with pytest.raises(ValueError, match=message):
        export_model(checkpoint, tmp_path / out, **how)
    assert not list(tmp_path.iterdir())


def test_openvino_reads_the_same_file(checkpoint, onnx_file):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not here; `make test-nnunet` installs it")
    compiled = openvino.Core().compile_model(onnx_file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    network = load(checkpoint)
    with torch.no_grad():
        for sizes in ((2, 1, 40, 48), (1, 1, 33, 70)):
            image = torch.rand(*sizes)
            got = torch.from_numpy(compiled(image.numpy())[0])
            torch.testing.assert_close(got, network(image), rtol=0, atol=1e-3)
