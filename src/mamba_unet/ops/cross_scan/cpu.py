"""The scan of a map by the compiled kernel."""

from torch import Tensor

from mamba_unet.ops.cpu_scan import cpu_scan
from mamba_unet.ops.cross_scan.inputs import Inputs


def cross_scan(inputs: Inputs) -> Tensor:
    """See `mamba_unet.ops.cross_scan`. Computes in float32."""
    *tensors, weight = inputs.map(lambda x: x.float())
    y, _ = cpu_scan(*tensors, softplus=True, weight=weight)
    return y
