"""Slices through one or several networks and back to their own size.

B slices, H W rows and columns of a slice as stored; h w a network's image size; K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamba_unet.views.slices import resample_slice

# the symmetries of the square, (quarter turns, mirrored); the first is the identity
SYMMETRIES = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)]


@dataclass(frozen=True)
class Member:
    """One network of an ensemble, which may have one member.

    Attributes:
        model: (B, 1, h, w) -> logits (B, K, h, w), in eval mode, on its device.
        image_size: (h, w) that slices are resampled to for it.
    """

    model: nn.Module
    image_size: tuple[int, int]


@torch.inference_mode()
def segment_slices(
    members: Sequence[Member], slices: Sequence[np.ndarray], tta: bool = False, probabilities: bool = False
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Segment slices in one pass of each network.

    Slices are resampled to the network's size as in training. The logits are brought back bilinearly before the class
    is taken, which keeps contours smoother than enlarging the label map. Where several answers are combined, it is
    their softmax at the slice's own size that is averaged.

    Args:
        members: the networks.
        slices: each (H, W) float32, intensities prepared; sizes may differ.
        tta: average over the eight mirrors and quarter turns of the slice. On an image size that is not square the
            quarter turns swap h and w.
        probabilities: also return the probabilities, of which the label is the largest.

    Returns:
        for each slice its class indices (H, W) uint8, and its probabilities (K, H, W) float32 or None.
    """
    views = SYMMETRIES if tta else SYMMETRIES[:1]
    combined = probabilities or len(members) * len(views) > 1
    runs = [list(run) for _, run in groupby(range(len(slices)), key=lambda index: slices[index].shape)]
    scores: list[Tensor | float] = [0.0] * len(runs)  # of each run of slices of one size, (B, K, H, W)
    for member in members:
        small = np.stack([resample_slice(image, None, member.image_size)[0] for image in slices])
        images = torch.from_numpy(small).unsqueeze(1).to(next(member.model.parameters()))  # (B, 1, h, w)
        for view in views:
            logits = _back(member.model(_turn(images, *view)), *view).float()
            for number, run in enumerate(runs):
                size = slices[run[0]].shape
                here = F.interpolate(logits[run[0] : run[-1] + 1], size=size, mode="bilinear", align_corners=False)
                scores[number] = scores[number] + here.softmax(dim=1) if combined else here
    results = []
    for score in scores:
        if combined:
            score = score / (len(members) * len(views))
        labels = score.max(dim=1).indices.to(torch.uint8).cpu().numpy()  # argmax takes 7 times as long
        results += zip(labels, score.cpu().numpy() if probabilities else [None] * len(labels), strict=True)
    return results


def predict_volume(
    model: nn.Module, image: np.ndarray, image_size: tuple[int, int], batch_size: int = 16
) -> np.ndarray:
    """Segment a volume slice by slice with one network, as validation does.

    Args:
        model: (B, 1, h, w) -> logits (B, K, h, w); used in eval mode, on the device it is on.
        image: (D, H, W) float32, intensities prepared.
        image_size: (h, w).
        batch_size: slices at a time.

    Returns:
        (D, H, W) uint8 class indices.
    """
    was_training = model.training
    model.eval()
    label = np.empty(image.shape, np.uint8)
    for start in range(0, len(image), batch_size):
        slices = image[start : start + batch_size]
        label[start : start + batch_size] = [part for part, _ in segment_slices([Member(model, image_size)], slices)]
    model.train(was_training)
    return label


def _turn(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    """(B, C, H, W), mirrored left to right, then turned."""
    return torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))


def _back(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Undo `_turn`."""
    images = torch.rot90(images, -turns, (-2, -1))
    return images.flip(-1) if mirrored else images
