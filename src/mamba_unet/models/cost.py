"""What a network costs: parameters, floating-point operations, time and memory of a forward pass."""

import functools
import importlib
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import prod
from multiprocessing import get_context

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from mamba_unet.models.registry import build_model

# delta A, exp, decay h, (delta u) B, their sum, C h and its sum; one each per state update, exp counted as one
FLOPS_PER_UPDATE = 7


@dataclass(frozen=True)
class Cost:
    """Of one forward pass in eval mode.

    Attributes:
        parameters: number of parameters.
        gflops: billions of floating-point operations, a multiply-add counted as two; matrix products, convolutions,
            attention (torch's counter) and selective scans.
        latency_ms: median of several passes.
        peak_mib: on CUDA, the most that was allocated; on a CPU, by how much the process grew; None where the system
            does not tell.
    """

    parameters: int
    gflops: float
    latency_ms: float
    peak_mib: float | None


def measure_cost(
    name: str, size: tuple[int, int] = (224, 224), batch: int = 1, device: str = "cpu", num_classes: int = 4
) -> Cost:
    """Measure a network of the registry at its default size, on random images (batch, 1, *size), in this process."""
    _count_scans()
    model = build_model(name, num_classes=num_classes).eval().to(device)
    x = torch.randn(batch, 1, *size, device=device)
    with torch.inference_mode():
        model(x[:, :, :32, :32])  # what the first pass loads does not count
        before = _memory(device)
        times = [_timed(model, x) for _ in range(4)][1:]
        peak = None if before is None else _memory(device) - before
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters, counter.get_total_flops() / 1e9, 1000 * statistics.median(times), peak)


def measure_cost_apart(name: str, size: tuple[int, int], batch: int, device: str) -> Cost:
    """`measure_cost` in a fresh process with as many threads, so that one network's memory is not another's."""
    with ProcessPoolExecutor(
        1, get_context("spawn"), initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    ) as pool:
        return pool.submit(measure_cost, name, size, batch, device).result()


def _timed(model: torch.nn.Module, x: torch.Tensor) -> float:
    start = time.perf_counter()
    model(x)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _memory(device: str) -> float | None:
    """The most memory held so far, in MiB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return None
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


@functools.cache
def _count_scans() -> None:
    """Tell torch's counter what the scans' operators compute; they are registered where their module is imported."""

    def cpu_scan(u, dt, B, C, A, D, bias, weight=None, *rest, **kwargs) -> int:
        """A dt of low rank is multiplied by its weight on the way."""
        return prod(u[:3]) * (FLOPS_PER_UPDATE * prod(A) + (0 if weight is None else 2 * prod(weight)))

    formulas = {
        "cpu_scan": cpu_scan,
        "chunked_scan": lambda u, delta, A, *rest, **kwargs: FLOPS_PER_UPDATE * prod(u[:2]) * prod(A),
    }
    for name, formula in formulas.items():
        importlib.import_module(f"mamba_unet.ops.{name}")
        register_flop_formula(getattr(torch.ops.mamba_unet, name))(formula)
    if torch.cuda.is_available():
        importlib.import_module("mamba_unet.ops.triton_scan")
        register_flop_formula(torch.ops.mamba_unet.triton_scan)(
            lambda u, dt, B, C, A, *rest, **kwargs: FLOPS_PER_UPDATE * prod(u[:3]) * prod(A)
        )
