"""A training step on a CPU with the weights of convolutions in two orders of memory, and in bfloat16.

    python benchmarks/layout.py [--threads 1 2]

First both orders must agree: logits and gradients in float64. Then a step of each network (8 slices of 128 x 128,
forward, backward, AdamW) is timed: as PyTorch makes the weights and with AdamW's loop over them; as training orders
them, with AdamW's fused step; the same under bfloat16 autocast. The three take turns; medians, and ratios to the first.

Writes benchmarks/results/layout_<hardware>_<date>.md and .json.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamba_unet.models.layers import in_cpu_order
from mamba_unet.models.registry import build_model
from measuring import table, write_result

NETWORKS = {
    "mamba_unet_fine": "mini-deep",
    "mamba_unet_fine_no_scan": "mini-deep",
    "mamba_unet": "mini",
    "unet": None,
    "attention_unet": None,
}
WAYS = ("as made", "in CPU order", "in CPU order, bfloat16")
BATCH, SIDE, CLASSES = 8, 128, 4
TOLERANCE = 1e-9  # of the largest value, in float64


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, 1, CLASSES, size=NETWORKS[name])


def largest_difference(name: str) -> float:
    """Between both orders, of logits and gradients, relative to the largest of each. In float64, without dropout."""
    plain = build(name).double().eval()
    ordered = in_cpu_order(deepcopy(plain))
    image, label = torch.randn(2, 1, 64, 64).double(), torch.randint(0, CLASSES, (2, 64, 64))
    results: list[list[Tensor]] = []
    for network in (plain, ordered):
        logits = network(image)
        F.cross_entropy(logits, label).backward()
        results.append([logits.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])])
    pairs = zip(*results, strict=True)
    return max(((one - other).abs().max() / one.abs().max()).item() for one, other in pairs)


def step_of(name: str, way: str) -> Callable[[], None]:
    network = build(name).train()
    if way != WAYS[0]:
        network = in_cpu_order(network)
    optimizer = torch.optim.AdamW(network.parameters(), fused=way != WAYS[0])
    image, label = torch.randn(BATCH, 1, SIDE, SIDE), torch.randint(0, CLASSES, (BATCH, SIDE, SIDE))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=way == WAYS[2]):
            logits = network(image)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), label).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9, help="of one step of each, after two to warm up")
    args = parser.parse_args()

    rows, values = [], {}
    for name in NETWORKS:
        difference = largest_difference(name)
        if difference > TOLERANCE:
            raise SystemExit(f"{name}: the orders differ by {difference:.1e}, more than {TOLERANCE}")
        for threads in args.threads:
            torch.set_num_threads(threads)
            steps = {way: step_of(name, way) for way in WAYS}
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(args.rounds + 2):
                for way, step in steps.items():
                    start = time.perf_counter()
                    step()
                    if number >= 2:
                        seconds[way].append(time.perf_counter() - start)
            medians = [statistics.median(times) for times in seconds.values()]
            ratios = [
                statistics.median(a / b for a, b in zip(seconds[WAYS[0]], seconds[way], strict=True))
                for way in WAYS[1:]
            ]
            rows.append(
                [name, threads, *(f"{1000 * m:.0f} ms" for m in medians), *(f"{ratio:.2f}x" for ratio in ratios)]
            )
            values[f"{name}, {threads}"] = {"difference": difference, "seconds": seconds}
            print(rows[-1], flush=True)
    lines = [
        f"A step: {BATCH} slices of {SIDE} x {SIDE}, forward, backward and AdamW; {args.rounds} of each, by turns; "
        "medians, and the median ratio to the first. Logits and gradients of both orders agree to "
        f"{TOLERANCE:g} of the largest value, in float64.",
        "",
        table(["network", "threads", *WAYS, "faster", "faster, bfloat16"], rows),
    ]
    write_result("layout", "Training steps in two orders of memory", lines, {"steps": values})


if __name__ == "__main__":
    main()
