"""What a training step takes where other programs want the processor too, by how long torch's threads wait awake.

    python benchmarks/waiting.py        # about five minutes; wants a machine with nothing else to do

Each setting runs in a process of its own, turn by turn, beside none, one and two processes that only count. `ours` is
what the command `mamba-unet` sets. Writes benchmarks/results/waiting_<hardware>_<date>.md and .json.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping

from mamba_unet.cli import SPINS
from mamba_unet.words import counted
from measuring import table, write_result

STEP = """
import statistics, time, torch
from mamba_unet import build_model

torch.manual_seed(0)
network = build_model(size="mini").train()
images, labels = torch.randn(8, 1, 128, 128), torch.randint(0, 4, (8, 128, 128))
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)


def step():
    start = time.perf_counter()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()
    return time.perf_counter() - start


step()
print(statistics.median(step() for _ in range(5)))
"""
SETTINGS = {
    "libgomp's own": {},
    "ours": {"GOMP_SPINCOUNT": SPINS},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
OTHERS = (0, 1, 2)


def step_s(setting: Mapping[str, str], others: int) -> float:
    """Median seconds of a training step beside so many busy processes."""
    clean = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    try:
        words = [sys.executable, "-c", STEP]
        done = subprocess.run(words, env={**clean, **setting}, check=True, stdout=subprocess.PIPE, text=True)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()
    seconds: dict[str, dict[int, list[float]]] = {name: {others: [] for others in OTHERS} for name in SETTINGS}
    for _ in range(args.turns):
        for others in OTHERS:
            for name, setting in SETTINGS.items():
                seconds[name][others].append(step_s(setting, others))
    rows = [
        [name, *(f"{statistics.median(times):.2f}" for times in by_others.values())]
        for name, by_others in seconds.items()
    ]
    lines = [
        f"`python benchmarks/waiting.py --turns {args.turns}`: seconds of a training step of `mini`, batch 8 at "
        f"128 x 128; medians over {counted(args.turns, 'process')}.",
        "",
        table(["threads wait", *(f"{others} others" for others in OTHERS)], rows),
    ]
    print(write_result("waiting", "Threads that wait awake", lines, {"seconds": seconds}))


if __name__ == "__main__":
    main()
