"""What a checkpoint is, in words: the facts for a terminal or a page, and the model card for the hub.

Everything is read from the checkpoint's header; no network is built.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from mamba_unet.models.checkpoint import HUB, CheckpointError, CheckpointMetadata, read_metadata
from mamba_unet.tables import Table, number
from mamba_unet.words import printable

PAPER = "https://arxiv.org/abs/2402.05079"
UNKNOWN = "not stated"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalisation: no parameters
USE = (
    "Research and teaching on images like those it was trained on. It names its structures in any image, those that "
    "show none of them too. Not a medical device, not for diagnosis or treatment."
)


def count_parameters(path: str | Path) -> int:
    """Of the network whose weights are in a safetensors file, by its header alone."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if not name.endswith(STATISTICS)]
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)


def facts(metadata: CheckpointMetadata, parameters: int | None = None) -> dict[str, str]:
    """What a checkpoint is, title -> words, in the order in which a person asks.

    Args:
        metadata: of the checkpoint.
        parameters: how many the network has, where that is known.
    """
    said = {"network": metadata.model + (f", {parameters:,} parameters" if parameters else "")}
    sizes = {key: value for key, value in metadata.config.items() if key not in ("in_channels", "num_classes")}
    if sizes:
        said["built with"] = _words(sizes)
    named = f": {', '.join(metadata.channel_names)}" if metadata.channel_names else ""
    said["channels"] = f"{metadata.config.get('in_channels', UNKNOWN)}{named}"
    said["classes"] = f"{len(metadata.class_names)}: {', '.join(metadata.class_names)}"
    preprocessing = metadata.preprocessing
    rules = [_words(rule) for rule in preprocessing.get("intensity", [])]
    said["intensities"] = rules[0] if len(set(rules)) == 1 else "; ".join(rules)
    said["what it sees"] = _words(preprocessing.get("view", {}))
    said["orientation"] = preprocessing.get("orientation") or "as stored"
    said["training data"] = _data(metadata)
    if metadata.learned_from:
        said["learned from"] = metadata.learned_from
    said["chosen by"] = _validation(metadata)
    for name, summary in metadata.evaluations.items():
        said[f"measured on {name}"] = _measured(summary)
    said["licence"] = metadata.license or UNKNOWN
    said["written by"] = f"mamba-unet {metadata.version}" if metadata.version else UNKNOWN
    return said


def describe(path: str | Path) -> dict[str, str]:
    """The facts of a checkpoint's file; of one without metadata, what there is.

    Raises:
        CheckpointError: no safetensors file, or a damaged one.
    """
    metadata = read_metadata(path)
    parameters = None if Path(path).suffix == ".onnx" else count_parameters(path)
    if metadata is None:
        count = "" if parameters is None else f", {parameters:,} parameters"
        return {"network": f"unknown: weights only{count}; nothing says how images are prepared"}
    try:
        said = facts(metadata, parameters)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: its header is damaged ({printable(str(error))[:300]}); copy it again"
        ) from error
    return {title: printable(words) for title, words in said.items()}  # a stranger may have written them


def model_card(metadata: CheckpointMetadata, parameters: int | None = None) -> str:
    """The model card as the Hugging Face Hub reads it: Markdown with a YAML head.

    What nobody said is marked as not stated, so that a reader does not take silence for a promise.
    """
    from huggingface_hub import ModelCardData

    head = ModelCardData(
        **_license(metadata.license),
        library_name="mamba-unet",
        pipeline_tag="image-segmentation",
        tags=["image-segmentation", "medical-imaging", "mamba"],
        **_results(metadata),
    )
    rows = [[title, _cell(words)] for title, words in facts(metadata, parameters).items()]
    structures = ", ".join(metadata.class_names[1:])
    parts = [
        f"# {metadata.model}" + (f" for {metadata.dataset}" if metadata.dataset else ""),
        f"Segments {structures or UNKNOWN}. A network of mamba-unet, after Mamba-UNet ({PAPER}).",
        Table(["", "what it is"], rows, left=(0, 1)).markdown().rstrip(),
        "## Intended use\n\n" + USE,
        "## Data and split\n\n" + _split(metadata),
        "## Metrics\n\n" + _metrics(metadata.evaluations),
        "## How to load\n\n" + _loading(metadata),
        "## Licence\n\n" + (metadata.license or f"{UNKNOWN.capitalize()}: ask whoever published it before use."),
    ]
    return f"---\n{head.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def _words(values: Mapping[str, Any]) -> str:
    """JSON's values as "kind slices, size 224 x 224, depths (2, 2)"; what is not set is left out."""
    shown = []
    for key, value in values.items():
        if isinstance(value, list | tuple):
            value = " x ".join(map(str, value)) if key == "size" else f"({', '.join(map(str, value))})"
        if value is not None:
            shown.append(f"{key} {value}")
    return ", ".join(shown)


