"""Cases segmented by the workers of a cluster, each of which writes its results itself."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from mamba_unet.cluster.connection import Cluster
from mamba_unet.cluster.dispatch import GivenUp, Hand, Item
from mamba_unet.cluster.run import carry_out
from mamba_unet.inference.jobs import Job
from mamba_unet.inference.pipeline import Done, Outcome, Pipeline, Task
from mamba_unet.inference.predictor import Predictor

AT_ONCE = 4  # cases that a worker holds: one is written, one in the networks, one being read, one next
LINGER_S = 0.02  # for the next case, before those in the networks are finished without it


class PredictWorker:
    """Holds the networks, and segments the cases that it is given as one command does: the next is read while the one
    before is in the networks.

    Args:
        checkpoints, device, batch_size, tta: as for `Predictor`.
        task: what is done with every case.
    """

    def __init__(self, checkpoints: Sequence[Path], device: str, batch_size: int | None, tta: bool, task: Task) -> None:
        predictor = Predictor(checkpoints, device, batch_size, tta)
        if predictor.hashes != list(task.folder.made_by["checkpoints"]):
            raise ValueError(f"{', '.join(map(str, checkpoints))} changed after this command began; start it again")
        self.about = {"device": str(predictor.device), "batch_size": predictor.batch_size}
        self._pipeline = Pipeline(predictor, task)
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._answers: dict[str, Future[Outcome]] = {}
        Thread(target=self._work, daemon=True).start()

    def do(self, job: Job) -> Outcome:
        """What became of a case. Several threads may ask at the same time."""
        answer = self._answers[job.name] = Future()
        self._jobs.put(job)
        return answer.result()

    def _work(self) -> None:
        while True:
            first = self._jobs.get()
            try:
                self._pipeline.run(self._coming(first), self._done)
            except Exception as error:  # of the networks, not of a case
                for name in list(self._answers):
                    self._answers.pop(name).set_exception(error)

    def _coming(self, job: Job) -> Iterator[Job]:
        with suppress(Empty):
            while True:
                yield job
                job = self._jobs.get(timeout=LINGER_S)

    def _done(self, outcome: Outcome) -> None:
        self._answers.pop(outcome.case).set_result(outcome)


class ClusterWorkers:
    """Segments cases on a cluster; see `inference.pipeline.Workers`.

    Args:
        cluster: which one.
        device: of the workers, as `Predictor` takes it.
        batch_size: tiles at a time; None takes what fits the device.
        progress: show a bar, or lines where there is no terminal.
    """

    def __init__(self, cluster: Cluster, device: str, batch_size: int | None, progress: bool) -> None:
        self.cluster, self.device, self.batch_size, self.progress = cluster, device, batch_size, progress

    def run(self, predictor: Predictor, task: Task, jobs: Sequence[Job], done: Done) -> dict[str, Any]:
        """Segment cases, the largest first, and write who did what.

        Raises:
            ValueError: no such cluster, or storage that its machines do not share.
        """
        if not jobs:
            return {"device": self.device, "batch_size": self.batch_size}
        items = sorted((Item(job.name, _size(job), job) for job in jobs), key=lambda item: -item.size)

        def settled(item: Item, answer: Outcome | GivenUp, hand: Hand) -> bool:
            if isinstance(answer, GivenUp):
                answer = Outcome(item.name, failure=answer.reason)
            elif task.report:
                answer.record["worker"] = hand.number
            done(answer)
            return bool(answer.failure)

        make = partial(PredictWorker, predictor.checkpoints, self.device, self.batch_size, predictor.tta, task)
        hands = carry_out(
            self.cluster,
            make,
            items,
            wants_gpu=self.device != "cpu",
            out=task.folder.folder,
            seen=[*predictor.checkpoints, *sorted({job.source.parent for job in jobs})],
            noun="case",
            unit=("B", "MiB", 2**20),
            at_once=AT_ONCE,
            settled=settled,
            progress=self.progress,
        )
        return {
            "device": ", ".join(sorted({hand.about["device"] for hand in hands})),
            "batch_size": max(hand.about["batch_size"] for hand in hands),
        }


def _size(job: Job) -> int:
    """Bytes of its files; 0 where they cannot be asked, which reading will say."""
    size = 0
    for file in job.inputs:
        with suppress(OSError):
            size += os.stat(file).st_size
    return size
