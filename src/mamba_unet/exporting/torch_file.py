"""A network as a file of `torch.export`, of torch's own operators, with its manifest beside it in the same file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mamba_unet.exporting.network import Exportable, quiet
from mamba_unet.ops.backends import standard_operators


def write_torch(path: Path, network: Exportable, image: Tensor, manifest: Mapping[str, str]) -> None:
    """Trace the network and write it to `path`, whose name ends in `.pt2`.

    The number of images stays open, their size does not: torch.export keeps guards on sizes that are padded and cropped
    within the network, and then refuses images whose sides are multiples of the stride.
    """
    with quiet(), standard_operators():
        program = torch.export.export(network, (image,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(program, path, extra_files=dict(manifest))


def load_torch(path: str | Path) -> nn.Module:
    """The module in such a file."""
    with quiet():
        return torch.export.load(path).module()
