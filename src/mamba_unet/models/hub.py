"""`from_pretrained`, `save_pretrained` and `push_to_hub` for every network, through huggingface_hub's mixin."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelCard, PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors.torch import load_file
from torch import Tensor

from mamba_unet import __version__
from mamba_unet.models.card import model_card
from mamba_unet.models.checkpoint import (
    CheckpointError,
    CheckpointMetadata,
    describe,
    find_checkpoint,
    read_metadata,
    refuse_non_finite,
    save_checkpoint,
    slices_preprocessing,
    weights_digest,
)


class HubModel(
    PyTorchModelHubMixin, library_name="mamba-unet", tags=["image-segmentation"], pipeline_tag="image-segmentation"
):
    """Adds to the mixin that a network's `metadata` travels in the header of `model.safetensors`, and a model card.

    Pickled weights (`pytorch_model.bin`) are never read.
    """

    metadata: CheckpointMetadata | None = None
    described_weights: str | None = None  # the digest of those that `metadata` is of; see `checkpoint.describe`

    def __new__(cls, *args: Any, **kwargs: Any) -> "HubModel":
        # the mixin keeps what JSON holds and takes the default for all else
        return super().__new__(cls, *map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        class_names: Sequence[str] | None = None,
        preprocessing: Any = None,
        license: str | None = None,
        evaluations: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Write a folder that `from_pretrained` and, where the network has metadata, `mamba-unet predict` take.

        A network from `mamba-unet train` has its metadata. Where its weights have changed since it was loaded, what was
        measured of the old ones is left out. One that was trained in another loop gets its metadata here:

            model.save_pretrained(
                "heart",
                class_names=["background", "ventricle"],
                preprocessing={"intensity": {"method": "minmax"}, "image_size": (224, 224)},
            )

        Its README.md is a model card, see `card.model_card`; one that is there already is left as it is.

        Args:
            save_directory: to write.
            class_names: of every class; the first is background.
            preprocessing: how images were prepared: `views.preprocessing.Preprocessing` or its JSON; or, for slices
                that are resized, `intensity` (a rule, or a list with one for each channel), `image_size` and, where
                known, `orientation` of the training arrays, "SPL".
            license: of the weights, as the hub names it ("cc-by-4.0") or in words.
            evaluations: name of a split or data set -> what `mamba_unet.evaluate` gave for it, for the card.
            kwargs: as huggingface_hub's mixin takes them.

        Raises:
            ValueError: only one of `class_names` and `preprocessing` is given to a network without metadata, or they
                do not fit it.
        """
        self._describe(class_names, preprocessing, license, evaluations)
        return super().save_pretrained(save_directory, **kwargs)

    def push_to_hub(
        self, repo_id: str, *, license: str | None = None, evaluations: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> str:
        """Publish the network with its model card on the Hugging Face Hub; arguments as `save_pretrained` has them."""
        self._describe(None, None, license, evaluations)
        return super().push_to_hub(repo_id, **kwargs)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """See `card.model_card`; that of the mixin where nothing is known about the network."""
        if self.metadata is None:
            return super().generate_model_card(*args, **kwargs)
        return ModelCard(model_card(self.metadata, sum(one.numel() for one in self.parameters())))

    def _describe(
        self,
        class_names: Sequence[str] | None,
        preprocessing: Any,
        license: str | None,
        evaluations: Mapping[str, Any] | None,
    ) -> None:
        """Add what was said to the network's metadata, if anything was."""
        from mamba_unet.models.registry import name_of  # which imports the networks, and they this module

        said = {
            "class_names": class_names and list(class_names),
            "license": license,
            "evaluations": evaluations and {name: _summary(one) for name, one in evaluations.items()},
        }
        said = {key: value for key, value in said.items() if value}
        if self.described_weights is not None and self.described_weights != weights_digest(self):
            describe(self, _without_measures(self.metadata))
        config = dict(self._hub_mixin_config)
        if preprocessing is not None:
            said["preprocessing"] = _preprocessing_json(preprocessing, config["in_channels"])
        if not said:
            return
        known = ({} if self.metadata is None else asdict(self.metadata)) | said
        if absent := {"class_names", "preprocessing"} - known.keys():
            raise ValueError(f"to predict with this network, {' and '.join(sorted(absent))} must be given too")
        if len(known["class_names"]) != config["num_classes"]:
            raise ValueError(
                f"the network has {config['num_classes']} classes, background included; got the names "
                f"{', '.join(known['class_names'])}"
            )
        describe(self, CheckpointMetadata(**{"model": name_of(self), "config": config, "version": __version__} | known))

    def _save_pretrained(self, save_directory: Path) -> None:
        save_checkpoint(save_directory / SAFETENSORS_SINGLE_FILE, self, self.metadata)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        strict: bool = True,
        **model_kwargs: Any,
    ) -> "HubModel":
        from mamba_unet.models.registry import build_model

        if Path(model_id).is_dir():
            path = find_checkpoint(model_id)  # that of a run folder too
        else:
            path = hf_hub_download(
                model_id,
                SAFETENSORS_SINGLE_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        metadata = read_metadata(path)
        if metadata is None:
            model = cls(**model_kwargs)
        else:  # a run folder has no configuration but this one
            model = build_model(metadata.model, **{**metadata.config, **model_kwargs})
            if not isinstance(model, cls):
                raise CheckpointError(
                    f"{model_id} holds a {metadata.model}, not a {cls.__name__}; "
                    f"take {type(model).__name__}.from_pretrained, or mamba_unet.models.loading.load for any network"
                )
        weights = load_file(path, device=map_location)
        refuse_non_finite(path, weights)
        model.load_state_dict(weights, strict=strict)
        if metadata is not None and model_kwargs:
            config, before = model._hub_mixin_config, build_model(metadata.model, **metadata.config)._hub_mixin_config
            if _plain(config) != _plain(before):  # another function of the weights
                metadata = _without_measures(replace(metadata, config=config))
        describe(model, metadata)
        return model.eval()


def _plain(value: Any) -> Any:
    """numpy's and torch's numbers as Python's, wherever they are."""
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, dict) else value


def _without_measures(metadata: CheckpointMetadata) -> CheckpointMetadata:
    """Of a network that was changed since, by images that nothing tells."""
    before = f"{metadata.learned_from}, " if metadata.learned_from else ""
    further = f"{before}then changed outside of mamba-unet: lineage does not list the images of that"
    known = asdict(metadata) | {"learned_from": further}
    for field in ("fingerprint", "validation", "patients", "evaluations"):
        del known[field]
    return CheckpointMetadata(**known)


def _summary(evaluation: Any) -> dict[str, Any]:
    """Of an `Evaluation`, or one as it lies in a run's summary.json."""
    return dict(evaluation) if isinstance(evaluation, Mapping) else evaluation.summary()


def _preprocessing_json(given: Any, channels: int) -> dict[str, Any]:
    if hasattr(given, "to_json"):
        given = given.to_json()
    if "format" not in given:
        if not {"intensity", "image_size"} <= given.keys() <= {"intensity", "image_size", "orientation"}:
            raise ValueError(
                f"preprocessing needs intensity and image_size, and may have orientation; got {', '.join(given)}"
            )
        rules = given["intensity"]
        rules = [rules] * channels if isinstance(rules, Mapping) else rules
        given = slices_preprocessing(rules, given["image_size"], given.get("orientation"))
    if len(given["intensity"]) != channels:
        raise ValueError(f"the network has {channels} channels; got intensity rules for {len(given['intensity'])}")
    return dict(given)