def _data(metadata: CheckpointMetadata) -> str:
    said = [metadata.dataset or UNKNOWN]
    if metadata.patients:
        said.append(", ".join(f"{split} {count} patients" for split, count in metadata.patients.items()))
    if metadata.lineage:
        said.append(f"{len(metadata.lineage)} images known by their hashes")
    if metadata.fingerprint:
        said.append(f"fingerprint {metadata.fingerprint[:12]}")
    return "; ".join(said)


def _validation(metadata: CheckpointMetadata) -> str:
    found = metadata.validation
    if "mean_foreground_dice" not in found:
        return UNKNOWN
    step = f" after {found['iteration']:,} iterations" if "iteration" in found else ""
    classes = ", ".join(f"{name} {number(dice, 4)}" for name, dice in found.get("dice", {}).items())
    return f"Dice {number(found['mean_foreground_dice'], 4)} on the validation patients{step}" + (
        f" ({classes})" if classes else ""
    )


def _measured(summary: Mapping[str, Any]) -> str:
    dice = summary["foreground"]["dice"]
    interval = f", 95 % interval {_interval(dice)}" if dice["ci95"] else ""
    return f"Dice {number(dice['mean'], 4)}{interval}; {summary['cases']} cases of {summary['patients']} patients"


def _interval(statistic: Mapping[str, Any]) -> str:
    return "{:.3f} to {:.3f}".format(*statistic["ci95"]) if statistic["ci95"] else "-"


def _split(metadata: CheckpointMetadata) -> str:
    lines = [f"Trained on: {_data(metadata)}.", f"Chosen by: {_validation(metadata)}."]
    lines += [f"Measured on {name}: {_measured(summary)}." for name, summary in metadata.evaluations.items()]
    return "\n\n".join(lines)


def _metrics(evaluations: Mapping[str, Any]) -> str:
    if not evaluations:
        return "Not measured on patients other than those it was chosen on."
    parts = []
    for name, summary in evaluations.items():
        rows = []
        for title, statistics in [*summary["classes"].items(), ("foreground mean", summary["foreground"])]:
            dice, hd95 = statistics["dice"], statistics.get("hd95", {"mean": None})
            rows.append([title, number(dice["mean"], 4), _interval(dice), number(hd95["mean"], 2)])
        unit = summary["distance_unit"]
        table = Table(["", "Dice", "95 % interval", f"HD95 ({unit})" if unit else "HD95"], rows).markdown()
        about = f"intervals by a bootstrap over patients ({summary['bootstrap']['samples']} samples)"
        parts.append(f"{name}, {summary['patients']} patients; {about}. {summary['empty_masks']}\n\n{table.rstrip()}")
    return "\n\n".join(parts)


def _loading(metadata: CheckpointMetadata) -> str:
    shape = f"(B, {metadata.config.get('in_channels', 'C')}, H, W)"
    return (
        "```\npip install mamba-unet\n"
        f"mamba-unet predict {HUB}OWNER/NAME image.nii.gz --out results\n```\n\n"
        "```python\nimport mamba_unet as mu\n\n"
        f'segmentation = mu.Predictor("{HUB}OWNER/NAME")("image.nii.gz")  # prepared as in training\n'
        f'network = mu.load("{HUB}OWNER/NAME")  # {shape} -> logits\n```\n\n'
        "OWNER/NAME is this model on the hub, or the path of a folder without `hf:`."
    )


def _license(words: str) -> dict[str, str]:
    """The head's fields. The hub knows licences by short names; any other is `other` with a name."""
    if not words:
        return {}
    if " " not in words:
        return {"license": words.lower()}
    return {"license": "other", "license_name": "-".join(words.lower().replace(",", "").split())[:60]}


def _results(metadata: CheckpointMetadata) -> dict[str, Any]:
    """The head's results, which the hub shows beside the card."""
    from huggingface_hub import EvalResult

    dataset = metadata.dataset or "unknown"
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=name,
            metric_type="dice",
            metric_name="mean foreground Dice",
            metric_value=round(summary["foreground"]["dice"]["mean"], 4),
        )
        for name, summary in metadata.evaluations.items()
        if summary["foreground"]["dice"]["mean"] is not None
    ]
    return {"model_name": f"{metadata.model} for {dataset}", "eval_results": results} if results else {}


def _cell(words: str) -> str:
    return words.replace("|", "\\|")
