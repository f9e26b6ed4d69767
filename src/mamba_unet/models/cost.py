"""What a network costs: parameters, floating-point operations, time and memory of a forward pass."""

import contextlib
import ctypes
import functools
import importlib
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import prod
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
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
        peak_mib: what the first pass held at the most beyond the network and its input: on CUDA by torch's count, on a
            CPU by how much the process grew; None where the system does not tell (all but Linux).
    """

    parameters: int
    gflops: float
    latency_ms: float
    peak_mib: float | None


def measure_cost(
    name: str, size: Sequence[int] = (224, 224), batch: int = 1, device: str = "cpu", num_classes: int = 4
) -> Cost:
    """Measure a network of the registry at its default size, on random images (batch, 1, *size), in this process.

    `size` is (H, W), or (D, H, W) for a network that takes volumes.
    """
    model = build_model(name, num_classes=num_classes).eval().to(device)
    x = torch.randn(batch, 1, *size, device=device)
    with torch.inference_mode():
        model(x[..., :32, :32])  # what the first pass loads does not count
        peak = _peak_mib(model, x)
        times = [_timed(model, x) for _ in range(4)][1:]
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters, count_flops(model, x) / 1e9, 1000 * statistics.median(times), peak)


def count_flops(model: torch.nn.Module, x: torch.Tensor) -> int:
    """The floating-point operations of a forward pass, counted as `Cost.gflops` says."""
    _count_scans()
    # without the fused attention, which on a CPU the counter does not know: its two products count as they are
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def measure_cost_apart(name: str, size: Sequence[int], batch: int, device: str) -> Cost:
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


def _peak_mib(model: torch.nn.Module, x: torch.Tensor) -> float | None:
    """The most memory that a forward pass holds beyond what was held before it, in MiB; None where nothing tells."""
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        _timed(model, x)
        return (torch.cuda.max_memory_allocated(x.device) - before) / 2**20
    # The process's peak. Not getrusage's, which a process inherits from the one that started it; this one can be reset.
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        return None
    with contextlib.suppress(AttributeError):  # glibc's: what it keeps from earlier work would hide growth
        ctypes.CDLL(None).malloc_trim(0)
    peak.write_text("5")
    before = _status_mib("VmRSS")
    _timed(model, x)
    return _status_mib("VmHWM") - before


def _status_mib(field: str) -> float:
    """A line of /proc/self/status, which are in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


@functools.cache
def _count_scans() -> None:
    """Tell torch's counter what the scans' operators compute; they are registered where their module is imported."""

    def fused_scan(u, dt, B, C, A, D, bias, weight=None, *rest, **kwargs) -> int:
        """A dt of low rank is multiplied by its weight on the way."""
        return prod(u[:-1]) * (FLOPS_PER_UPDATE * prod(A) + (0 if weight is None else 2 * prod(weight)))

    formulas = {
        "cpu_scan": fused_scan,
        "chunked_scan": lambda u, delta, A, *rest, **kwargs: FLOPS_PER_UPDATE * prod(u[:2]) * prod(A),
    }
    if torch.cuda.is_available():
        formulas["triton_scan"] = fused_scan
    for name, formula in formulas.items():
        importlib.import_module(f"mamba_unet.ops.{name}")
        register_flop_formula(getattr(torch.ops.mamba_unet, name))(formula)
