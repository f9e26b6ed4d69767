"""Checkpoints into networks: our own as they are, and public ones by which of their names are whose of ours."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mamba_unet.models.baselines.swin_unet import SwinUNet
from mamba_unet.models.baselines.transunet import TransUNet
from mamba_unet.models.baselines.unet import UNet
from mamba_unet.models.checkpoint import (
    CheckpointError,
    CheckpointMetadata,
    describe,
    find_checkpoint,
    read_metadata,
    refuse_non_finite,
)
from mamba_unet.models.fitting import first_convolution, for_channels, inflated, resized
from mamba_unet.models.mamba_unet import MambaUNet
from mamba_unet.models.registry import build_model
from mamba_unet.words import some

Weights = dict[str, Tensor]


class PretrainedError(CheckpointError):
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
        adapted: the first convolution's filters, where they were made for another number of channels.
        inflated: those of `loaded` that were made for images, in a network for volumes; see `fitting.inflated`.
        lineage: hashes of the images that the checkpoint was trained or chosen on, where it is ours.
        preprocessing: how images were brought to it, where it is ours.
    """

    kind: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    adapted: str = ""
    inflated: tuple[str, ...] = ()
    lineage: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        def these(names: tuple) -> str:
            return f" ({some(map(str, names), 4)})" if names else ""

        return (
            f"{self.kind}: {len(self.loaded)} parameters loaded"
            + (f", {len(self.inflated)} of them inflated from images to volumes" if self.inflated else "")
            + f"; {len(self.missing)} missing{these(self.missing)}; "
            f"{len(self.unexpected)} unexpected{these(self.unexpected)}; "
            f"{len(self.mismatched)} of another shape, which keep their own values{these(self.mismatched)}"
            + (f"; {self.adapted}" if self.adapted else "")
        )


Targets = Callable[[str, int], list[str]]  # (a checkpoint's name, the network's number of stages) -> our names
Layout = Callable[[Tensor, Tensor], Tensor]  # (a checkpoint's value, our parameter) -> the value in our arrangement


def _own_name(name: str, stages: int) -> list[str]:
    """Weights released for one of the networks, some of them below its name."""
    return [re.sub(r"^(mamba_unet|swin_unet)\.", "", name)]


def _mirror_into_decoder(name: str, stages: int) -> list[str]:
    """An encoder stage fills its own and the decoder stage of the same resolution. Source: Swin-Unet's loading code."""
    if name.startswith("head."):  # the classifier
        return []
    match = re.match(r"layers\.(\d+)\.(blocks\..+)", name)
    return [name, f"layers_up.{stages - 1 - int(match[1])}.{match[2]}"] if match else [name]


# Parts of the names in Google's R50+ViT-B_16.npz, and ours; replaced in this order.
VISION_TRANSFORMER_NAMES: tuple[tuple[str, str], ...] = (
    (r"^conv_root/", "transformer/embeddings/hybrid_model/root/conv/"),
    (r"^gn_root/", "transformer/embeddings/hybrid_model/root/gn/"),
    (r"^(block\d+/unit\d+)/", r"transformer/embeddings/hybrid_model/body/\1/"),
    (r"/conv_proj/", "/downsample/"),
    (r"^embedding/", "transformer/embeddings/patch_embeddings/"),
    (r"^Transformer/posembed_input/pos_embedding$", "transformer/embeddings/position_embeddings"),
    (r"^Transformer/encoder_norm/", "transformer/encoder/encoder_norm/"),
    (r"^Transformer/encoderblock_(\d+)/", r"transformer/encoder/layer/\1/"),
    (r"/LayerNorm_0/", "/attention_norm/"),
    (r"/LayerNorm_2/", "/ffn_norm/"),
    (r"/MlpBlock_3/Dense_0/", "/ffn/fc1/"),
    (r"/MlpBlock_3/Dense_1/", "/ffn/fc2/"),
    (r"/MultiHeadDotProductAttention_1/", "/attn/"),
    (r"/(kernel|scale)$", "/weight"),
    (r"/", "."),
)


def _from_vision_transformer(name: str, stages: int) -> list[str]:
    for theirs, ours in VISION_TRANSFORMER_NAMES:
        name = re.sub(theirs, ours, name)
    return [name]


