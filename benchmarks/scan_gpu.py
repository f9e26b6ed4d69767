"""Time the scan of all directions on a GPU: Triton against portable PyTorch, at the sizes of Mamba-UNet's stages.

    python benchmarks/scan_gpu.py               # needs a CUDA device; writes results/scan_gpu_<gpu>_<date>.md and .json
    python benchmarks/scan_gpu.py --interpret   # no GPU: tiny images through Triton's interpreter, to test this script

A backend is timed only where its outputs and gradients agree with the reference in float64. Times are medians over
CUDA events. The floor is the time in which the GPU, at the bandwidth that a large copy reaches in the same run, reads
every input and writes every output once; it is what no implementation can beat, and counts no intermediate.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

from measuring import write_result

STAGES = [(56, 56, 192), (28, 28, 384), (14, 14, 768), (7, 7, 1536)]  # H, W, channels
VOLUME = (16, 56, 56, 192)  # depth, H, W, channels: one image of it, scanned along six directions
BATCHES = (1, 24)
STATES = 16
CHANNELS_PER_RANK = 32  # dt has so few numbers, as in Mamba-UNet, and a weight
CHECKED = [  # batch, map, states
    (2, (14, 14, 96), 16),
    (1, (9, 31, 100), 5),
    (3, (7, 7, 64), 1),
    (1, (28, 28, 32), 16),
    (2, (3, 9, 14, 40), 16),
]
# error allowed in the norm, as a part of the norm: half types round the gradients they return
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interpret", action="store_true", help="tiny sizes on the CPU; writes no results")
    interpret = parser.parse_args().interpret
    if interpret:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

    import torch

    if not interpret and not torch.cuda.is_available():
        sys.exit("no CUDA device: run this where there is one, or test the script with --interpret")
    device = "cpu" if interpret else "cuda"
    if interpret:
        timed, checked = [(1, (2, 3, 4)), (1, (2, 1, 2, 8))], [(1, (2, 2, 3), 2), (1, (2, 2, 2, 3), 2)]
    else:
        timed, checked = [*((batch, stage) for batch in BATCHES for stage in STAGES), (1, VOLUME)], CHECKED
    dtypes = [torch.bfloat16, torch.float32]

    lines, trusted = ["| backend | type | largest error | verdict |", "|---|---|---|---|"], []
    drawn = {dtype: [inputs(*sizes, dtype, device) for sizes in checked] for dtype in dtypes}
    truths = {dtype: [truth(x) for x in drawn[dtype]] for dtype in dtypes}  # the slow part, once for both backends
    for backend in ("torch", "triton"):
        for dtype in dtypes:
            pairs = zip(drawn[dtype], truths[dtype], strict=True)
            error = max(largest_error(backend, x, expected) for x, expected in pairs)
            agrees = error <= TOLERANCE[str(dtype).removeprefix("torch.")]  # False for NaN
            lines.append(
                f"| {backend} | {dtype} | {error:.1e} | {'agrees' if agrees else '**DISAGREES: not timed**'} |"
            )
            trusted += [(backend, dtype)] if agrees else []
    report(lines)

    bandwidth = copy_bandwidth(device, interpret)
    lines += ["", f"A large copy moves {bandwidth / 1e9:.0f} GB/s, bytes read plus bytes written.", ""]
    lines += [
        "| batch | size | type | backend | forward ms | x floor | forward + backward ms | x floor | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    report(lines[-4:])
    rows = []
    for batch, map_ in timed:
        for backend, dtype in sorted(trusted, key=str):
            x = inputs(batch, map_, STATES, dtype, device)
            floors = [moved / bandwidth * 1e3 for moved in least_traffic(x)]
            times = [milliseconds(run, interpret) for run in runs(backend, x)]
            peak = peak_megabytes(runs(backend, x)[1], interpret)
            columns = " | ".join(f"{t:.3f} | {t / f:.1f}" for t, f in zip(times, floors, strict=True))
            size = " x ".join(map(str, map_))
            lines.append(f"| {batch} | {size} | {dtype} | {backend} | {columns} | {peak:.0f} |")
            report(lines[-1:])
            rows.append(
                {"batch": batch, "map": map_, "dtype": str(dtype), "backend": backend}
                | {"milliseconds": times, "floor_milliseconds": floors, "peak_megabytes": peak}
            )

    if interpret:
        print("the times above are the interpreter's: they mean nothing, and no results file is written")
        return
    import triton

    versions = f"`python benchmarks/scan_gpu.py`; triton {triton.__version__}, CUDA {torch.version.cuda}; N = {STATES}."
    values = {"triton": triton.__version__, "bytes_per_second": bandwidth, "rows": rows}
    write_result("scan_gpu", "Scan of all directions on a GPU", [versions, "", *lines], values)


def report(lines: list[str]) -> None:
    print("\n".join(lines), flush=True)


def inputs(batch: int, map_: tuple[int, ...], states: int, dtype, device: str) -> list:
    """Random maps in `dtype`, parameters in float32, as under autocast; A and delta as Mamba initialises them."""
    import torch

    *shape, channels = map_
    directions = 2 * len(shape)

    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator).to(device)

    delta = torch.logspace(-3, -1, directions * channels).view(directions, channels)
    rank = -(-channels // CHANNELS_PER_RANK)
    return [
        randn(batch, *map_).to(dtype),
        (0.5 * randn(batch, *shape, directions, rank)).to(dtype),
        randn(batch, *shape, directions, states).to(dtype),
        randn(batch, *shape, directions, states).to(dtype),
        -torch.arange(1.0, states + 1, device=device).expand(directions, channels, states).contiguous(),
        randn(channels),
        torch.log(torch.expm1(delta)).to(device),
        randn(directions, channels, rank) / rank**0.5,
    ]


def runs(backend: str, x: list) -> tuple[Callable, Callable]:
    """The forward pass, and the forward and backward pass."""
    import torch

    from mamba_unet.ops import cross_scan

    leaves = [tensor.detach().requires_grad_() for tensor in x]
    weights = torch.randn(x[0].shape, device=x[0].device, generator=torch.Generator(x[0].device).manual_seed(1))

    def forward():
        with torch.no_grad():
            return cross_scan(*x, backend=backend)

    def both():
        y = cross_scan(*leaves, backend=backend)
        return y, *torch.autograd.grad(y, leaves, weights.to(y.dtype))

    return forward, both


def truth(x: list) -> tuple:
    """The output and all gradients by the reference in float64."""
    return runs("reference", [tensor.double() for tensor in x])[1]()


def largest_error(backend: str, x: list, expected: tuple) -> float:
    """Over the output and all gradients, in the norm; NaN if any is NaN."""
    result = runs(backend, x)[1]()
    errors = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(result, expected, strict=True)]
    return max(errors) if all(error == error for error in errors) else float("nan")


def least_traffic(x: list) -> tuple[int, int]:
    """Bytes of every input and output once: forward; forward and backward, which reads the inputs again."""
    read = sum(tensor.nbytes for tensor in x)
    y = 4 * x[0].numel()
    return read + y, (read + y) + (read + y) + read  # backward: inputs and y's gradient in, one gradient per input out


def milliseconds(run: Callable, interpret: bool) -> float:
    """The median of 30 runs, or of as many as fit into a second, at least 5; after 3 to warm up."""
    import torch

    if interpret:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3
    for _ in range(3):
        run()
    times = []
    while len(times) < 5 or (len(times) < 30 and sum(times) < 1000):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def peak_megabytes(run: Callable, interpret: bool) -> float:
    """What a pass allocates beyond what its inputs hold."""
    import torch

    if interpret:
        return float("nan")
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def copy_bandwidth(device: str, interpret: bool) -> float:
    """Bytes read plus bytes written per second by a large copy."""
    import torch

    source = torch.randn(2**16 if interpret else 2**28, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / (milliseconds(lambda: target.copy_(source), interpret) * 1e-3)


if __name__ == "__main__":
    main()
