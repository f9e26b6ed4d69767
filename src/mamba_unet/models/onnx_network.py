"""An exported network by onnxruntime, as a module that takes the place of the one it was exported from.

B batch, C channels, *S the image's axes, K classes.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mamba_unet.models.checkpoint import CheckpointError

ENDING = ".onnx"
INPUT, OUTPUT = "image", "logits"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}  # device type -> onnxruntime's name


def missing_extra(error: ImportError) -> ValueError:
    return ValueError(f'ONNX files need packages that are not installed ({error}): pip install "mamba-unet[onnx]"')


class OnnxNetwork(nn.Module):
    """image (B, C, *S) float32 -> logits (B, K, *S) float32, computed where `to` brought it.

    Args:
        path: an ONNX file that `mamba-unet export-model` wrote.

    Raises:
        ValueError: onnxruntime is missing, or has no provider for the device that `to` names.
        CheckpointError: the file is damaged.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # the device and type that images come in
        self._sessions: dict[str, Any] = {}
        self._session("cpu")

    def _session(self, device: str) -> Any:
        if device not in self._sessions:
            ort = _onnxruntime()
            if not can_run_on(device):
                known = ", ".join(name for name, provider in PROVIDERS.items() if provider in _providers())
                raise ValueError(
                    f"onnxruntime {ort.__version__} cannot compute on {device} here, only on {known}; take another "
                    "--device, for CUDA install onnxruntime-gpu, or predict with the checkpoint itself"
                )
            options = ort.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            self._sessions = {device: _open(self.path, options, [PROVIDERS[device]])}
        return self._sessions[device]

    def _apply(self, function: Any, recurse: bool = True) -> "OnnxNetwork":
        super()._apply(function, recurse)
        self._session(self.place.device.type)  # a device that cannot be used is told where it is asked for
        return self

    def forward(self, image: Tensor) -> Tensor:
        session = self._session(self.place.device.type)
        logits = session.run([OUTPUT], {INPUT: np.ascontiguousarray(image.float().cpu().numpy())})[0]
        return torch.from_numpy(logits).to(image.device)


def can_run_on(device: str) -> bool:
    """Whether onnxruntime has a provider for a type of device here."""
    return PROVIDERS.get(device) in _providers()


def read_manifest(path: str | Path) -> Mapping[str, str]:
    """The texts that an ONNX file has by key. Raises ValueError or OSError as `OnnxNetwork` does."""
    options = _onnxruntime().SessionOptions()
    options.graph_optimization_level = _onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    return _open(Path(path), options, [PROVIDERS["cpu"]]).get_modelmeta().custom_metadata_map


def _open(path: Path, options: Any, providers: list[str]) -> Any:
    options.log_severity_level = 3
    try:
        return _onnxruntime().InferenceSession(path.read_bytes(), options, providers=providers)
    except OSError:
        raise
    except Exception as error:  # onnxruntime has a class of its own for every kind of failure, none of them public
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is no ONNX file that onnxruntime can run: {reason}") from error


def _providers() -> list[str]:
    return _onnxruntime().get_available_providers()


def _onnxruntime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise missing_extra(error) from error
