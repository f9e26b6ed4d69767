"""nnU-Net's trainer with Mamba-UNet in place of its U-Net; written for nnU-Net 2.8.

nnU-Net finds a trainer by its name in the folder that nnUNet_extTrainer names, and imports the files there as modules
outside any package. Of nnU-Net, the network and the optimiser are replaced and nothing else.
"""

from dataclasses import replace
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from mamba_unet.models.registry import model_spec
from mamba_unet.nnunet import PlannedNetwork
from mamba_unet.training.optimizer import build_optimizer
from mamba_unet.training.recipe import load_recipe


class nnUNetTrainerMambaUNet(nnUNetTrainer):
    """Mamba-UNet of the paper, for slices.

    The optimiser is that of our recipe `scratch_2d`, for a network from random weights, without its warm-up and its
    average of the weights: AdamW, no weight decay where it would only harm. nnU-Net's own is for its U-Net. The
    learning rate falls as in nnU-Net.

    Args:
        plans, configuration, fold, dataset_json, device: nnU-Net's, which looks them up by these names.

    Attributes:
        initial_lr, weight_decay: the recipe's; a subclass may set others.
        network_name, network_size, network_arguments: for `PlannedNetwork`; a subclass may set others.
    """

    network_name = "mamba_unet"
    network_size = "tiny"
    network_arguments: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.recipe = load_recipe("scratch_2d").optimizer
        self.initial_lr, self.weight_decay = self.recipe.lr, self.recipe.weight_decay

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> PlannedNetwork:
        """The network, for training and, without deep supervision, for prediction."""
        patch, axes = configuration_manager.patch_size, model_spec(cls.network_name).spatial_dims
        if len(patch) != axes:
            kind, remedy = ("slices", "2d") if axes == 2 else ("volumes", "3d_fullres")
            raise ValueError(
                f"{cls.__name__} segments {kind}, but this configuration has patches of {tuple(patch)}; take nnU-Net's "
                f"configuration {remedy}"
            )
        shape = {} if axes == 2 else {"spacing": configuration_manager.spacing, "patch_size": patch}
        return PlannedNetwork(
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            network=cls.network_name,
            size=cls.network_size,
            **shape,
            **cls.network_arguments,
        )

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """Those of the network's own outputs; nnU-Net would take those of the U-Net in the plans."""
        if not self.enable_deep_supervision:
            return None
        network = self.network.module if self.is_ddp else self.network
        return getattr(network, "_orig_mod", network).scales  # of a compiled network

    def configure_optimizers(self):
        recipe = replace(self.recipe, lr=self.initial_lr, weight_decay=self.weight_decay)
        optimizer, _ = build_optimizer(self.network, recipe, iterations=self.num_epochs)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)


class nnUNetTrainerMambaUNetFine(nnUNetTrainerMambaUNet):
    """With convolutions at full and half resolution around it."""

    network_name = "mamba_unet_fine"


class nnUNetTrainerMambaUNetNoScan(nnUNetTrainerMambaUNet):
    """The control: the same network without its scan."""

    network_name = "mamba_unet_no_scan"


class nnUNetTrainerMambaUNet3D(nnUNetTrainerMambaUNet):
    """For volumes, at half width; it shrinks the axes as the spacing of the plans asks."""

    network_name = "mamba_unet_3d"
    network_size = "mini"


class nnUNetTrainerMambaUNet3DNoScan(nnUNetTrainerMambaUNet3D):
    """The control for volumes, without its scan."""

    network_name = "mamba_unet_3d_no_scan"