def _from_flax(value: Tensor, parameter: Tensor) -> Tensor:
    """Kernels (H, W, in, out) or (in, out), in attention with the heads as an axis; positions with the class token."""
    if value.ndim == parameter.ndim == 4:
        return value.permute(3, 2, 0, 1)
    if value.ndim == parameter.ndim == 3:
        return value[:, 1:]  # the class token comes first and has no place on the grid
    if value.numel() != parameter.numel():
        return value
    return value.reshape(parameter.shape[::-1]).T if parameter.ndim == 2 else value.flatten()


@dataclass(frozen=True)
class CheckpointKind:
    """A family of public checkpoints: how to tell it, which network it is for, and where each of its entries goes."""

    name: str
    signature: str  # a pattern that some parameter name matches
    network: type[nn.Module] | None = None  # None: none of ours
    targets: Targets = _own_name
    layout: Layout = lambda value, parameter: value


# The first kind whose signature matches some name is it.
KINDS: tuple[CheckpointKind, ...] = (
    CheckpointKind(
        "Mamba-UNet",
        r"^(mamba_unet\.)?layers_up\.\d+\.blocks\.\d+\.self_attention\.",  # whose scan may be in no such stage
        MambaUNet,
    ),
    CheckpointKind(
        "VMamba ImageNet (vssm, 2024-01)",
        r"^layers\.\d+\.blocks\.\d+\.self_attention\.A_logs$",
        MambaUNet,
        _mirror_into_decoder,
    ),
    CheckpointKind("VMamba ImageNet in its later form (v05 and on)", r"\.op\.(x_proj_weight|A_logs)$"),
    CheckpointKind("Swin-Unet", r"layers_up\..*relative_position_bias_table$", SwinUNet),
    CheckpointKind(
        "Swin Transformer ImageNet",
        r"^layers\.\d+\.blocks\.\d+\.attn\.relative_position_bias_table$",
        SwinUNet,
        _mirror_into_decoder,
    ),
    CheckpointKind("another Swin Transformer", r"relative_position_bias_table$"),
    CheckpointKind("TransUNet", r"^transformer\.embeddings\.hybrid_model\.root\.conv\.weight$", TransUNet),
    CheckpointKind(
        "Vision Transformer on a ResNet (R50+ViT-B_16)",
        r"^block1/unit1/conv1/kernel$",
        TransUNet,
        _from_vision_transformer,
        _from_flax,
    ),
    CheckpointKind("another Vision Transformer", r"(Transformer/encoderblock|transformer\.encoder|cls_token)"),
    CheckpointKind("U-Net (WSL4MIS, SSL4MIS)", r"^encoder\.in_conv\.conv_conv\.0\.weight$", UNet),
    CheckpointKind("another convolutional U-Net", r"^(encoder\.in_conv|inc\.|encoder\.conv)"),
    CheckpointKind("a Mamba language model", r"\.mixer\.(A_log|x_proj)"),
    CheckpointKind("ResNet", r"^layer1\.0\.conv1\.weight$"),
)

LEAST_LOADED = 0.1  # of a network's parameters, for a checkpoint to be taken for one of it
PREFIXES = ("module.", "model.", "net.")  # of nn.DataParallel, Lightning and people's own modules

# Buffers in public checkpoints that follow from the sizes, and that our networks compute.
COMPUTED = re.compile(r"\.(attn_mask|relative_position_index)$")


