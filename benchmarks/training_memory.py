"""Count what a training step holds: weights, gradients, the optimiser's state, and what the forward pass keeps.

    python benchmarks/training_memory.py

Nothing is computed: torch's fake tensors have shapes without content, so networks and patches may be larger than this
machine. Kept is what autograd holds from the forward to the backward pass, in float32; bf16-mixed keeps less. What a
kernel holds only while it runs is not in it. The 3D patches are those that `mamba-unet plan` chooses for a large
isotropic volume. About a minute. Writes benchmarks/results/training_memory_<hardware>_<date>.md and .json.
"""

import argparse
from collections.abc import Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from mamba_unet.data.planning import SMALLEST_BATCH, _patch
from mamba_unet.models.registry import MODELS, SIZES, build_model
from mamba_unet.training.objectives.losses import segmentation_loss
from measuring import table, write_result

GRID, CLASSES = (512, 512, 512), 9
GIB = (8, 24, 80)  # memory that 3D patches are planned for
SLICES = (24, 224, 224)  # batch, H, W of the paper
ADAMW = 4  # numbers per parameter: weight, gradient, two moments


def largest_2d() -> tuple[str, str | None]:
    """Name and size of the 2D network with the most parameters."""
    names = [name for name, spec in MODELS.items() if spec.spatial_dims == 2]
    known = [(name, size) for name in names for size in (None, *(SIZES if name.startswith("mamba") else ()))]
    return max(known, key=lambda one: count(*one)[0])


def count(name: str, size: str | None = None, shape: Sequence[int] | None = None) -> tuple[int, int]:
    """Parameters, and bytes that a step keeps for images of a shape (B, *S); 0 without one."""
    volume = shape is not None and MODELS[name].spatial_dims == 3
    more = {"patch_size": shape[1:], "spacing": (1.0, 1.0, 1.0)} if volume else {}
    model = build_model(name, num_classes=CLASSES, size=size, **more)
    parameters = sum(one.numel() for one in model.parameters())
    if shape is None:
        return parameters, 0
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        own = {fake.from_tensor(one).untyped_storage()._cdata for one in model.parameters()}
        x, y = torch.empty(shape[0], 1, *shape[1:]), torch.empty(shape, dtype=torch.int64)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            segmentation_loss(model(x), y)["loss"]
    return parameters, sum(one.untyped_storage().nbytes() for place, one in kept.items() if place not in own)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    cases = [(*largest_2d(), SLICES), ("mamba_unet", None, SLICES), ("mamba_unet_fine", "mini", SLICES)]
    for gib in GIB:
        patch = (SMALLEST_BATCH, *_patch(GRID, (1.0, 1.0, 1.0), gib))
        cases += [(name, None, patch) for name in ("mamba_unet_3d", "unet_3d")]
    rows, values = [], []
    for name, size, shape in cases:
        parameters, kept = count(name, size, shape)
        state = 4 * ADAMW * parameters
        values.append({"network": name, "size": size, "shape": shape, "parameters": parameters, "state": state})
        values[-1]["kept"] = kept
        shown = " x ".join(map(str, shape))
        network = f"{name}, {size}" if size else name
        rows.append([network, shown, f"{parameters / 1e6:.1f}", f"{state / 2**20:,.0f}", f"{kept / 2**20:,.0f}"])
    lines = [
        f"{CLASSES} classes, float32, AdamW. State: weights, gradients and both moments.",
        "",
        table(["network", "batch x sides", "million parameters", "state, MiB", "kept for backward, MiB"], rows),
        "",
        "Command: `python benchmarks/training_memory.py`",
    ]
    write_result("training_memory", "Memory of a training step", lines, {"rows": values})


if __name__ == "__main__":
    main()
