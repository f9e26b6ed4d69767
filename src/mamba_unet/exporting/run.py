"""From a checkpoint to a file of another program, which is kept only if it gives the checkpoint's answers."""

import copy
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mamba_unet import __version__
from mamba_unet.exporting.monai_bundle import bundle_network, write_bundle
from mamba_unet.exporting.network import Exportable, example
from mamba_unet.exporting.onnx_file import write_onnx
from mamba_unet.exporting.parity import BOUNDS, Difference, compare, images_to_check
from mamba_unet.exporting.torch_file import load_torch, write_torch
from mamba_unet.files import sha256
from mamba_unet.models.checkpoint import HEADER_KEY, find_checkpoint
from mamba_unet.models.loading import load_checkpoint
from mamba_unet.models.onnx_network import ENDING, OnnxNetwork
from mamba_unet.views.preprocessing import Preprocessing

EXPORT_KEY = "mamba_unet_export"
DTYPES = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Format:
    """A kind of file: how its name ends ("" for a folder), how it is written, and how a network comes out of it.

    Attributes:
        precisions: that it can be written in.
        any_size: whether it takes images of any size, or those of the network's view alone.
    """

    ending: str
    write: Callable[[Path, Exportable, torch.Tensor, Mapping[str, str]], None]
    load: Callable[[Path], torch.nn.Module]
    precisions: tuple[str, ...] = tuple(DTYPES)
    any_size: bool = True


FORMATS: Mapping[str, Format] = {
    "onnx": Format(ENDING, write_onnx, OnnxNetwork),
    "torch-export": Format(".pt2", write_torch, load_torch, any_size=False),
    "monai-bundle": Format("", write_bundle, bundle_network, ("float32",)),
}


@dataclass(frozen=True)
class Exported:
    """What `export_model` wrote.

    Attributes:
        path: the file, or the bundle's folder.
        differences: between the checkpoint's logits and the file's, on each image that was tried.
        bytes: the size of it all.
    """

    path: Path
    differences: list[Difference]
    bytes: int


def export_model(
    checkpoint: str | Path,
    out: str | Path,
    format: str = "onnx",
    *,
    precision: str = "float32",
    check_image: str | Path | None = None,
) -> Exported:
    """Write a trained network as a file of another program, with what its images need in a manifest inside.

    Both are run on random images of several sizes, and the file is kept only if they agree.

    Args:
        checkpoint: run folder, checkpoint or hub id.
        out: new file (`.onnx`, `.pt2`), or new folder for a bundle.
        format: "onnx", "torch-export" or "monai-bundle".
        precision: "float32", or "float16" for weights of half the size; images and logits are float32 in both.
        check_image: an image to compare on as well, of any kind that `predict` takes.

    Raises:
        ValueError: an unknown format or precision, `out` is there already or ends in another way, packages are missing,
            or the two give different answers; then nothing is left.
    """
    if format not in FORMATS:
        raise ValueError(f"no network is exported as {format!r}; expected one of {', '.join(FORMATS)}")
    kind, out = FORMATS[format], Path(out)
    if precision not in kind.precisions:
        raise ValueError(f"{format} is written in {' or '.join(kind.precisions)}, not in {precision!r}")
    if out.suffix != kind.ending and kind.ending:
        raise ValueError(f"{out}: a file of {format} ends in {kind.ending}")
    if out.exists():
        raise ValueError(f"{out} is there already; give a new name, or remove it")
    source = find_checkpoint(checkpoint)
    if source.suffix == ENDING:
        raise ValueError(f"{source} was exported before; give the checkpoint it was exported from")

    network, metadata = load_checkpoint(source)
    preprocessing = Preprocessing.from_json(metadata.preprocessing)
    facts = {
        "format": format,
        "precision": precision,
        "checkpoint_sha256": sha256([source]),
        "mamba_unet": __version__,
        "torch": torch.__version__,
    }
    manifest = {HEADER_KEY: json.dumps(asdict(metadata)), EXPORT_KEY: json.dumps(facts)}
    images = images_to_check(source, preprocessing, check_image, kind.any_size)
    exportable = Exportable(copy.deepcopy(network), DTYPES[precision])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        temporary = Path(folder) / out.name
        image = example(preprocessing.channels, preprocessing.view.size, kind.any_size)
        kind.write(temporary, exportable, image, manifest)
        differences = compare(network, kind.load(temporary), images, BOUNDS[precision], str(out))
        files = [file for file in (temporary, *temporary.rglob("*")) if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        os.replace(temporary, out)
    return Exported(out, differences, size)
