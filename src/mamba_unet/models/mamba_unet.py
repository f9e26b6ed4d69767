"""Mamba-UNet: a U-Net whose encoder and decoder stages are VSS blocks."""

from collections.abc import Sequence

from mamba_unet.models.hub import HubModel
from mamba_unet.models.staged_unet import StagedUNet
from mamba_unet.models.vss import VSSBlock


class MambaUNet(StagedUNet, HubModel):
    """(B, in_channels, H, W) -> logits (B, num_classes, H, W), for any H and W.

    An image whose sides are not multiples of `stride` (32 for four stages) is padded at its right and bottom by
    repeating the last column and row, and the logits are cropped back; no other size is changed.

    Args:
        in_channels: image channels; 1 for MRI and CT.
        num_classes: classes including background.
        depths: VSS blocks per encoder stage; the decoder mirrors them.
        dims: channels per stage, each twice the one before.
        d_state: size of the scan's hidden state.
        drop_path_rate: stochastic depth of the deepest block, rising linearly from 0.
        use_checkpoint: gradient checkpointing: keep only each block's input while training.
        scan: "selective" is Mamba-UNet; "identity" and "dwconv" are its controls, see `VSSBlock`.
        stem: "patch" is Mamba-UNet; "conv" adds convolutions at full and half resolution, see `ConvStem`.

    Raises:
        ValueError: depths and dims do not fit together, or an unknown scan or stem.

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
    ) -> None:
        def block(stage: int, position: int, rate: float) -> VSSBlock:
            return VSSBlock(dims[stage], d_state, rate, scan)

        super().__init__(in_channels, num_classes, depths, dims, drop_path_rate, block, use_checkpoint, stem)
