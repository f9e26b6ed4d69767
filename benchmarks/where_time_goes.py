"""Where the time of a training step and of a forward pass goes, by torch's profiler.

    python benchmarks/where_time_goes.py [--threads 1]     # a minute; wants a machine with nothing else to do

The work is that of against.py. Every operation's own time is the median over the repetitions. Beside the matrix
products stands the rate at which they are computed, and that of one large product in the same run: what this machine
reaches.
Writes benchmarks/results/where_time_goes_<hardware>_<date>.md and .json.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from against import WORK, make_work
from measuring import median_ms, table, write_result

NAMES = {  # how the profiler calls it -> the operation, the first that fits
    "cpu_scan_backward": "scan, backward",
    "cpu_scan_defaultBackward": "other",
    "cpu_scan": "scan, forward",
    "aten::mm": "matrix products",
    "aten::addmm": "matrix products",
    "aten::bmm": "matrix products",
    "convolution": "convolutions",
    "conv2d": "convolutions",
    "layer_norm": "LayerNorm",
    "silu": "SiLU",
    "aten::copy_": "copies",
    "aten::cat": "copies",
}
LARGE = 2048


def own_times(run: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of each operation in one run."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        run()
    times = defaultdict(float)
    for event in profiled.key_averages():
        name = next((name for part, name in NAMES.items() if part in event.key), "other")
        times[name] += event.self_cpu_time_total / 1e3
    return times


def gflop_of_products(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counted:
        run()
    by_operation = counted.get_flop_counts()["Global"]
    return sum(count for operation, count in by_operation.items() if "mm" in str(operation)) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()

    work, lines, results = make_work(), ["`python benchmarks/where_time_goes.py`; float32."], []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        a, b = torch.randn(2, LARGE, LARGE)
        large = 2 * LARGE**3 / 1e6 / median_ms(lambda a=a, b=b: a @ b)  # GFLOP/s
        for name in ("step", "forward"):
            run = work[name]
            gflop = gflop_of_products(run)
            runs = [own_times(run) for _ in range(arguments.repeats)]
            times = {key: statistics.median(one[key] for one in runs) for key in dict.fromkeys(NAMES.values())}
            times = {key: value for key, value in sorted(times.items(), key=lambda item: -item[1]) if value > 0}
            total, rate = sum(times.values()), gflop / times["matrix products"] * 1e3
            rows = [[key, f"{value:.1f}", f"{value / total:.0%}"] for key, value in times.items()]
            lines += ["", f"## {WORK[name].removesuffix(', ms')}, {threads} thread{'s' * (threads > 1)}", ""]
            lines += [table(["", "ms", "share"], [*rows, ["all", f"{total:.1f}", ""]]), ""]
            lines += [
                f"The matrix products are {gflop:.1f} GFLOP, at {rate:.0f} GFLOP/s. One of {LARGE} x {LARGE} x {LARGE} "
                f"reaches {large:.0f} GFLOP/s here."
            ]
            results.append(
                {"work": name, "threads": threads, "ms": times, "gflop": gflop, "rate": rate, "rate_of_large": large}
            )
    write_result("where_time_goes", "Where the time goes", lines, {"results": results})


if __name__ == "__main__":
    main()
