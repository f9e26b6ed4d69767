"""A list of work carried out on a cluster, from the connection to the report."""

import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mamba_unet.cluster.actor import Setup, Worker
from mamba_unet.cluster.connection import Cluster, connected
from mamba_unet.cluster.dispatch import Dispatcher, Hand, Item
from mamba_unet.cluster.progress import Progress
from mamba_unet.cluster.report import Report
from mamba_unet.volumes import limits


def carry_out(
    cluster: Cluster,
    make: Callable[[], Worker],
    items: Sequence[Item],
    *,
    wants_gpu: bool,
    out: Path,
    seen: Sequence[Path],
    noun: str,
    unit: tuple[str, str, float],
    at_once: int,
    settled: Callable[[Item, Any, Hand], bool],
    reached: Callable[[Item], float] = lambda item: 0.0,
    progress: bool,
) -> list[Hand]:
    """Have all items done by the workers of a cluster, and write `out/cluster.json` and `.md`.

    Args:
        cluster: which one.
        make: makes a worker, in its process; can be pickled.
        items: in the order in which they are begun.
        wants_gpu: whether the work can use a GPU.
        out: folder of the results.
        seen: paths that every machine must have.
        noun, at_once, settled, reached: see `Dispatcher`.
        unit: of an item's size for the bar, for the report, and how many of the first are one of the second.
        progress: show a bar, or lines where there is no terminal.

    Returns:
        The workers that there were.

    Raises:
        ValueError: no such cluster, or storage that its machines do not share.
    """
    with connected(cluster, wants_gpu) as crew:
        report = Report(out, unit[1:])
        setup = Setup(
            make=pickle.dumps(make),
            folder=os.getcwd(),
            seen=tuple(map(os.path.abspath, seen)),
            token=(str(report.mark), report.word),
            cpus=crew.cpus,
            gpus=crew.gpus,
            max_bytes=limits.max_bytes if limits.max_bytes != limits.default_limit() else None,
        )
        bar = Progress(sum(item.size for item in items), unit[0], progress)
        dispatcher = Dispatcher(crew, setup, bar, noun, at_once, settled, reached)
        try:
            dispatcher.run(items)
        finally:
            report.write(crew, dispatcher)
    return [hand for hand in dispatcher.hands if hand.about]
