"""Time the whole Mamba-UNet on every backend, and check that half precision stays finite.

    python benchmarks/model.py                                   # CPU: about ten minutes, most of it the slow backends
    python benchmarks/model.py --device cuda --dtype bfloat16 --batch 1 24 --sizes 224 448

Forward pass and training step (forward, loss, backward, SGD) of the default network, in one run: against the reference
scan (forward only: its gradient is pathological) and against portable PyTorch. Peak memory is the process's, each
measured in a process of its own. A backend whose logits or gradients disagree is named, and not timed. Writes
benchmarks/results/model_<hardware>_<date>.md and .json.
"""

import argparse
import itertools
import json
import subprocess
import sys

import torch

from mamba_unet import MambaUNet, build_model
from mamba_unet.ops import backend_status, use_backend
from mamba_unet.training.objectives.losses import segmentation_loss
from measuring import median_ms, process_peak_mib, table, write_result

TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # of the largest value
LARGEST = {"reference": 224, "torch": 448}  # image sides beyond which a slow backend is not timed


def disagreement(backend: str, device: str, dtype: str) -> str:
    """Where a small network's logits or gradients leave those of the portable backend, or an empty string."""
    results = []
    for name, precision in (("torch", "float32"), (backend, dtype)):
        torch.manual_seed(0)
        model = build_model(size="micro", drop_path_rate=0.0).to(device)
        x, y = torch.randn(2, 1, 64, 96, device=device), torch.randint(0, 4, (2, 64, 96), device=device)
        with use_backend(name), torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(x)
            loss = segmentation_loss(logits, y)["loss"]
        loss.backward()
        gradient = torch.cat([p.grad.flatten().float() for p in model.parameters()])
        results.append((logits.float(), gradient))
    for what, expected, got in zip(("logits", "gradients"), *results, strict=True):
        error = ((got - expected).norm() / expected.norm()).item()
        if not error <= TOLERANCE[dtype]:
            return f"{what} are off by {error:.1e}"
    return ""


def measure(backend: str, device: str, dtype: str, batch: int, size: int, what: str, threads: int) -> dict[str, float]:
    """One measurement: `{"ms": ..., "peak_mib": ...}`; `what` is "forward" or "step"."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = MambaUNet().to(device)
    x = torch.randn(batch, 1, size, size, device=device)
    y = torch.randint(0, 4, (batch, size, size), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def forward() -> None:
        with torch.inference_mode():
            model(x)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        segmentation_loss(model(x), y)["loss"].backward()
        optimizer.step()

    model.train(what == "step")
    slow = backend in LARGEST
    with use_backend(backend), torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
        ms = median_ms({"forward": forward, "step": step}[what], device, seconds=3, least=2 if slow else 5)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = process_peak_mib()
    return {"ms": ms, "peak_mib": peak}


def measure_apart(*arguments: object) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def stays_finite(device: str, size: str, steps: int) -> bool:
    """Train under bfloat16 autocast with inputs scaled by 100; whether every loss and weight is finite."""
    torch.manual_seed(0)
    model = build_model(size=size).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    finite = torch.tensor(True, device=device)
    for _ in range(steps):
        x = 100 * torch.randn(2, 1, 64, 64, device=device)
        y = torch.randint(0, 4, (2, 64, 64), device=device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = segmentation_loss(model(x), y)["loss"]
        loss.backward()
        optimizer.step()
        finite &= loss.isfinite()
    return bool(finite) and all(p.isfinite().all().item() for p in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224, 448])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--finite-steps", type=int, default=500, help="training steps that must stay finite")
    args = parser.parse_args()
    device = args.device

    available = [row.name for row in backend_status(device)[1:] if row.available]
    refused = {name: why for name in available if (why := disagreement(name, device, args.dtype))}
    times: dict[tuple[str, str, int, int, int], dict[str, float]] = {}
    threads_tried = args.threads if device == "cpu" else [1]
    for threads, batch, size, name in itertools.product(threads_tried, args.batch, args.sizes, available):
        if name in refused or size > LARGEST.get(name, size):
            continue
        for what in ("forward",) if name == "reference" else ("forward", "step"):
            key = (name, what, threads, batch, size)
            times[key] = measure_apart(name, device, args.dtype, batch, size, what, threads)
            print(*key, times[key], flush=True)

    fast = next((n for n in ("triton", "cpu") if n in available and n not in refused), "torch")
    compared = {
        "forward, against the reference": (("reference", "forward", 224), (fast, "forward", 224)),
        "training step, against portable PyTorch": (("torch", "step", 224), (fast, "step", 224)),
        "growth of the forward pass, 448 against 224": ((fast, "forward", 448), (fast, "forward", 224)),
    }
    ratios = []
    for threads, batch, what in itertools.product(threads_tried, args.batch, compared):
        slow, quick = (times.get((name, part, threads, batch, size)) for name, part, size in compared[what])
        if slow and quick:
            ratios.append([what, threads, batch, round(slow["ms"] / quick["ms"], 2)])
    network = "tiny" if device == "cuda" else "mini"
    finite = stays_finite(device, network, args.finite_steps)
    print(f"bfloat16, {args.finite_steps} steps of {network}: {'finite' if finite else 'NOT FINITE'}")

    lines = [
        f"Mamba-UNet, default sizes, 1 channel, 4 classes, {args.dtype}; medians; peak memory is "
        + ("torch's on the device." if device == "cuda" else "the process's, importing the libraries included."),
        "",
        f"Command: `{' '.join(['python benchmarks/model.py', *sys.argv[1:]])}`",
        "",
        *(f"**{name} is not timed, because it disagrees: {why}.**\n" for name, why in refused.items()),
        f"## `{fast}`, ratios at 224 x 224",
        "",
        table(["", "threads", "batch", "ratio"], ratios),
        "",
        "## Times",
        "",
        table(
            ["backend", "pass", "threads", "batch", "image side", "ms", "peak MiB"],
            [[*key, round(time["ms"]), round(time["peak_mib"])] for key, time in times.items()],
        ),
        "",
        f"## Half precision\n\nbfloat16 autocast, inputs scaled by 100, {args.finite_steps} training steps of "
        f"`{network}` at 64 x 64: " + ("every loss and weight finite." if finite else "**not finite**."),
    ]
    rows = [[*key, time] for key, time in times.items()]
    values = {"times": rows, "ratios": ratios, "refused": refused, "bfloat16_finite": finite}
    write_result("model" if device == "cpu" else f"model_{args.dtype}", "The whole network", lines, values)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        backend, device, dtype, batch, size, what, threads = sys.argv[2:]
        print(json.dumps(measure(backend, device, dtype, int(batch), int(size), what, int(threads))))
    else:
        main()
