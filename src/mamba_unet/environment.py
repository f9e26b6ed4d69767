"""What a result was computed with: versions and hardware."""

import os
import platform
import statistics
import time
from importlib import metadata
from typing import Any

from mamba_unet import __version__

PACKAGES = ("torch", "triton", "lightning", "numpy", "scipy", "nibabel")


def cpu_name() -> str:
    """The processor's marketing name where the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe_environment() -> dict[str, Any]:
    """Versions of this package and what it stands on, the machine, and torch's threads and devices."""
    import torch

    return {
        "mamba-unet": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def hardware_name() -> str:
    """What computes here, in a few words: the GPU's name, else the CPU's and the number of threads torch uses."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def bfloat16_speed() -> float:
    """How many times as fast as in float32 a convolution is in bfloat16 on this CPU, forward and backward.

    Measured now, in under a second: what a CPU says of itself (AVX512-BF16) does not tell whether it gains by it.
    """
    import torch

    # of zeros: random numbers would be missing in the training that follows
    maps = torch.zeros(8, 32, 64, 64).to(memory_format=torch.channels_last)
    weights = torch.zeros(32, 32, 3, 3, requires_grad=True)

    def seconds(enabled: bool) -> float:
        start = time.process_time()  # in which other programs' work does not count
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            torch.nn.functional.conv2d(maps, weights, padding=1).sum().backward()
        return time.process_time() - start

    turns = [(seconds(False), seconds(True)) for _ in range(8)][1:]
    plain, half = (statistics.median(times) for times in zip(*turns, strict=True))
    return plain / half
