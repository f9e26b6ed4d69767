"""Mamba-UNet: a U-Net whose encoder and decoder stages are VSS blocks."""

from collections.abc import Sequence

from mamba_unet.models.hub import HubModel
from mamba_unet.models.levels import volume_levels
from mamba_unet.models.staged_unet import StagedUNet, number_of_levels
from mamba_unet.models.vss import VSSBlock


class MambaUNet(StagedUNet, HubModel):
    """(B, in_channels, H, W) -> logits (B, num_classes, H, W); with three axes (B, in_channels, D, H, W) likewise.

    The image may have any size. One whose sides are not multiples of `stride` (32 for four stages; in a volume as its
    spacing has it) is padded at the end of each axis by repeating its last row, column or slice, and the logits are
    cropped back; no other size is changed.

    Args:
        in_channels: image channels; 1 for MRI and CT.
        num_classes: classes including background.
        depths: VSS blocks per encoder stage; the decoder mirrors them.
        dims: channels per stage, each twice the one before.
        d_state: size of the scan's hidden state.
        drop_path_rate: stochastic depth of the deepest block, rising linearly from 0.
        use_checkpoint: gradient checkpointing: keep only each block's input while training.
        scan: "selective" is Mamba-UNet; "identity" and "dwconv" are its controls, see `VSSBlock`.
        stem: "patch" is Mamba-UNet; "conv" adds convolutions at full and half resolution, see `StagedUNet`.
        spatial_dims: 2 for images, 3 for volumes.
        spacing: of the volumes it will see, of D, H, W, in any unit: from it follows which axes a stage shrinks, see
            `volume_levels`. None is taken as slices four times as thick as pixels are wide.
        patch_size: of D, H, W, in voxels, of the patches it will be trained on: short axes are shrunk less. None sets
            no limit. Volumes of any other size are taken all the same.
        scan_from: first stage, counted from 0, whose blocks have the scan; those before have none, as in the control
            "identity". In an image a stage has four times the positions of the next one, so the first stages' scans
            take most of the time.

    Raises:
        ValueError: depths and dims do not fit together, no stage is left with a scan, an unknown scan or stem, or a
            spacing or patch size for images.

    State-dict names are those of the checkpoints released for Mamba-UNet, without their `mamba_unet.` prefix.
    Source: Mamba-UNet (arXiv 2402.05079), Figure 2; 19,121,664 parameters at the default sizes, 3 channels, 4 classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 4,
        depths: Sequence[int] = (2, 2, 2, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        d_state: int = 16,
        drop_path_rate: float = 0.2,
        use_checkpoint: bool = False,
        scan: str = "selective",
        stem: str = "patch",
        spatial_dims: int = 2,
        spacing: Sequence[float] | None = None,
        patch_size: Sequence[int] | None = None,
        scan_from: int = 0,
    ) -> None:
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        if spatial_dims == 2 and (spacing is not None or patch_size is not None):
            raise ValueError("spacing and patch_size shape a network for volumes; with spatial_dims 2 leave them out")
        if type(scan_from) is not int or not 0 <= scan_from < len(dims):
            raise ValueError(f"scan_from is a stage from 0 to {len(dims) - 1}, got {scan_from}")
        levels = None if spatial_dims == 2 else volume_levels(number_of_levels(dims), spacing, patch_size)

        def block(stage: int, position: int, rate: float) -> VSSBlock:
            return VSSBlock(dims[stage], d_state, rate, scan if stage >= scan_from else "identity", spatial_dims)

        super().__init__(in_channels, num_classes, depths, dims, drop_path_rate, block, use_checkpoint, stem, levels)
