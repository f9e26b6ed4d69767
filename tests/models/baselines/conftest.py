import json
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch


@pytest.fixture
def assert_conforms(conformance_dir, fill_by_name) -> Callable[..., None]:
    """Hold a network to the public names and shapes, number of parameters, and logits to 1e-4."""

    def check(model: torch.nn.Module, network: str, prefix: str = "", left_out: tuple[str, ...] = ()) -> None:
        expected = json.loads((conformance_dir / f"{network}_keys.json").read_text())
        names = {name: shape for name, shape in expected["keys"].items() if not name.endswith(left_out)}
        assert {prefix + name: list(value.shape) for name, value in model.state_dict().items()} == names
        assert sum(p.numel() for p in model.parameters()) == expected["total_parameters"]

        numbers = np.load(conformance_dir / f"{network}.npz")
        if "input" in numbers:
            image, logits, step = numbers["input"], numbers["logits"], 1
        else:
            rng = np.random.default_rng(zlib.crc32(str(numbers["input_seed_tag"]).encode()))
            image = rng.standard_normal((1, 3, 224, 224)).astype(np.float32)
            logits, step = numbers["logits_every_4th_pixel"], 4
        fill_by_name(model, prefix)
        with torch.no_grad():
            ours = model.eval()(torch.from_numpy(image))[..., ::step, ::step]
        torch.testing.assert_close(ours, torch.from_numpy(logits), rtol=0, atol=1e-4)

    return check