def read_weights(path: str | Path) -> Weights:
    """Tensors by name in a `.safetensors` or `.npz` file or a PyTorch checkpoint, without unpickling foreign code.

    In the last, the tensors may lie under `model`, `state_dict` or `model_state_dict`. Prefixes that training code puts
    before every name (`module.`, `model.`, `net.`, `_orig_mod.`) are dropped.

    Raises:
        FileNotFoundError: no such file.
        PretrainedError: not a checkpoint, or one that needs code to be unpickled.
        CheckpointError: NaN or infinite weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        try:
            weights = load_file(path)
        except (SafetensorError, OSError) as error:
            raise PretrainedError(f"{path} is not readable as safetensors: {error}. Is it complete?") from error
    elif path.suffix == ".npz":
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
        except (ValueError, TypeError, OSError, EOFError, BadZipFile) as error:
            raise PretrainedError(f"{path} cannot be read as arrays: {error}. Is the download complete?") from error
    else:
        try:
            # VMamba and Swin save their configuration beside the weights; read as an ordered dict it runs nothing
            with torch.serialization.safe_globals([(OrderedDict, "yacs.config.CfgNode")]):
                weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's unpickler raises whatever its bytes lead to
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise PretrainedError(
                f"{path} cannot be read as a PyTorch checkpoint of plain tensors ({type(error).__name__}). "
                "Is it one, and complete? If it holds other objects and you trust it, save its tensors alone: "
                "torch.save(torch.load(path, weights_only=False)['model'], 'tensors.pth')"
            ) from error
        for key in ("model", "state_dict", "model_state_dict"):
            if isinstance(weights, Mapping) and isinstance(weights.get(key), Mapping):
                weights = weights[key]
                break
    tensors = isinstance(weights, Mapping) and {k: v for k, v in weights.items() if isinstance(v, Tensor)}
    if not tensors:
        raise PretrainedError(f"{path} holds no tensors by name; expected a network's state dict")
    refuse_non_finite(path, tensors)
    return _without_prefixes(tensors)


def _without_prefixes(weights: Mapping[str, Tensor]) -> Weights:
    """Names without what wrappers put before most of them, in any order (`model._orig_mod.`)."""
    weights = {name.replace("_orig_mod.", ""): tensor for name, tensor in weights.items()}
    for prefix in 2 * PREFIXES:
        if sum(name.startswith(prefix) for name in weights) > len(weights) / 2:
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def identify(weights: Mapping[str, Tensor]) -> CheckpointKind | None:
    """Which public checkpoint these weights look like, by their names; None for none that is known."""
    for kind in KINDS:
        if any(re.search(kind.signature, name) for name in weights):
            return kind
    return None


def _kind_for(model: nn.Module, weights: Weights, metadata: CheckpointMetadata | None, where: str) -> CheckpointKind:
    """What the weights are. Raises PretrainedError if they are not for this network."""
    own = set(model.state_dict())
    if metadata is not None and len(own & weights.keys()) > len(own) / 2:
        return CheckpointKind(f"{metadata.model} of mamba-unet {metadata.version}".rstrip(), "", type(model))
    kind = identify(weights)
    if kind is not None and kind.network is not None and isinstance(model, kind.network):
        return kind
    if len(own & weights.keys()) > len(own) / 2:
        return CheckpointKind(f"{type(model).__name__} by its names", "", type(model))
    if metadata is not None:
        looks = f"it is a {metadata.model}"
    elif kind is None:
        looks = f"its names are unknown, such as {next(iter(weights), None)!r}"
    else:
        looks = f"it looks like {kind.name}" + (f", which is for {kind.network.__name__}" if kind.network else "")
    usable = [k.name for k in KINDS if k.network and isinstance(model, k.network)]
    usable += ["what `mamba-unet train` wrote for the same network"]
    raise PretrainedError(
        f"{where} is not a checkpoint for {type(model).__name__}: {looks}; expected {' or '.join(usable)}"
    )


@torch.no_grad()
def load_pretrained(model: nn.Module, where: str | Path) -> LoadReport:
    """Fill a network from one that was trained before, or from a public checkpoint.

    | network | checkpoints |
    |---|---|
    | every one | a run folder, a file or a hub id of ours, for the same network; plain weights under its names |
    | `MambaUNet`, also as a control | VMamba-Tiny of January 2024 (`vssmtiny_dp01_ckpt_epoch_292.pth`), Mamba-UNet's |
    | `SwinUNet` | Swin-T (`swin_tiny_patch4_window7_224.pth`), Swin-Unet's |
    | `TransUNet` | Google's `R50+ViT-B_16.npz`, TransUNet's |
    | `UNet` | WSL4MIS' and SSL4MIS' |

    The stages of VMamba and Swin fill the encoder and, mirrored, the decoder; classifiers are left out. The filters of
    the first convolution are brought to the network's number of channels, see `for_channels`. A class head of another
    size keeps its own values. A network for volumes takes the weights of the same network for images, see `inflated`.
    The report says all of it.

    Raises:
        FileNotFoundError: nothing there.
        PretrainedError: a checkpoint for another network or for none we know, which the message names, another kind of
            convolutional stem, or one of which hardly anything fits.
        CheckpointError: NaN or infinite weights.
    """
    path = Path(where)
    if not path.is_file():
        path = find_checkpoint(where)
    metadata = read_metadata(path) if path.suffix == ".safetensors" else None
    _require_stem(model, metadata, where)
    weights = {name: value for name, value in read_weights(path).items() if not COMPUTED.search(name)}
    kind = _kind_for(model, weights, metadata, str(where))

    parameters = model.state_dict()
    stages = len(getattr(model, "layers", ()))
    first, adapted = first_convolution(model), ""
    loaded, from_images, unexpected, mismatched = [], [], [], []
    for name, value in weights.items():
        targets = [target for target in kind.targets(name, stages) if target in parameters]
        if not targets:
            unexpected.append(name)
        for target in targets:
            parameter = parameters[target]
            fitted = resized(target, kind.layout(value, parameter), parameter)
            if target == first and fitted.ndim > 2 and fitted.shape[1] != parameter.shape[1]:
                before, channels = fitted.shape[1], parameter.shape[1]
                fitted = for_channels(fitted, channels)
                adapted = (
                    f"{target} was made for {before} channels: each of the {channels} gets the sum of its filters"
                    + (f" / {channels}" if channels > 1 else "")
                )
            if fitted.shape != parameter.shape and getattr(model, "spatial_dims", 2) == 3:
                fitted = inflated(model, target, fitted, parameter)
                from_images += [target] * (fitted.shape == parameter.shape)
            if fitted.shape == parameter.shape:
                parameter.copy_(fitted)
                loaded.append(target)
            else:
                mismatched.append((target, tuple(value.shape), tuple(parameter.shape)))
    if len(loaded) < LEAST_LOADED * len(parameters):
        raise PretrainedError(
            f"{where} looks like {kind.name}, but only {len(loaded)} of {len(parameters)} parameters have this "
            f"network's shape, not for example {mismatched[:4]}; give the network the sizes that it was trained with"
        )
    missing = tuple(name for name in parameters if name not in set(loaded))
    lineage, preprocessing = ((), None) if metadata is None else (tuple(metadata.lineage), metadata.preprocessing)
    return LoadReport(
        kind.name,
        tuple(loaded),
        missing,
        tuple(unexpected),
        tuple(mismatched),
        adapted,
        tuple(from_images),
        lineage,
        preprocessing,
    )


def _require_stem(model: nn.Module, metadata: CheckpointMetadata | None, where: str | Path) -> None:
    """Of two kinds of convolutional stem one's weights would fill the other's, and mean something else there."""
    before, now = (metadata.config if metadata else {}).get("stem"), getattr(model, "stem_kind", None)
    if before != now and {before, now} == {"conv", "conv_group"}:
        raise PretrainedError(
            f"{where} was trained with the stem {before!r}, and this network has {now!r}: give the same, "
            f"--model.arguments '{{stem: {before}}}'"
        )


def load_checkpoint(path: str | Path) -> tuple[nn.Module, CheckpointMetadata]:
    """Load a network in eval mode, on the CPU, with its metadata; from a path or hub id, see `find_checkpoint`.

    An ONNX file that `mamba-unet export-model` wrote gives an `OnnxNetwork`, which onnxruntime computes.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: damaged, weights without our metadata, or NaN or infinite weights.
    """
    path = find_checkpoint(path)
    metadata = read_metadata(path)
    if metadata is None:
        raise CheckpointError(
            f"{path} holds weights only: nothing says how images are prepared for them. Use a checkpoint that "
            "`mamba-unet train` wrote, or build the network, load it by mamba_unet.models.loading.load_pretrained and "
            "write it by model.save_pretrained(folder, class_names=..., preprocessing=...)"
        )
    if path.suffix == ".onnx":
        from mamba_unet.models.onnx_network import OnnxNetwork

        model = OnnxNetwork(path)
        model.metadata = metadata
        return model.eval(), metadata
    try:
        weights = load_file(path)
        model = build_model(metadata.model, **metadata.config)
        model.load_state_dict(weights)
    except (SafetensorError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3]) or type(error).__name__
        raise CheckpointError(f"{path} does not hold the network that its header describes: {reason}") from error
    refuse_non_finite(path, weights)
    describe(model, metadata)
    return model.eval(), metadata


def load(where: str | Path) -> nn.Module:
    """A trained network in eval mode, on the CPU, from a run folder, a file or a hub id; `.metadata` says what it is.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: damaged, weights without our metadata, or NaN or infinite weights.
    """
    return load_checkpoint(where)[0]
