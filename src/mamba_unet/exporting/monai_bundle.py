"""A network as a MONAI bundle: a folder that MONAI's own commands check, load and run.

It predicts by `mamba_unet.predict`, so that its files are those of `mamba-unet predict`.

configs/metadata.json     what MONAI wants to know of a network
configs/inference.json    the network, and how it is run
models/model.pt           its weights, where MONAI looks for them
models/model.safetensors  the checkpoint, with what is to be done to images
docs/LICENSE, README.md
"""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mamba_unet import __version__
from mamba_unet.exporting.network import Exportable
from mamba_unet.files import write_json, write_text
from mamba_unet.models.checkpoint import HEADER_KEY, CheckpointError, CheckpointMetadata, save_checkpoint
from mamba_unet.words import printable

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
NETWORK = "network_def"  # the key under which MONAI looks for it

LICENSE = """\
The program that made and runs this bundle, mamba-unet, is licensed under the Apache License, Version 2.0:
http://www.apache.org/licenses/LICENSE-2.0

The weights in models/: {terms}
"""

UNSTATED = """\
they may be used as whoever trained them allows, within the terms of the data that they were
trained on: {dataset}. Add those terms here before you pass the bundle on."""

README = """\
# {name}

{model}, trained on {dataset}: {classes}. Research software; not a medical device.

Needs `pip install mamba-unet fire`. In this folder:

```
python -m monai.bundle run --config_file configs/inference.json --meta_file configs/metadata.json \\
    --bundle_root . --dataset_dir path/to/images --output_dir results
```

Images are files or folders of any kind that `mamba-unet predict` takes; results are the same, in the images' geometry.
"""


def write_bundle(path: Path, network: Exportable, image: Tensor, manifest: Mapping[str, str]) -> None:
    """Write the folder `path`."""
    metadata = CheckpointMetadata(**json.loads(manifest[HEADER_KEY]))
    check_words(metadata)
    plain = network.network
    save_checkpoint(path / "models" / "model.safetensors", plain, metadata)
    torch.save({name: tensor.contiguous() for name, tensor in plain.state_dict().items()}, path / "models" / "model.pt")
    size = json.loads(manifest[HEADER_KEY])["preprocessing"]["view"]["size"]
    write_json(path / "configs" / "metadata.json", {**_described(metadata, image.shape[1], size), **manifest})
    write_json(path / "configs" / "inference.json", _inference(metadata))
    dataset = metadata.dataset or "unnamed data"
    terms = metadata.license or UNSTATED.format(dataset=dataset)
    write_text(path / "docs" / "LICENSE", LICENSE.format(terms=terms))
    names = ", ".join(metadata.class_names)
    text = README.format(name=path.name, model=metadata.model, dataset=dataset, classes=names)
    write_text(path / "docs" / "README.md", text)


def check_words(metadata: CheckpointMetadata) -> None:
    """MONAI computes what begins with $, @ or % in a configuration, and calls what _target_ names.

    Raises:
        CheckpointError: the header of a checkpoint, which a stranger may have written, has such words.
    """
    _refuse_expressions(metadata.model, "model")
    _refuse_expressions(metadata.config, "config")
    _refuse_expressions([metadata.dataset, *metadata.class_names, *(metadata.channel_names or ())], "a name")


def _refuse_expressions(said: Any, where: str) -> None:
    if isinstance(said, str) and said.lstrip()[:1] in tuple("$@%"):
        raise CheckpointError(
            f"{where} of the checkpoint is {printable(said[:100])!r}, which a MONAI bundle would run as a program; "
            "export it in another format, or ask its author for one without $, @ and % in front"
        )
    if isinstance(said, Mapping):
        for key, value in said.items():
            if str(key).startswith("_"):
                raise CheckpointError(
                    f"{where} of the checkpoint has {printable(str(key)[:100])!r}, a word of MONAI's own; export it in "
                    "another format"
                )
            _refuse_expressions(key, where)
            _refuse_expressions(value, f"{where}.{printable(str(key))}")
    elif isinstance(said, Sequence) and not isinstance(said, str):
        for value in said:
            _refuse_expressions(value, where)


def _inference(metadata: CheckpointMetadata) -> dict[str, Any]:
    return {
        "imports": ["$from mamba_unet.exporting.monai_bundle import predict_all"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "auto",
        NETWORK: {"_target_": "mamba_unet.build_model", "name": metadata.model, **metadata.config},
        "checkpoint": "$@bundle_root + '/models/model.safetensors'",
        "run": ["$predict_all(@checkpoint, @dataset_dir, @output_dir, @device)"],
    }


def _described(metadata: CheckpointMetadata, channels: int, size: Sequence[int]) -> dict[str, Any]:
    classes = list(metadata.class_names)
    named = metadata.channel_names or [f"channel {number}" for number in range(channels)]
    # a z-score is not clipped
    clipped = all(rule["method"] != "zscore" for rule in metadata.preprocessing["intensity"])
    common = {"spatial_shape": list(size), "dtype": "float32", "is_patch_data": True}
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by mamba-unet {__version__}"},
        "monai_version": importlib.metadata.version("monai"),
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": importlib.metadata.version("numpy"),
        "required_packages_version": {"mamba-unet": __version__},
        "name": f"{metadata.model} {metadata.dataset}".strip(),
        "task": f"segmentation of {', '.join(classes[1:])}",
        "description": f"{metadata.model} of mamba-unet {__version__}, trained on {metadata.dataset or 'unnamed data'}",
        "authors": "whoever trained the network; the program is by the mamba-unet contributors",
        "copyright": "see docs/LICENSE",
        "intended_use": "research; not a medical device",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "n/a",
                    "num_channels": channels,
                    **common,
                    "value_range": [0, 1] if clipped else [],
                    "channel_def": {str(number): name for number, name in enumerate(named)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(classes),
                    **common,
                    "value_range": [],
                    "channel_def": {str(number): name for number, name in enumerate(classes)},
                }
            },
        },
    }


def bundle_network(path: str | Path) -> nn.Module:
    """The network of a bundle with its weights, as MONAI makes it."""
    from monai.bundle import ConfigParser  # takes seconds to import

    parser = ConfigParser(ConfigParser.load_config_file(Path(path) / "configs" / "inference.json"))
    network = parser.get_parsed_content(NETWORK)
    network.load_state_dict(torch.load(Path(path) / "models" / "model.pt", weights_only=True))
    return network.eval()


def predict_all(checkpoint: str | Path, inputs: str | Path, out: str | Path, device: str = "auto") -> None:
    """What a bundle runs: `mamba_unet.predict`. Raises ValueError where images failed, when all are done."""
    from mamba_unet.inference import Predictor, predict_files

    done = predict_files(Predictor(checkpoint, device), [inputs], out, progress=False)
    if done.failures:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in done.failures.items()))
