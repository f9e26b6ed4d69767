"""The benchmark scripts as modules, on a synthetic data set, their results in a folder of the test."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mamba_unet.data import write_phantom

FOLDER = Path(__file__).parents[2] / "benchmarks"

RECIPE = """
view: {size: [32, 32]}
batch_size: 2
iterations: 1000
minutes: 20
optimizer: {name: adamw, lr: 2.0e-3, warmup: 200}
trainer: {accelerator: cpu}
workers: 0
model: {size: nano, arguments: {dims: [8, 16, 32]}}
"""


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A data set as downloaded."""
    return write_phantom(tmp_path_factory.mktemp("source") / "phantom", cases=8, seed=0)


@pytest.fixture
def recipes(tmp_path) -> list[Path]:
    """Mamba-UNet and its control, of seconds."""
    paths = [tmp_path / "mamba.yaml", tmp_path / "control.yaml"]
    paths[0].write_text(RECIPE)
    paths[1].write_text("base: mamba.yaml\nmodel: {name: mamba_unet_no_scan}\n")
    return paths


@pytest.fixture
def benchmark(monkeypatch, tmp_path) -> Callable[[str], ModuleType]:
    """A script of benchmarks/ by name."""
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(importlib.import_module("measuring"), "RESULTS", tmp_path / "results")
    return importlib.import_module


@pytest.fixture
def run_benchmark(benchmark, monkeypatch, tmp_path) -> Callable[..., str]:
    """Run a script by name with words; the Markdown it wrote."""

    def run(name: str, *words: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        benchmark(name).main()
        (path,) = (tmp_path / "results").glob(f"{name}_*.md")
        return path.read_text(encoding="utf-8")

    return run
