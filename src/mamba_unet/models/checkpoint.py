"""Our checkpoints: safetensors whose header says what the network is and how its images are to be prepared."""

import difflib
import hashlib
import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mamba_unet import __version__
from mamba_unet.files import atomic_path, sha256
from mamba_unet.words import printable

log = logging.getLogger(__name__)

HEADER_KEY = "mamba_unet"
STEM_NORM = "stem.level0.0.1"  # the first normalisation of a convolutional stem
FILE_NAMES = ("best.safetensors", "model.safetensors")  # as `train` and as `save_pretrained` write them
HUB = "hf:"  # what a hub id begins with: a path that is missing must not be asked of strangers
HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"  # owner/name


# The trained networks of the repository's folder checkpoints/: name -> file and sha256. An installation from a
# clone has them in the package; published wheels have none, because their terms are not those of the code.
SHIPPED_FOLDERS = (Path(__file__).parents[1] / "checkpoints", Path(__file__).parents[3] / "checkpoints")
SHIPPED = {
    "acdc": (
        "acdc_mamba_unet_fine.safetensors",
        "642ea92906a4f036864d91f76c1ff2300628265bcf5bca743e36a2920117c703",
    )
}


class CheckpointError(ValueError):
    """A file is not a checkpoint of ours, or is damaged."""


@dataclass(frozen=True)
class CheckpointMetadata:
    """What a trained network needs beside its weights, kept in the safetensors header.

    Attributes:
        model: name in the registry.
        config: constructor arguments of the network.
        class_names: name of each class; the first is background.
        preprocessing: how images are brought to the network, as `views.preprocessing.Preprocessing.to_json` says it.
        dataset: name of the data set.
        fingerprint: of the prepared data the network was trained on.
        version: of this package.
        validation: metrics on the validation patients that chose this checkpoint, and the step.
        label_values: the stored value of each class in the labels of the training data; empty where unknown.
        lineage: hashes of the images that this network, and those it started from, were trained or chosen on.
        patients: split -> how many patients, of the splits that it was trained and chosen on.
        license: of the weights; empty where nobody said it.
        evaluations: name of a split or data set -> `evaluation.summary.Evaluation.summary` of it.
        seen: what the training cases are like, as `inference.fit.describe_training` says it; empty where unknown.
        channel_names: one for each channel; empty where nothing names them.
        learned_from: whose labels or scribbles, and whose images without, in words; empty where unknown.
    """

    model: str
    config: Mapping[str, Any]
    class_names: Sequence[str]
    preprocessing: Mapping[str, Any]
    dataset: str = ""
    fingerprint: str = ""
    version: str = ""
    validation: Mapping[str, Any] = field(default_factory=dict)
    label_values: Sequence[int] = field(default_factory=list)
    lineage: Sequence[str] = field(default_factory=list)
    patients: Mapping[str, int] = field(default_factory=dict)
    license: str = ""
    evaluations: Mapping[str, Any] = field(default_factory=dict)
    seen: Mapping[str, Any] = field(default_factory=dict)
    channel_names: Sequence[str] = field(default_factory=list)
    learned_from: str = ""


def save_checkpoint(path: str | Path, model: nn.Module, metadata: CheckpointMetadata | None) -> None:
    """Write the model's weights and the metadata as one safetensors file, atomically; equal ones as equal bytes."""
    header = {"format": "pt"} | ({} if metadata is None else {HEADER_KEY: json.dumps(asdict(metadata))})
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:  # safetensors' own writer ignores the umask and hides the system's error
        temporary.write_bytes(_in_order(save(weights, header)))


def weights_digest(model: nn.Module) -> str:
    """A hash of all weights: it changes when one of them does."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def describe(model: nn.Module, metadata: CheckpointMetadata | None) -> None:
    """Say what a network's weights are, as they are now, so that `save_pretrained` writes it again."""
    model.metadata = metadata
    model.described_weights = None if metadata is None else weights_digest(model)


def refuse_non_finite(path: str | Path, weights: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError where a weight is NaN or infinite."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(
                f"{path} holds NaN or infinite weights ({name}): the training that wrote it went wrong; take an "
                "earlier checkpoint, or train again with a lower learning rate"
            )


def _in_order(stored: bytes) -> bytes:
    """A safetensors file with the keys of its metadata sorted: the library writes them in an order of chance."""
    end = 8 + int.from_bytes(stored[:8], "little")
    header = json.loads(stored[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the weights begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + stored[end:]


def write_metadata(path: str | Path, metadata: CheckpointMetadata) -> None:
    """Give a safetensors file another header, atomically; its weights stay as they are, bit for bit."""
    header = {"format": "pt", HEADER_KEY: json.dumps(asdict(metadata))}
    weights = load_file(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(weights, header))


def read_metadata(path: str | Path) -> CheckpointMetadata | None:
    """The metadata in a safetensors file's header, or in an ONNX file; None if a file has weights only.

    Raises:
        CheckpointError: the file is neither, or is damaged.
    """
    header, names = _header(path)
    if HEADER_KEY not in header:
        return None
    try:
        fields = json.loads(header[HEADER_KEY])
        if not isinstance(fields, dict):
            raise TypeError(f"{HEADER_KEY} is a {type(fields).__name__}")
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is damaged ({error}); copy it again") from error
    try:
        metadata = CheckpointMetadata(**_renewed(fields, names))
        _check(metadata)
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} was written by mamba-unet {printable(str(fields.get('version', 'unknown')))[:40]} and cannot be "
            f"understood by this one, {__version__} ({printable(str(error))[:300]}); install that version"
        ) from error
    return metadata


