"""A network as one ONNX file of standard operators, with its manifest inside."""

from collections.abc import Mapping
from pathlib import Path

import torch

from mamba_unet import __version__
from mamba_unet.exporting.network import Exportable, open_sizes, quiet
from mamba_unet.models.onnx_network import INPUT, OUTPUT, missing_extra

LARGEST = 2**31 - 2**20  # bytes of weights: protobuf's limit


def write_onnx(path: Path, network: Exportable, image: torch.Tensor, manifest: Mapping[str, str]) -> None:
    """Trace the network and write it to `path`.

    Args:
        path: to write.
        network: to export.
        image: to trace it with.
        manifest: texts by key, which go into the file's metadata.

    Raises:
        ValueError: the packages of the extra `onnx` are missing, or the network is too large for one file.
    """
    if sum(tensor.nbytes for tensor in network.state_dict().values()) > LARGEST:
        raise ValueError("the network has more than 2 GiB of weights, which no self-contained ONNX file can hold")
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra(error) from error

    with quiet():
        program = torch.onnx.export(
            network, (image,), input_names=[INPUT], output_names=[OUTPUT], verbose=False,
            dynamic_shapes=open_sizes(image.ndim - 2),
        )  # fmt: skip
    model = program.model_proto
    model.producer_name, model.producer_version = "mamba-unet", __version__
    onnx.helper.set_model_props(model, dict(manifest))
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
