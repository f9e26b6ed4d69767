"""Time one selective scan against those of other packages that need no GPU, agreement first, turn by turn.

    pip install mambapy==1.2.0 mambax==0.4.1 einops     # in an environment of their own; what is absent is left out
    python benchmarks/other_scans.py

The work is a forward pass over L = 3136 positions with D = 768 channels and N = 16 states, in float32. What disagrees
with the float64 reference is named, and not timed. Writes benchmarks/results/other_scans_<hardware>_<date>.md and
.json.
"""

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor

from mamba_unet.ops import selective_scan
from measuring import table, write_result

TOLERANCE = 5e-6  # of the largest value, as in the tests
OTHERS = {"mambapy": ("mambapy.mamba", "MambaBlock"), "mambax": ("mambax.mamba", "Mamba")}  # package -> class

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def make_inputs(length: int, channels: int, states: int) -> list[Tensor]:
    """u (1, L, D), delta (1, L, D), A (D, N), B (1, L, N), C (1, L, N), D (D,), as Mamba starts."""
    generator = torch.Generator().manual_seed(0)
    u, B, C = (torch.randn(1, length, width, generator=generator) for width in (channels, states, states))
    delta = torch.exp(torch.rand(1, length, channels, generator=generator) * 4.6 - 6.9)  # 0.001 to 0.1
    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    return [u, delta, A, B, C, torch.ones(channels)]


def ours(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, backend: str = "auto") -> Tensor:
    """Ours, which has the channels first, from and to the others' layout; the copies it needs are part of it."""
    first = [x.transpose(1, 2) for x in (u, delta, B, C)]
    return selective_scan(first[0], first[1], A, first[2], first[3], D, backend=backend).transpose(1, 2)


def scans() -> dict[str, Scan]:
    """Name and version -> the scan, of ours and of the packages that are installed."""
    found: dict[str, Scan] = {"ours": ours}
    for package, (module, name) in OTHERS.items():
        try:
            method = getattr(importlib.import_module(module), name).selective_scan
        except ImportError:
            continue
        found[f"{package} {version(package)}"] = lambda *inputs, method=method: method(None, *inputs)  # needs no object
    return found


def disagreement(scan: Scan, inputs: list[Tensor]) -> float:
    """The largest difference from the float64 reference, by its largest value."""
    truth = ours(*(x.double() for x in inputs), backend="reference")
    with torch.no_grad():
        return ((scan(*inputs).double() - truth).abs().max() / truth.abs().max()).item()


def times_ms(found: dict[str, Scan], inputs: list[Tensor], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each scan, all taking turns; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in found}
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for name, scan in found.items():
                start = time.perf_counter()
                scan(*inputs)
                if repeat:
                    times[name].append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=[3136, 768, 16], metavar=("L", "D", "N"))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    small, inputs, found = make_inputs(50, 24, args.size[2]), make_inputs(*args.size), scans()
    errors = {name: disagreement(scan, small) for name, scan in found.items()}
    refused = [name for name, error in errors.items() if not error <= TOLERANCE]
    found = {name: scan for name, scan in found.items() if name not in refused}
    results, rows = [], []
    for threads in args.threads:
        torch.set_num_threads(threads)
        times = times_ms(found, inputs, args.repeats)
        medians = {name: statistics.median(values) for name, values in times.items()}
        results.append({"threads": threads, "times_ms": times})
        for name, median in medians.items():
            rows.append(
                [name, threads, f"{median:.1f}", f"{median / medians['ours']:.1f}x" if "ours" in medians else ""]
            )
    lines = [
        "`python benchmarks/other_scans.py`: one selective scan, forward, "
        f"L {args.size[0]}, D {args.size[1]}, N {args.size[2]}, float32; medians of {args.repeats} turns.",
        "",
        table(["", "threads", "ms", "by ours"], rows),
        "",
        "Largest difference from the float64 reference, of its largest value: "
        + "; ".join(f"{name} {error:.1e}" for name, error in errors.items())
        + (f". Not timed, because they disagree: {', '.join(refused)}." if refused else "."),
    ]
    write_result("other_scans", "One scan, ours and others'", lines, {"errors": errors, "results": results})


if __name__ == "__main__":
    main()
