"""What the benchmarks share: timing, tables, and where a result goes."""

import datetime
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mamba_unet.cli import main as mamba_unet
from mamba_unet.environment import describe_environment, hardware_name
from mamba_unet.files import write_json, write_text
from mamba_unet.training.recipe import Recipe

RESULTS = Path(__file__).parent / "results"
LOAD_AT_START = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # what else kept the machine busy


def median_ms(run: Callable[[], object], device: str = "cpu", seconds: float = 1.5, least: int = 3) -> float:
    """The median over as many runs as fit in the time, at least `least`, after one to warm up."""

    def once() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start)

    once()
    times = [once() for _ in range(least)]
    while sum(times) < 1000 * seconds and len(times) < 200:
        times.append(once())
    return statistics.median(times)


def process_peak_mib() -> float:
    """The most memory that this process has held. Linux; not getrusage's, which a process inherits from its parent."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def run(*words: str | Path) -> None:
    """Run a `mamba-unet` command in this process; leave with its exit code if it fails."""
    print("$ mamba-unet", *words, flush=True)
    if code := mamba_unet([str(word) for word in words]):
        sys.exit(code)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, its first column to the left and numbers to the right."""
    align = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in [header, align, *rows])


def axes(recipes: Iterable[Recipe]) -> str:
    """What a result's name has more where volumes are seen whole: "_3d"."""
    return "_3d" if any(recipe.view.spatial_dims == 3 for recipe in recipes) else ""


def result_path(what: str, hardware: str | None = None) -> Path:
    """results/<what>_<hardware>_<date>.md, this machine's unless another is named."""
    slug = re.sub(r"[^a-z0-9]+", "-", (hardware or hardware_name()).lower()).strip("-")
    return RESULTS / f"{what}_{slug}_{datetime.date.today().isoformat()}.md"


def write_result(
    what: str,
    title: str,
    lines: Sequence[str],
    values: dict[str, Any],
    elsewhere: Mapping[str, Any] | None = None,
) -> Path:
    """Write a result for people (.md) and for programs (.json), with the machine, the versions and the date in it.

    Args:
        what: begins the files' names.
        title: heading of the page.
        lines: Markdown below the heading and the line on the machine.
        values: everything measured, ready for JSON.
        elsewhere: `describe_environment` of another machine that did the work; None for this one.
    """
    environment, load = elsewhere or describe_environment(), None if elsewhere else LOAD_AT_START
    hardware = hardware_name() if elsewhere is None else (elsewhere["gpus"] or [elsewhere["cpu"]])[0]
    path, date = result_path(what, hardware), datetime.date.today().isoformat()
    machine = f"{hardware}; torch {environment['torch']}, Python {environment['python']}; {date}"
    machine += "" if load is None else f"; load average at the start {load:.1f}"
    write_json(path.with_suffix(".json"), {"date": date, "environment": environment, "load_at_start": load, **values})
    write_text(path, "\n".join([f"# {title}", "", f"Machine: {machine}", "", *lines]) + "\n")
    print(f"written to {path}")
    return path
