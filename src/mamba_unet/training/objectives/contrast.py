"""The contrastive term of Semi-Mamba-UNet: what two networks say of a pixel lies close together.

B batch, K classes, S spatial axes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN = 4  # channels of a projector's middle layer, for each class


class PixelContrast(nn.Module):
    """Mean squared difference of two networks' outputs after a projection to unit length.

    `pixel`, as the paper's abstract has it: each network has a projector of its own, two layers that see one pixel,
    and pixels are compared with themselves. `pooled`, the public code: no projector; the logits are averaged over the
    image, so that it is images that are compared. Neither has negative examples. Projectors alone can lower the term,
    by saying the same of every pixel; its gradient then no longer reaches the networks.

    Args:
        num_classes: K.
        kind: "pixel" or "pooled".

    Source: Semi-Mamba-UNet (arXiv 2402.07245); `ConstraLoss` in its code (ziyangwang007/Mamba-UNet).
    """

    def __init__(self, num_classes: int, kind: str) -> None:
        super().__init__()
        self.projectors = nn.ModuleList()
        if kind == "pixel":
            for _ in range(2):
                layers = nn.Linear(num_classes, HIDDEN * num_classes), nn.Linear(HIDDEN * num_classes, num_classes)
                self.projectors.append(nn.Sequential(layers[0], nn.ReLU(), layers[1]))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two networks' logits (B, K, *S) of the same images -> a scalar."""
        pixels = [logits.float().movedim(1, -1) for logits in (first, second)]  # (B, *S, K)
        if self.projectors:
            vectors = [project(logits).float() for project, logits in zip(self.projectors, pixels, strict=True)]
        else:
            vectors = [logits.flatten(1, -2).mean(dim=1) for logits in pixels]  # (B, K)
        a, b = (F.normalize(vector, dim=-1) for vector in vectors)
        return (a - b).square().mean()
