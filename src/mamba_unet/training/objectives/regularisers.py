"""Losses that need no label: what a plausible segmentation looks like.

B batch, C channels, K classes, S spatial axes: (H, W), or (D, H, W). All are means over pixels, so that their weight
does not depend on the size of the image.
"""

import torch
from torch import Tensor


def entropy_loss(logits: Tensor) -> Tensor:
    """Mean entropy of the class probabilities of a pixel, in nats: small where the network is sure.

    Args:
        logits: (B, K, *S).

    Source: Grandvalet and Bengio 2004; in WSL4MIS beside partial cross-entropy.
    """
    log_probability = logits.float().log_softmax(dim=1)
    return -(log_probability.exp() * log_probability).sum(dim=1).mean()


def mumford_shah_loss(image: Tensor, logits: Tensor) -> Tensor:
    """How much intensities vary within a class, and how long the borders are, per pixel.

    Of every image, class and channel sum(p (x - c)^2), where c is the class's mean intensity weighted by its
    probability p, and the sum of |difference of p| between neighbours along every axis.

    Args:
        image: (B, C, *S).
        logits: (B, K, *S).

    Source: Kim and Ye 2019 (arXiv 1904.02872). WSL4MIS sums over all pixels of a batch and weights that by 1e-6; with
    its 12 slices of 256 x 256 this is a weight of 0.79 here.
    """
    probability, image = logits.float().softmax(dim=1), image.float()
    pixels = probability[:, 0].numel()
    p, x = probability.flatten(2).unsqueeze(2), image.flatten(2).unsqueeze(1)  # (B, K, 1, N), (B, 1, C, N)
    centre = (p * x).sum(-1, keepdim=True) / p.sum(-1, keepdim=True).clamp(min=1e-8)
    within = (p * (x - centre).square()).sum()
    borders = sum(probability.diff(dim=axis).abs().sum() for axis in range(2, probability.ndim))
    return (within + borders) / pixels


def probability_distance(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of the class probabilities of two networks, over pixels and classes.

    Args:
        logits: (B, K, *S), learns.
        wanted: probabilities, the same shape.
    """
    return torch.mean((logits.float().softmax(dim=1) - wanted) ** 2)
