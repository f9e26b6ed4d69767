"""Trainings on the workers of a cluster; each goes on from its last state wherever it is done next."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from mamba_unet.cluster.connection import Cluster, dead_hosts, import_ray
from mamba_unet.cluster.dispatch import GivenUp, Hand, Item
from mamba_unet.cluster.run import carry_out
from mamba_unet.data.local_copy import local_copy
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.splits import split_name
from mamba_unet.environment import hardware_name
from mamba_unet.evaluation.metrics import Conventions
from mamba_unet.inference.evaluate import evaluate_checkpoint
from mamba_unet.runs import RunFolder
from mamba_unet.training.progress import Progress
from mamba_unet.training.recipe import Recipe
from mamba_unet.training.train import train

LOCK_S = 60.0  # that a training whose machine died may still hold its folder


class TrainWorker:
    """Trains a network and measures it on its test cases, one after another.

    Args:
        data: the prepared data.
        conventions, device: as for `evaluate_checkpoint`.
        cache_dir: as for `train`.
    """

    def __init__(self, data: str, conventions: Conventions, device: str, cache_dir: str | Path | None = None) -> None:
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            del os.environ[name]  # this is no process of the job that started Ray
        self.prepared = PreparedDataset(data if cache_dir is None else local_copy(data, cache_dir))
        self.conventions, self.device, self.cache_dir = conventions, device, cache_dir
        self.about = {"device": hardware_name()}

    def do(self, run: Recipe) -> str:
        """Why the training failed; empty where it did not."""
        folder = RunFolder(run.out)
        try:
            _wait_until_free(folder)
            if not folder.is_complete:
                train(run, resume=True, cache_dir=self.cache_dir, progress=Progress())
            split = split_name("test", run.fold)
            evaluate_checkpoint(run.out, self.prepared, split, conventions=self.conventions, device=self.device)
        except (ValueError, OSError, ArithmeticError, RuntimeError) as error:
            return str(error) or type(error).__name__
        return ""


def train_on(
    cluster: Cluster,
    runs: Sequence[Recipe],
    out: Path,
    conventions: Conventions,
    device: str,
    cache_dir: str | Path | None = None,
) -> None:
    """Train and measure networks on a cluster, in about this order, and write who did what.

    Args:
        cluster: which one.
        runs: each with its data, folder, seed and fold; those that were begun go on.
        out: folder of the report.
        conventions, device: as for `evaluate_checkpoint`.
        cache_dir: as for `train`, on a disk of each machine.

    Raises:
        ValueError: a training failed, which stops no other; no such cluster, or storage that its machines do not share.
    """
    failures: dict[str, str] = {}

    def settled(item: Item, answer: str | GivenUp, hand: Hand) -> bool:
        reason = answer.reason if isinstance(answer, GivenUp) else answer
        if reason:
            failures[item.name] = reason
        return bool(reason)

    carry_out(
        cluster,
        partial(TrainWorker, runs[0].data, conventions, device, cache_dir),
        [Item(os.path.relpath(run.out, out), run.iterations, run) for run in runs],
        wants_gpu=any(run.trainer.accelerator != "cpu" for run in runs),
        out=out,
        seen=[Path(runs[0].data)],
        noun="training",
        unit=("it", "iterations", 1),
        at_once=1,
        settled=settled,
        reached=lambda item: _iterations(item.work),
        progress=True,
    )
    if failures:
        listed = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise ValueError(
            f"{len(failures)} of {len(runs)} trainings failed ({listed}); the others are complete: the same command "
            "tries these again, --only-finished compares without them"
        )


def _iterations(run: Recipe) -> float:
    with suppress(OSError, ValueError):
        return RunFolder(run.out).read_progress().get("iteration", 0)
    return 0


def _wait_until_free(run: RunFolder) -> None:
    """A process that is dying holds its folder for a moment; that of a dead machine may for ever, on a network's file
    system.

    Raises:
        ValueError: another training writes there.
    """
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            with run.lock():
                return
        except ValueError:
            if run.lock_host() in dead_hosts(import_ray()):
                run.break_lock()
            elif time.monotonic() > deadline:
                raise
            else:
                time.sleep(0.5)
