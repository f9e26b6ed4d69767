"""Time the scan of a map: every backend against the reference and the portable one, in one run.

    python benchmarks/scan.py                      # CPU, one thread and all: under three minutes
    python benchmarks/scan.py --device cuda --dtype bfloat16 --batch 24
    python benchmarks/scan.py --sizes 112 224 448 896

The work is Mamba-UNet's first stage: an S x S image gives S/4 x S/4 pixels with 192 channels, 16 states, 4 directions.
Volumes (six walks) are timed against images (four) of equally many state updates, turn by turn, per update.
A backend whose outputs or gradients disagree with the float64 reference is named, and not timed. Writes a table (.md),
all numbers (.json) and time against pixels (.png) to benchmarks/results/. mamba-ssm joins on CUDA where installed.
"""

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from mamba_unet.files import atomic_path
from mamba_unet.ops import backend_status, cross_scan
from measuring import median_ms, result_path, table, write_result

CHANNELS, STATES, PATCH = 192, 16, 4
REFERENCE_SIZE = 224  # the reference, and so the ratios, are measured at this image size only: it is slow
TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}  # of the largest value, as in the tests
# a volume with six walks has as many state updates as an image of half as many pixels more with four: in the last pair
# the first stage of a patch of 16 x 224 x 224, in the first about one image's
EQUAL_UPDATES = [((48, 64), (8, 16, 16)), ((224, 336), (16, 56, 56))]
KERNELS = ("cpu", "triton")  # volumes are timed by these alone: the portable backend would take minutes
VOLUME_TARGET = 1.15  # the compiled kernel's time per update in a volume, at most, by that in an image
TARGETS = {  # (one thread, four threads), of the CPU kernel
    "forward, against the reference": (70, 150),
    "forward + backward, against portable PyTorch": (15, 20),
}


