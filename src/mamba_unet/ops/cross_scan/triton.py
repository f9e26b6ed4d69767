"""The scan of a map on a GPU: the Triton kernels of `mamba_unet.ops.triton_scan`."""

from torch import Tensor

from mamba_unet.ops.cross_scan.inputs import Inputs
from mamba_unet.ops.triton_scan import triton_scan


def cross_scan(inputs: Inputs) -> Tensor:
    """See `mamba_unet.ops.cross_scan`."""
    *tensors, weight = inputs
    y, _ = triton_scan(*tensors, softplus=True, weight=weight)
    return y
