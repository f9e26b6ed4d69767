"""What a cluster costs and gives: overhead and driver's memory over many tiny cases, two workers against one.

    python benchmarks/cluster.py                              # about five minutes on two cores that are idle
    python benchmarks/cluster.py --tiny 300 --volumes 4       # only to see that it works

Ray runs on this machine alone, with workers of one core each. Tiny cases (one slice of 16 x 16 through a nano network)
are segmented by one process and by one worker: what the worker takes longer per case is the overhead. Meanwhile the
memory of the driver is read. Then volumes through the paper's network at 128 x 128, by one process, one worker and two;
all of their results are compared to the byte. Writes benchmarks/results/cluster_<hardware>_<date>.md and .json.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from mamba_unet import build_model
from mamba_unet.cluster import Cluster
from mamba_unet.cluster.connection import connected
from mamba_unet.cluster.predict import ClusterWorkers
from mamba_unet.inference import Predictor, predict_files
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint, slices_preprocessing
from mamba_unet.models.registry import resolve_config
from mamba_unet.views.intensity import MINMAX
from measuring import table, write_result

OF_CLUSTER = ("cluster.json", "cluster.md")
AIM_MS, AIM_TIMES, AIM_MIB = 5.0, 1.8, 16.0


def memory_mib() -> float:
    """What this process holds now. Linux."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def save_network(folder: Path, size: str, side: int) -> Path:
    torch.manual_seed(0)
    config = {"in_channels": 1, "num_classes": 4, **resolve_config(size, {})}
    names = ["background", "right ventricle", "myocardium", "left ventricle"]
    metadata = CheckpointMetadata("mamba_unet", config, names, slices_preprocessing([MINMAX], (side, side), None))
    save_checkpoint(folder / "best.safetensors", build_model("mamba_unet", **config), metadata)
    return folder


def save_images(folder: Path, count: int, shape: tuple[int, int, int], ending: str) -> Path:
    """Noise of shape (X, Y, Z)."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        image = nib.Nifti1Image(rng.integers(0, 600, shape).astype(np.int16), np.diag([1.5, 1.5, 8, 1]))
        nib.save(image, folder / f"case{number:05}{ending}")
    return folder


class Watched(ClusterWorkers):
    """Reads the memory of the driver while cases come in, ten times."""

    def __init__(self, actors: int) -> None:
        cluster = Cluster("local", actors=actors, gpus_per_actor=0, cpus_per_actor=1)
        super().__init__(cluster, "cpu", None, progress=True)
        self.memory: list[float] = []

    def run(self, predictor, task, jobs, done):
        came = 0

        def watched(outcome) -> None:
            nonlocal came
            done(outcome)
            came += 1
            if came % max(1, len(jobs) // 10) == 0:
                self.memory.append(memory_mib())

        return super().run(predictor, task, jobs, watched)


def segment(network: Path, images: Path, out: Path, workers: Watched | None = None) -> float:
    """Seconds of all cases by one process, or by a cluster, each without a process to read in."""
    predictor, start = Predictor(network, "cpu"), time.perf_counter()
    how = {"progress": False, "outputs": ("auto", "statistics"), "isolated": False, "workers": workers}
    done = predict_files(predictor, [images], out, **how)
    if done.failures:
        raise SystemExit(str(done.failures))
    return time.perf_counter() - start


def rate(out: Path) -> float:
    """Cases per second of all workers together, without the time in which they started."""
    workers = json.loads((out / "cluster.json").read_text(encoding="utf-8"))["workers"]
    return sum(worker["done"] / worker["busy_seconds"] for worker in workers)


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in OF_CLUSTER]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", type=int, default=10_000, help="tiny cases")
    parser.add_argument("--volumes", type=int, default=16, help="volumes of 8 slices")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary, connected(Cluster("local"), wants_gpu=False):
        folder = Path(temporary)
        network = save_network(folder / "nano", "nano", 32)
        tiny = save_images(folder / "tiny images", arguments.tiny, (16, 16, 1), ".nii")
        few = save_images(folder / "few images", max(1, arguments.tiny // 10), (16, 16, 1), ".nii")
        one_ms = 1000 * segment(network, few, folder / "tiny, one process") / len(list(few.iterdir()))
        watched = Watched(actors=1)
        cpu = time.process_time()
        seconds = segment(network, tiny, folder / "tiny, one worker", watched)
        driver_ms = 1000 * (time.process_time() - cpu) / arguments.tiny
        worker_ms = 1000 / rate(folder / "tiny, one worker")
        growth = watched.memory[-1] - watched.memory[0]

        network = save_network(folder / "tiny network", "tiny", 128)
        volumes = save_images(folder / "volumes", arguments.volumes, (128, 128, 8), ".nii.gz")
        alone_s = segment(network, volumes, folder / "alone")
        rates = {}
        for actors in (1, 2):
            segment(network, volumes, folder / str(actors), Watched(actors))
            rates[actors] = rate(folder / str(actors))
        expected = contents(folder / "alone")
        same = all(contents(folder / str(actors)) == expected for actors in rates)
    overhead, times = worker_ms - one_ms, rates[2] / rates[1]
    steps = [f"{share}0 %" for share in range(1, len(watched.memory) + 1)]
    lines = [
        f"Workers of one core each. {arguments.tiny:,} tiny cases, {arguments.volumes} volumes of 8 x 128 x 128.",
        "",
        table(
            ["", "measured", "aim"],
            [
                ["tiny case, one process", f"{one_ms:.1f} ms", ""],
                ["tiny case, one worker", f"{worker_ms:.1f} ms", ""],
                ["overhead of the cluster per case", f"{overhead:.1f} ms", f"< {AIM_MS:g} ms"],
                ["processor time of the driver per case", f"{driver_ms:.1f} ms", ""],
                ["growth of the driver from the first tenth to the end", f"{growth:.1f} MiB", f"< {AIM_MIB:g} MiB"],
                ["volumes per minute, one process", f"{60 * arguments.volumes / alone_s:.1f}", ""],
                ["volumes per minute, one worker", f"{60 * rates[1]:.1f}", ""],
                ["volumes per minute, two workers", f"{60 * rates[2]:.1f}", ""],
                ["two workers against one", f"{times:.2f} x", f">= {AIM_TIMES:g} x"],
                ["results byte for byte those of one process", "yes" if same else "NO", "yes"],
            ],
        ),
        "",
        "Memory of the driver while the tiny cases came in, MiB:",
        "",
        table(steps, [[f"{value:.0f}" for value in watched.memory]]),
        "",
        "Rates of workers count the time in which they held cases, not that of their start.",
        "",
        f"Command: `python benchmarks/cluster.py --tiny {arguments.tiny} --volumes {arguments.volumes}`",
    ]
    values = {
        "tiny_cases": arguments.tiny,
        "tiny_one_process_ms": one_ms,
        "tiny_one_worker_ms": worker_ms,
        "tiny_all_seconds": seconds,
        "overhead_ms": overhead,
        "driver_cpu_ms": driver_ms,
        "driver_memory_mib": watched.memory,
        "volumes": arguments.volumes,
        "volumes_one_process_per_second": arguments.volumes / alone_s,
        "volumes_per_second": rates,
        "two_against_one": times,
        "same_bytes": same,
    }
    write_result("cluster", "Cases on a cluster", lines, values)


if __name__ == "__main__":
    main()
