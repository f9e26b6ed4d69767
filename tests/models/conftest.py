import sys
from collections.abc import Callable

import pytest
import torch


@pytest.fixture
def fill_by_name(conformance_dir) -> Callable[..., None]:
    """Give a module's parameters and running statistics the values that the conformance set derives by name."""
    sys.path.insert(0, str(conformance_dir))
    try:
        from fill import fill
    finally:
        sys.path.pop(0)

    def fill_module(module: torch.nn.Module, prefix: str = "") -> None:
        for name, value in module.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                value.copy_(torch.from_numpy(fill(prefix + name, tuple(value.shape))))

    return fill_module
