"""Our networks inside nnU-Net: by a trainer of its own kind (`TRAINERS`), or by its plans (`architecture`).

Nothing here imports nnU-Net; only the trainers do, and nnU-Net imports them.
"""

from pathlib import Path

from mamba_unet.nnunet.network import PlannedNetwork, architecture

TRAINERS = Path(__file__).with_name("trainers")  # for nnU-Net's environment variable nnUNet_extTrainer

__all__ = ["TRAINERS", "PlannedNetwork", "architecture"]