def make_inputs(batch: int, shape: Sequence[int], channels: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    """u, dt, B, C, A, D, dt_bias with the layouts the model gives them and the values Mamba starts from."""
    generator = torch.Generator().manual_seed(0)
    walks = 2 * len(shape)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    u = randn(batch, *shape, channels)
    dt = 0.5 * randn(walks, batch, *shape, channels)  # a batched product: one matrix per walk
    projected = randn(batch, *shape, walks, channels // 32 + 2 * STATES)  # one product for all walks
    _, B, C = projected.split((channels // 32, STATES, STATES), dim=-1)
    A = -torch.arange(1.0, STATES + 1).repeat(walks, channels, 1)
    steps = torch.exp(torch.rand(walks, channels, generator=generator) * 4.6 - 6.9)  # 0.001 .. 0.1
    activations = [x.to(device, dtype) for x in (u, dt.movedim(0, -2), B, C)]
    parameters = [x.to(device) for x in (A, torch.full((channels,), 4.0), torch.log(torch.expm1(steps)))]
    return activations + parameters


def scan(name: str, u: Tensor, dt: Tensor, B: Tensor, C: Tensor, A: Tensor, D: Tensor, dt_bias: Tensor) -> Tensor:
    """The scan by one of our backends, or as it is done with mamba-ssm: on four copies of an image."""
    if name != "mamba-ssm":
        return cross_scan(u, dt, B, C, A, D, dt_bias, backend=name)
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    batch, height, width, channels = u.shape
    rows = torch.arange(height * width, device=u.device)
    columns = rows.view(height, width).T.reshape(-1)
    paths = torch.stack([rows, columns, rows.flip(0), columns.flip(0)])  # (K, L)

    def along_paths(x: Tensor) -> Tensor:  # (B, H, W, K or 1, X) -> (B, K, X, L)
        x = x.flatten(1, 2).movedim(1, -1).expand(-1, 4, -1, -1)
        return x.gather(-1, paths[None, :, None].expand_as(x))

    y = selective_scan_fn(
        along_paths(u.unsqueeze(3)).flatten(1, 2),
        along_paths(dt).flatten(1, 2),
        A.flatten(0, 1).contiguous(),
        along_paths(B),
        along_paths(C),
        D.div(4).repeat(4),
        delta_bias=dt_bias.flatten(),
        delta_softplus=True,
    ).view(batch, 4, channels, -1)
    back = paths.argsort(-1)[None, :, None].expand_as(y)
    return y.float().gather(-1, back).sum(1).transpose(1, 2).reshape(u.shape)


def disagreement(backend: str, dtype: torch.dtype, device: str) -> str:
    """Where a backend's output or gradients leave the float64 reference's, or an empty string."""
    inputs = make_inputs(2, (12, 12), 48, dtype, device)
    results = []
    for name, convert in (("reference", Tensor.double), (backend, Tensor.clone)):
        leaves = [convert(x).requires_grad_() for x in inputs]
        y = scan(name, *leaves)
        weights = torch.linspace(-1, 1, y.numel(), device=device).view(y.shape).to(y.dtype)
        results.append([y, *torch.autograd.grad(y, leaves, weights)])
    for name, truth, result in zip(("y", "u", "dt", "B", "C", "A", "D", "dt_bias"), *results, strict=True):
        error = ((result.double() - truth).abs().max() / truth.abs().max()).item()
        if not error <= TOLERANCE[result.dtype]:
            return f"{name} is off by {error:.1e} of its largest value"
    return ""


def measure(backend: str, inputs: list[Tensor], device: str, with_backward: bool = True) -> dict[str, float]:
    """Milliseconds of the forward pass, and of forward and backward pass together."""
    with torch.no_grad():
        result = {"forward_ms": median_ms(lambda: scan(backend, *inputs), device)}
    if with_backward:
        leaves = [x.detach().requires_grad_() for x in inputs]
        gradient = torch.ones_like(inputs[0], dtype=torch.float32)

        def both() -> None:
            torch.autograd.grad(scan(backend, *leaves), leaves, gradient)

        result["forward_backward_ms"] = median_ms(both, device)
    return result


def per_update(backend: str, dtype: torch.dtype, device: str, turns: int = 15) -> list[dict]:
    """Nanoseconds per state update of volumes and of images with equally many updates, measured turn by turn."""
    rows = []
    for image, volume in EQUAL_UPDATES:
        updates = 2 * len(image) * prod(image) * CHANNELS * STATES
        assert updates == 2 * len(volume) * prod(volume) * CHANNELS * STATES
        inputs = {shape: make_inputs(1, shape, CHANNELS, dtype, device) for shape in (image, volume)}
        for with_backward in (False, True):
            times: dict[tuple[int, ...], list[float]] = {image: [], volume: []}
            for turn in range(turns + 1):
                for shape, tensors in inputs.items():
                    seconds = timed(partial(one_pass, backend, tensors, with_backward), device)
                    times[shape] += [seconds] if turn else []  # the first turn warms up
            flat, deep = (1e9 * statistics.median(times[shape]) / updates for shape in (image, volume))
            what = "forward + backward" if with_backward else "forward"
            rows.append({"backend": backend, "threads": torch.get_num_threads() if device == "cpu" else None})
            rows[-1] |= {"pass": what, "image": image, "volume": volume, "updates": updates}
            rows[-1] |= {"image_ns": flat, "volume_ns": deep, "ratio": deep / flat}
            print(rows[-1], flush=True)
    return rows


def one_pass(backend: str, inputs: list[Tensor], with_backward: bool) -> None:
    if not with_backward:
        with torch.no_grad():
            scan(backend, *inputs)
        return
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = scan(backend, *leaves)
    torch.autograd.grad(y, leaves, torch.ones_like(y))


def timed(run: Callable[[], None], device: str) -> float:
    """Seconds of one run."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def activation_mib(backend: str, inputs: list[Tensor]) -> float:
    """Memory that a forward pass keeps for its backward pass beyond its inputs, in MiB."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    given = {x.untyped_storage().data_ptr() for x in leaves}
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        y = scan(backend, *leaves)  # alive until the sum is taken: no address is used twice
    total = sum(kept.values()) / 2**20
    del y
    return total


def plot(growth: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    labels = list(dict.fromkeys((row["backend"], row["threads"]) for row in growth))
    for ax, key, title in zip(
        axes, ("forward_ms", "forward_backward_ms"), ("forward", "forward + backward"), strict=True
    ):
        for number, (name, threads) in enumerate(labels):
            line = [
                (r["pixels"], r[key]) for r in growth if (r["backend"], r["threads"]) == (name, threads) and key in r
            ]
            if line:
                text = name + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")
                ax.loglog(*zip(*line, strict=True), "o-", label=text, color=f"C{number}")
        ax.set(title=f"SS2D scan, {title}", xlabel="pixels of the feature map")
        ax.grid(True, which="both", alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    axes[0].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224, 448], help="image sides, in pixels")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    arguments = parser.parse_args()
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    backends = [row.name for row in backend_status(device)[1:] if row.available and row.name != "reference"]
    if device == "cuda" and importlib.util.find_spec("mamba_ssm"):
        backends.append("mamba-ssm")
    refused = {name: why for name in backends if (why := disagreement(name, dtype, device))}
    timed = [name for name in backends if name not in refused]

    sizes = sorted({*arguments.sizes, REFERENCE_SIZE})
    growth, ratios, volumes = [], [], []
    for threads in arguments.threads if device == "cpu" else [None]:
        if threads:
            torch.set_num_threads(threads)
        at_reference_size = {}
        for size in sizes:
            inputs = make_inputs(arguments.batch, (size // PATCH,) * 2, CHANNELS, dtype, device)
            for name in timed:
                row = {"backend": name, "threads": threads, "size": size, "pixels": (size // PATCH) ** 2}
                row |= measure(name, inputs, device)
                growth.append(row)
                print(row, flush=True)
                if size == REFERENCE_SIZE:
                    at_reference_size[name] = row
            if size == REFERENCE_SIZE:
                row = {"backend": "reference", "threads": threads, "size": size, "pixels": (size // PATCH) ** 2}
                at_reference_size["reference"] = row | measure("reference", inputs, device, with_backward=False)
                growth.append(at_reference_size["reference"])
        volumes += [row for name in timed if name in KERNELS for row in per_update(name, dtype, device)]
        reference, portable = at_reference_size["reference"], at_reference_size.get("torch")
        for name in timed:
            row = at_reference_size[name]
            backward = (row["forward_backward_ms"] - row["forward_ms"]) / row["forward_ms"]
            ratio = {"backend": name, "threads": threads, "backward_by_forward": backward}
            ratio["forward_against_reference"] = reference["forward_ms"] / row["forward_ms"]
            if portable:
                ratio["both_against_torch"] = portable["forward_backward_ms"] / row["forward_backward_ms"]
            ratios.append(ratio)

    inputs = make_inputs(arguments.batch, (REFERENCE_SIZE // PATCH,) * 2, CHANNELS, dtype, device)
    memory = {name: activation_mib(name, inputs) for name in ["reference", *timed]}

    picture = result_path("scan").with_suffix(".png")
    plot(growth, picture)
    command = " ".join(["python benchmarks/scan.py", *sys.argv[1:]])
    lines = [
        f"`{command}`: first-stage scan of an S x S image (S/4 x S/4 pixels, {CHANNELS} channels, "
        f"{STATES} states, 4 directions), batch {arguments.batch}, {arguments.dtype}; medians.",
        f"## Ratios at {REFERENCE_SIZE} x {REFERENCE_SIZE}",
        table(
            [
                "backend",
                "threads",
                "forward, against the reference",
                "forward + backward, against `torch`",
                "backward / forward",
            ],
            [
                [
                    r["backend"],
                    r["threads"] or "",
                    f"{r['forward_against_reference']:.0f}x",
                    f"{r['both_against_torch']:.1f}x" if "both_against_torch" in r else "",
                    f"{r['backward_by_forward']:.2f}",
                ]
                for r in ratios
            ],
        ),
        "Committed for `cpu`, one / four threads: "
        + "; ".join(f"{what}, {one}x / {four}x" for what, (one, four) in TARGETS.items())
        + "; backward / forward 2.5.",
        *(f"**{name} is not timed, because it disagrees with the reference: {why}.**" for name, why in refused.items()),
        "## Times",
        table(
            ["backend", "threads", "image", "forward, ms", "forward + backward, ms"],
            [
                [
                    r["backend"],
                    r["threads"] or "",
                    f"{r['size']} x {r['size']}",
                    f"{r['forward_ms']:.1f}",
                    f"{r['forward_backward_ms']:.1f}" if "forward_backward_ms" in r else "",
                ]
                for r in growth
            ],
        ),
        f"![time against pixels]({picture.name})",
        "## Volumes against images of equally many state updates, per update",
        table(
            ["backend", "threads", "pass", "image", "volume", "ns, image", "ns, volume", "ratio"],
            [
                [
                    r["backend"],
                    r["threads"] or "",
                    r["pass"],
                    " x ".join(map(str, r["image"])),
                    " x ".join(map(str, r["volume"])),
                    f"{r['image_ns']:.3f}",
                    f"{r['volume_ns']:.3f}",
                    f"{r['ratio']:.2f}",
                ]
                for r in volumes
            ],
        ),
        f"Committed for `cpu`: at most {VOLUME_TARGET}.",
        f"## Memory kept for the backward pass at {REFERENCE_SIZE} x {REFERENCE_SIZE}, beyond the inputs",
        table(
            ["backend", "MiB", "of the reference"],
            [[name, f"{mib:.1f}", f"{mib / memory['reference']:.1%}"] for name, mib in memory.items()],
        ),
    ]
    values = {
        "command": command,
        "refused": refused,
        "ratios": ratios,
        "times": growth,
        "volumes": volumes,
        "memory_mib": memory,
    }
    write_result("scan", "The SS2D scan", ["\n\n".join(lines)], values)


if __name__ == "__main__":
    warnings.simplefilter("ignore", UserWarning)
    main()
