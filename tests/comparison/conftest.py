from pathlib import Path

import pytest

from mamba_unet.data import PreparedDataset, prepare, write_phantom

BASE = """
image_size: [32, 32]
batch_size: 4
iterations: 4
validate_every: 2
optimizer: {name: adamw, lr: 2.0e-3}
trainer: {accelerator: cpu}
workers: 0
"""


@pytest.fixture(scope="session")
def phantom(tmp_path_factory) -> PreparedDataset:
    """Eight synthetic cases, prepared, in three folds."""
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "raw", cases=8, seed=0)
    return prepare(folder / "raw", folder / "prepared", folds=3, progress=False)


@pytest.fixture(scope="session")
def recipes(tmp_path_factory) -> list[Path]:
    """Mamba-UNet and its control, of seconds."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "base.yaml").write_text(BASE)
    paths = []
    for name, keys in (("mamba", "name: mamba_unet"), ("control", "name: mamba_unet_no_scan")):
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(f"base: base.yaml\nmodel: {{{keys}, size: nano, arguments: {{dims: [8, 16, 32]}}}}\n")
    return paths
