"""`from_pretrained`, `save_pretrained` and `push_to_hub` for every network, through huggingface_hub's mixin."""

from pathlib import Path
from typing import Any

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from safetensors.torch import load_file

from mamba_unet.models.checkpoint import CheckpointMetadata, read_metadata, save_checkpoint


class HubModel(PyTorchModelHubMixin, library_name="mamba-unet", tags=["image-segmentation"]):
    """Adds to the mixin that a network's `metadata` travels in the header of `model.safetensors`.

    Pickled weights (`pytorch_model.bin`) are never read.
    """

    metadata: CheckpointMetadata | None = None

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
        if Path(model_id).is_dir():
            path = Path(model_id) / SAFETENSORS_SINGLE_FILE
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
        model = cls(**model_kwargs)
        model.load_state_dict(load_file(path, device=map_location), strict=strict)
        model.metadata = read_metadata(path)
        return model.eval()
