"""Mean teacher: on images without labels, agree with a running average of oneself."""

import copy
import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mamba_unet.training.objectives.base import Batch, Objective, halves
from mamba_unet.training.objectives.losses import segmentation_loss
from mamba_unet.training.objectives.ramp import Ramp
from mamba_unet.training.objectives.regularisers import probability_distance


class MeanTeacher(Objective):
    """Half of a batch has labels; on the other half the teacher, who sees the image with noise, is agreed with.

    After step t the teacher's weights move towards the student's and keep min(1 - 1 / t, decay) of themselves, so that
    the first step makes them the student's. Its running statistics follow from what it sees, as in the public code.

    Args:
        network: (B, C, *S) -> logits (B, K, *S), the student.
        batch_size: samples in a batch.
        weight: of the squared difference of the probabilities.
        decay: what the teacher keeps of itself at each step, at most.
        noise: standard deviation of the noise, which is cut off at twice that.
        seed: of the noise.
        validated: "student" or "teacher": the one that is saved.

    Source: Tarvainen and Valpola 2017 (arXiv 1703.01780), with the numbers of SSL4MIS.
    """

    trained = "student"

    def __init__(
        self,
        network: nn.Module,
        batch_size: int,
        weight: Ramp,
        decay: float = 0.99,
        noise: float = 0.1,
        seed: int = 0,
        validated: str = "student",
    ) -> None:
        super().__init__()
        self.student, self.teacher = network, copy.deepcopy(network).requires_grad_(False)
        self.streams = halves(batch_size)
        self.weight, self.decay, self.noise, self.seed, self.validated = weight, decay, noise, seed, validated

    @property
    def network(self) -> nn.Module:
        return self.networks[self.validated]

    @property
    def networks(self) -> dict[str, nn.Module]:
        both = {"student": self.student, "teacher": self.teacher}
        return {self.validated: both[self.validated]} | both

    def labellers(self, done: float) -> dict[str, nn.Module]:
        return {"teacher": self.teacher}

    def forward(self, batch: Mapping[str, Batch], step: int, done: float) -> dict[str, Tensor]:
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        image, count = unlabelled["image"], len(labelled["image"])
        with torch.no_grad():
            wanted = self.teacher(image + self._noise(image, unlabelled["name"], step)).float().softmax(dim=1)
        logits = self.student(torch.cat([labelled["image"], image]))
        supervised = segmentation_loss(logits[:count], labelled["label"])["loss"]
        consistency = probability_distance(logits[count:], wanted)
        loss = supervised + self.weight(done) * consistency
        return {"loss": loss, "supervised": supervised, "consistency": consistency}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        kept = min(1 - 1 / step, self.decay)
        teacher, student = (list(network.parameters()) for network in (self.teacher, self.student))
        torch._foreach_lerp_(teacher, student, 1 - kept)

    def _noise(self, image: Tensor, names: Sequence[str], step: int) -> Tensor:
        """A sample's own, whichever process has it."""
        drawn = []
        for sample, name in zip(image, names, strict=True):
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{step}/{name}".encode()))
            drawn.append(torch.randn(sample.shape, generator=generator))
        return (self.noise * torch.stack(drawn)).clamp(-2 * self.noise, 2 * self.noise).to(image)
