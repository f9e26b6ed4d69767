"""The training loss: cross-entropy and soft Dice in equal parts.

B batch, K classes, S spatial axes: (H, W), or (D, H, W).

Pixels whose label is `IGNORE` are left out of both; where all are, both are zero. In distributed training the sums run
over all processes, so that W processes give the loss, and after the gradients are averaged the gradient, of one process
with the joint batch.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mamba_unet.training.processes import distributed, sum_over_processes
from mamba_unet.views.labels import IGNORE

SMOOTH = 1e-5


def cross_entropy_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that have a label.

    Args:
        logits: (B, K, *size).
        label: (B, *size), int64 class indices or `IGNORE`.
    """
    count = (label != IGNORE).sum()
    mean = F.cross_entropy(logits.float(), label, ignore_index=IGNORE)
    mean = torch.where(count > 0, mean, torch.zeros_like(mean))  # the mean of nothing is NaN
    if distributed():  # a process with more labelled pixels counts for more
        mean = mean * (count * dist.get_world_size() / sum_over_processes(count).clamp(min=1))
    return mean


def soft_dice_loss(logits: Tensor, label: Tensor) -> Tensor:
    """One minus the mean over classes, background included, of the soft Dice coefficient over the whole batch.

    Per class 2 sum(p y) / (sum(p^2) + sum(y^2)), the sums running over every labelled pixel of the batch.

    Args:
        logits: (B, K, *size).
        label: (B, *size), int64 class indices or `IGNORE`.

    Source: the squared-denominator Dice of V-Net (arXiv 1606.04797), as the reference's training code uses it.
    """
    known = label != IGNORE
    probability = logits.float().softmax(dim=1) * known.unsqueeze(1)
    target = F.one_hot(label * known, logits.shape[1]).movedim(-1, 1) * known.unsqueeze(1)
    target = target.to(probability.dtype)
    over_pixels = (0, *range(2, logits.ndim))
    intersection = (probability * target).sum(over_pixels)
    total = probability.square().sum(over_pixels) + target.sum(over_pixels)
    intersection, total = sum_over_processes(torch.stack([intersection, total]))
    return 1 - ((2 * intersection + SMOOTH) / (total + SMOOTH)).mean()


def segmentation_loss(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """0.5 * (cross-entropy + Dice), with its two parts: `{"loss", "cross_entropy", "dice_loss"}`.

    Source: Mamba-UNet, section 4.2.
    """
    cross_entropy = cross_entropy_loss(logits, label)
    dice_loss = soft_dice_loss(logits, label)
    return {"loss": 0.5 * (cross_entropy + dice_loss), "cross_entropy": cross_entropy, "dice_loss": dice_loss}
