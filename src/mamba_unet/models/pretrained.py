"""Public checkpoints into our networks: which of their names are whose of ours, and a report of what was loaded."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

Weights = dict[str, Tensor]


class PretrainedError(ValueError):
    """A file is not the checkpoint it was taken for."""


@dataclass(frozen=True)
class LoadReport:
    """What a checkpoint filled.

    Attributes:
        kind: which public checkpoint it is.
        loaded: parameters of the network that got the checkpoint's values.
        missing: parameters of the network that kept their own.
        unexpected: entries of the checkpoint that found no place.
        mismatched: entries whose shape differs, as (name, checkpoint's shape, network's shape).
    """

    kind: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __str__(self) -> str:
        def some(names: tuple, most: int = 4) -> str:
            more = f", and {len(names) - most} more" if len(names) > most else ""
            return f" ({', '.join(map(str, names[:most]))}{more})" if names else ""

        return (
            f"{self.kind}: {len(self.loaded)} parameters loaded; {len(self.missing)} missing{some(self.missing)}; "
            f"{len(self.unexpected)} unexpected{some(self.unexpected)}; "
            f"{len(self.mismatched)} of another shape{some(self.mismatched)}"
        )


@dataclass(frozen=True)
class CheckpointKind:
    """A family of public checkpoints: how to tell it, and the names of ours that each of its names fills."""

    name: str
    signature: str  # a pattern that some parameter name matches
    targets: Callable[[str, int], list[str]] | None = None  # (its name, number of stages) -> our names; None: no use


def _mirror_into_decoder(name: str, stages: int) -> list[str]:
    """An encoder stage fills its own and the decoder stage of the same resolution. Source: Swin-Unet's loading code."""
    match = re.match(r"layers\.(\d+)\.(blocks\..+)", name)
    return [name, f"layers_up.{stages - 1 - int(match[1])}.{match[2]}"] if match else [name]


# The first kind whose signature matches some name is it.
KINDS: tuple[CheckpointKind, ...] = (
    CheckpointKind(
        "Mamba-UNet",
        r"^(mamba_unet\.)?layers_up\.\d+\.blocks\.\d+\.self_attention\.A_logs$",
        lambda name, stages: [name.removeprefix("mamba_unet.")],
    ),
    CheckpointKind(
        "VMamba ImageNet (vssm, 2024-01)",
        r"^layers\.\d+\.blocks\.\d+\.self_attention\.A_logs$",
        lambda name, stages: [] if name.startswith("head.") else _mirror_into_decoder(name, stages),
    ),
    CheckpointKind("VMamba ImageNet in its later form (v05 and on)", r"\.op\.(x_proj_weight|A_logs)$"),
    CheckpointKind("Swin-Unet", r"layers_up\..*relative_position_bias_table$"),
    CheckpointKind("Swin Transformer", r"relative_position_bias_table$"),
    CheckpointKind("TransUNet or Vision Transformer", r"(Transformer/encoderblock|transformer\.encoder|cls_token)"),
    CheckpointKind("a Mamba language model", r"\.mixer\.(A_log|x_proj)"),
    CheckpointKind("ResNet", r"^layer1\.0\.conv1\.weight$"),
    CheckpointKind("a convolutional U-Net", r"^(encoder\.in_conv|inc\.|encoder\.conv)"),
)


def read_weights(path: str | Path) -> Weights:
    """Tensors by name in a `.safetensors` file or a PyTorch checkpoint, without unpickling foreign code.

    The tensors may lie under `model`, `state_dict` or `model_state_dict`; a `module.` prefix is dropped.

    Raises:
        FileNotFoundError: no such file.
        PretrainedError: not a checkpoint, or one that needs code to be unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        weights = load_file(path)
    else:
        try:
            # VMamba and Swin save their configuration beside the weights; read as an ordered dict it runs nothing
            with torch.serialization.safe_globals([(OrderedDict, "yacs.config.CfgNode")]):
                weights = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            raise PretrainedError(
                f"{path} cannot be read as a PyTorch checkpoint of plain tensors: {error}. Is the download complete? "
                "If it holds other objects and you trust it, save its tensors alone: "
                "torch.save(torch.load(path, weights_only=False)['model'], 'tensors.pth')"
            ) from error
        for key in ("model", "state_dict", "model_state_dict"):
            if isinstance(weights, Mapping) and isinstance(weights.get(key), Mapping):
                weights = weights[key]
                break
    tensors = isinstance(weights, Mapping) and {k: v for k, v in weights.items() if isinstance(v, Tensor)}
    if not tensors:
        raise PretrainedError(f"{path} holds no tensors by name; expected a network's state dict")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def identify(weights: Mapping[str, Tensor]) -> CheckpointKind | None:
    """Which public checkpoint these weights look like, by their names; None for none that is known."""
    for kind in KINDS:
        if any(re.search(kind.signature, name) for name in weights):
            return kind
    return None


def _fit_channels(name: str, value: Tensor, parameter: Tensor) -> Tensor:
    """Sum 3-channel filters for a 1-channel network: the same function as repeating the channel three times."""
    if name == "patch_embed.proj.weight" and value.shape[1] == 3 and parameter.shape[1] == 1:
        return value.sum(dim=1, keepdim=True)
    return value


@torch.no_grad()
def load_pretrained(model: nn.Module, path: str | Path) -> LoadReport:
    """Fill a Mamba-UNet from a public checkpoint: VMamba-Tiny's ImageNet weights, or weights released for Mamba-UNet.

    VMamba's stages fill the encoder and, mirrored, the decoder; its classifier is left out. A class head of another
    size keeps its own values, which the report says.

    Raises:
        FileNotFoundError: no such file.
        PretrainedError: another kind of file, which the message names, or nothing in it fits.
    """
    weights = read_weights(path)
    kind = identify(weights)
    if kind is None or kind.targets is None:
        looks = f"it looks like {kind.name}" if kind else f"its names are unknown, such as {next(iter(weights))!r}"
        usable = " or ".join(k.name for k in KINDS if k.targets)
        raise PretrainedError(f"{path} is not a checkpoint for {type(model).__name__}: {looks}; expected {usable}")

    parameters = model.state_dict()
    stages = len(model.layers)
    loaded, unexpected, mismatched = [], [], []
    for name, value in weights.items():
        targets = [target for target in kind.targets(name, stages) if target in parameters]
        if not targets:
            unexpected.append(name)
        for target in targets:
            fitted = _fit_channels(target, value, parameters[target])
            if fitted.shape == parameters[target].shape:
                parameters[target].copy_(fitted)
                loaded.append(target)
            else:
                mismatched.append((target, tuple(value.shape), tuple(parameters[target].shape)))
    if not loaded:
        raise PretrainedError(f"{path} looks like {kind.name}, but no parameter has this network's shape: {mismatched}")
    missing = tuple(name for name in parameters if name not in set(loaded))
    return LoadReport(kind.name, tuple(loaded), missing, tuple(unexpected), tuple(mismatched))
