import sys
from collections.abc import Callable

import pytest
import torch


@pytest.fixture
def fill_by_name(conformance_dir) -> Callable[..., None]:
    """Give every parameter of a module the value that the conformance set derives from its name."""
    sys.path.insert(0, str(conformance_dir))
    try:
        from fill import fill
    finally:
        sys.path.pop(0)

    def fill_module(module: torch.nn.Module, prefix: str = "") -> None:
        module.load_state_dict(
            {name: torch.from_numpy(fill(prefix + name, tuple(v.shape))) for name, v in module.state_dict().items()}
        )

    return fill_module
