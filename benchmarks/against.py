"""Time this source tree against another one, turn by turn on the same machine.

    git worktree add ../before a6d14c7 && (cd ../before && python setup.py build_ext --inplace)
    python benchmarks/against.py ../before               # about five minutes; wants a machine with nothing else to do

One process per tree waits for work, and the two take turns at one short repetition each, so that whatever else slows
the machine down slows both. Each lays weights out, and steps, as it does when it trains or predicts on a CPU. The trees
need their compiled scans (`python setup.py build_ext --inplace`), nothing else. Reports for each piece of work the
ratio of the medians and that of the fastest repetitions, theirs by ours. Writes
benchmarks/results/against_<hardware>_<date>.md and .json.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

OURS = Path(__file__).resolve().parents[1]
WORK = {  # name -> what it is
    "step": "training step of `mini`, batch 8 at 128 x 128 (forward, loss, backward, AdamW), ms",
    "forward": "forward pass of the default network, one image of 224 x 224, ms",
    "scan_forward": "four-direction scan of the first stage with dt's projection, forward, ms",
    "scan_backward": "the same, backward, ms",
    "step_mib": "that training step's peak memory beyond what is held between steps, MiB",
}


# --- in the process of a tree ---


def make_work() -> dict[str, Callable[[], float]]:
    """Each piece of work by name: a function that does it once and returns milliseconds, or MiB."""
    import torch

    from mamba_unet import build_model

    try:  # what a tree does before it trains or predicts on a CPU
        from mamba_unet.models.layers import in_cpu_order as prepared
    except ImportError:
        prepared, fused = (lambda network: network), False
    else:
        fused = True

    torch.manual_seed(0)
    mini, network = prepared(build_model(size="mini").train()), prepared(build_model().eval())
    images, labels = torch.randn(8, 1, 128, 128), torch.randint(0, 4, (8, 128, 128))
    image = torch.randn(1, 1, 224, 224)
    optimizer = torch.optim.AdamW(mini.parameters(), lr=1e-3, fused=fused)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        training_loss(mini(images), labels).backward()
        optimizer.step()

    def forward() -> None:
        with torch.inference_mode():
            network(image)

    scan, leaves = first_stage_scan()
    gradient = torch.ones(1, 56, 56, 192)

    def scan_forward() -> None:
        with torch.no_grad():
            scan()

    def scan_backward() -> float:
        y = scan()
        return timed(lambda: torch.autograd.grad(y, leaves, gradient))

    step()  # AdamW's state is there from now on
    return {
        "step": lambda: timed(step),
        "forward": lambda: timed(forward),
        "scan_forward": lambda: timed(scan_forward),
        "scan_backward": scan_backward,
        "step_mib": lambda: peak_growth_mib(step),
    }


def training_loss(logits, labels):
    """Cross-entropy and soft Dice in equal parts, as our training has it. Its place differs from tree to tree."""
    import torch.nn.functional as F

    p, target = logits.softmax(1), F.one_hot(labels, logits.shape[1]).movedim(-1, 1).float()
    overlap, total = (p * target).sum((0, 2, 3)), (p.square() + target).sum((0, 2, 3))
    return 0.5 * (F.cross_entropy(logits, labels) + 1 - ((2 * overlap + 1e-5) / (total + 1e-5)).mean())


def first_stage_scan():
    """The scan of 56 x 56 pixels with 192 channels, from dt of rank 6, and the tensors that get gradients."""
    import inspect

    import torch

    from mamba_unet import ops

    channels, states, rank = 192, 16, 6
    u, projected = torch.randn(1, 56, 56, channels), torch.randn(1, 56, 56, 4, rank + 2 * states)
    weight = 0.4 * (2 * torch.rand(4, channels, rank) - 1)
    A = -torch.arange(1.0, states + 1).repeat(4, channels, 1)
    bias = torch.log(torch.expm1(torch.exp(torch.rand(4, channels) * 4.6 - 6.9)))  # delta from 0.001 to 0.1
    leaves = [x.requires_grad_() for x in (u, projected, weight, A, torch.full((channels,), 4.0), bias)]
    cross_scan = getattr(ops, "cross_scan", None) or ops.ss2d_scan  # its name before there were volumes
    inside = "dt_weight" in inspect.signature(cross_scan).parameters  # whether the scan multiplies

    def scan() -> torch.Tensor:
        u, projected, weight, A, D, bias = leaves
        dt, B, C = projected.split((rank, states, states), dim=-1)
        if inside:
            return cross_scan(u, dt, B, C, A, D, bias, weight)
        dt = torch.matmul(dt.movedim(3, 0).flatten(1, 3), weight.transpose(1, 2))
        return cross_scan(u, dt.view(4, *u.shape).movedim(0, 3), B, C, A, D, bias)

    return scan, leaves


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)


def peak_growth_mib(run: Callable[[], object]) -> float:
    """By how much the process grew at the most while running. Linux with glibc."""
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work left in the allocator's hands would hide growth
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory_mib("VmRSS")
    run()
    return memory_mib("VmHWM") - before


def memory_mib(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def serve() -> None:
    """Do the work named on each line of standard input, with the number of threads beside it; print what it took."""
    import torch

    work = make_work()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, threads = json.loads(line)
        torch.set_num_threads(threads)
        print(json.dumps(work[name]()), flush=True)


# --- in the process that compares ---


class Tree:
    """A process that works with one tree's sources."""

    def __init__(self, folder: Path) -> None:
        libraries = list((folder / "src/mamba_unet/ops").glob("libscan_*"))
        if not libraries:
            sys.exit(f"{folder} has no compiled scan; run `python setup.py build_ext --inplace` there")
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder / "src")},
        )
        self.answer()

    def answer(self) -> float:
        line = self.process.stdout.readline()
        if not line:
            sys.exit("a tree's process ended; its error is above")
        return json.loads(line)

    def do(self, name: str, threads: int) -> float:
        self.process.stdin.write(json.dumps([name, threads]) + "\n")
        self.process.stdin.flush()
        return self.answer()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the other tree: a folder with src/ in it")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    arguments = parser.parse_args()

    trees = {"theirs": Tree(arguments.other.resolve()), "ours": Tree(OURS)}
    results = []
    for threads in arguments.threads:
        for name in arguments.work:
            values = {who: [] for who in trees}
            for repeat in range(arguments.repeats + 1):
                for who, tree in trees.items():
                    value = tree.do(name, threads)
                    if repeat:  # the first warms up
                        values[who].append(value)
            row = {"work": name, "threads": threads, **values}
            row["ratio"] = statistics.median(values["theirs"]) / statistics.median(values["ours"])
            row["ratio_of_fastest"] = min(values["theirs"]) / min(values["ours"])
            results.append(row)
            print(name, threads, f"{row['ratio']:.2f} {row['ratio_of_fastest']:.2f}", flush=True)
    for tree in trees.values():
        tree.process.stdin.close()

    from measuring import table, write_result

    def commit(folder: Path) -> str:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"

    versions = {"theirs": commit(arguments.other), "ours": commit(OURS)}
    rows = [
        [WORK[row["work"]], row["threads"]]
        + [f"{statistics.median(row[who]):.1f}" for who in trees]
        + [f"{row['ratio']:.2f}", f"{row['ratio_of_fastest']:.2f}"]
        for row in results
    ]
    other = os.path.relpath(arguments.other, OURS)  # without the folders of this machine
    given = [other if word == str(arguments.other) else word for word in sys.argv[1:]]
    lines = [
        f"`python benchmarks/against.py {' '.join(given)}`: theirs is {versions['theirs']}, ours "
        f"{versions['ours']}; {arguments.repeats} repetitions each, turn by turn; medians.",
        "",
        table(["", "threads", "theirs", "ours", "theirs / ours", "of the smallest"], rows),
    ]
    for threads in arguments.threads:
        ours = {row["work"]: statistics.median(row["ours"]) for row in results if row["threads"] == threads}
        if {"scan_forward", "scan_backward"} <= set(ours):
            ratio = ours["scan_backward"] / ours["scan_forward"]
            lines += ["", f"Our scan, backward / forward, {threads} thread{'s' * (threads > 1)}: {ratio:.2f}."]
    write_result("against", "Against an earlier version", lines, {"versions": versions, "results": results})


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve()
    else:
        main()