def _header(path: str | Path) -> tuple[Mapping[str, str], Collection[str]]:
    """What stands in a file's header, and the names of its weights; an ONNX file needs no names."""
    match Path(path).suffix:
        case ".onnx":
            from mamba_unet.models.onnx_network import read_manifest

            return read_manifest(path), ()
        case ".pt2":
            raise CheckpointError(
                f"{path} is a program of torch.export: load it by torch.export.load. Predictions are made with the "
                "checkpoint it was exported from, or with its ONNX file"
            )
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, set(file.keys())
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); "
            "expected best.safetensors of a training run or model.safetensors of save_pretrained"
        ) from error


def _check(metadata: CheckpointMetadata) -> None:
    """Refuse fields of other types: a damaged header says so here, and not where it is used."""
    types = {"model": str, "config": dict, "class_names": list, "preprocessing": dict, "lineage": list}
    types |= {"patients": dict, "license": str, "learned_from": str, "evaluations": dict, "seen": dict}
    wrong = [name for name, kind in types.items() if not isinstance(getattr(metadata, name), kind)]
    if wrong or not metadata.class_names or not all(isinstance(name, str) for name in metadata.class_names):
        raise TypeError(f"{', '.join(wrong) or 'class_names'} of another type than expected")


def _renewed(fields: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Metadata of earlier versions in today's words: the preprocessing of 0.1.0 was three fields, and the convolutional
    stem, which its weights tell, was the one that is `conv_group` now."""
    if f"{STEM_NORM}.weight" in names and f"{STEM_NORM}.running_mean" not in names:
        fields["config"] = {**fields["config"], "stem": "conv_group"}
    if "preprocessing" in fields:
        return fields
    intensity, size, orientation = (fields.pop(name) for name in ("intensity", "image_size", "orientation"))
    return {**fields, "preprocessing": slices_preprocessing([intensity], size, orientation)}


def slices_preprocessing(
    intensity: Sequence[Mapping[str, Any]], size: Sequence[int], orientation: str | None
) -> dict[str, Any]:
    """The JSON of `views.preprocessing.Preprocessing` for slices that are resized to `size`, the rest by default."""
    view = {"kind": "slices", "size": list(size)}
    return {"format": 1, "intensity": list(intensity), "orientation": orientation, "view": view}


def find_checkpoint(path: str | Path) -> Path:
    """The safetensors file meant by a file or folder that `train` or `save_pretrained` wrote, by a hub id, or by the
    name of a network of the repository (`SHIPPED`).

    `hf:owner/name` is fetched from the Hugging Face Hub into its cache; only `model.safetensors`, which cannot hold
    code. Nothing else is ever asked of it.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: the repository's file is not the one that was measured.
    """
    if str(path).startswith(HUB):
        return _fetch(str(path).removeprefix(HUB))
    path = Path(path)
    if path.is_dir():
        for name in FILE_NAMES:
            if (path / name).is_file():
                return path / name
    is_run = any((path / name).is_file() for name in ("recipe.yaml", "last.ckpt"))  # of that very name, still without
    if str(path) in SHIPPED and not path.is_file() and not is_run:
        return _shipped(str(path))
    if path.is_dir():
        raise FileNotFoundError(f"no checkpoint in {path}: expected {' or '.join(FILE_NAMES)} there")
    if not path.is_file():
        meant = re.fullmatch(HUB_ID, path.as_posix()) and path.suffix != ".safetensors"
        hub = f"; a model of the Hugging Face Hub is written {HUB}{path.as_posix()}" if meant else ""
        near = difflib.get_close_matches(str(path), SHIPPED, n=1)
        known = f"; did you mean {near[0]!r}, which ships with the package?" if near else ""
        raise FileNotFoundError(
            f"no checkpoint at {path}: expected a .safetensors file or a folder that holds one{known or hub}"
        )
    return path


def _shipped(name: str) -> Path:
    file, digest = SHIPPED[name]
    path = next((path for folder in SHIPPED_FOLDERS if (path := folder / file).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{name!r} is no path here, and the network of that name is not in this installation: it lies in the "
            f"repository as checkpoints/{file}; give the path of that file, or run `pip install .` in a clone"
        )
    if sha256([path]) != digest:
        raise CheckpointError(f"{path} is not the file that was measured (its sha256 differs); fetch it again")
    return path


def _fetch(hub_id: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    if not re.fullmatch(HUB_ID, hub_id):
        raise FileNotFoundError(f"{HUB}{hub_id}: expected {HUB}owner/name")
    log.info("fetching %s of %s from the Hugging Face Hub", FILE_NAMES[1], hub_id)
    try:
        return Path(hf_hub_download(hub_id, FILE_NAMES[1]))
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{HUB}{hub_id}: {FILE_NAMES[1]} could not be fetched from the Hugging Face Hub "
            f"({str(error).splitlines()[0]})"
        ) from error
