"""Who did what: cluster.json for programs, cluster.md for people, beside the results of a command."""

import secrets
import time
from pathlib import Path
from typing import Any

from mamba_unet.cluster.connection import Crew
from mamba_unet.cluster.dispatch import Dispatcher, Hand
from mamba_unet.files import write_json, write_text
from mamba_unet.tables import Table


class Report:
    """The account of one command, in a folder that other commands may write to as well.

    It is begun before the work: workers tell by a file whether they share the storage.

    Args:
        folder: where results go.
        unit: of an item's size, and how many of it are one in the table: ("MiB", 2**20).
    """

    def __init__(self, folder: Path, unit: tuple[str, float]) -> None:
        self.folder, self.unit = folder, unit
        self.file, self.word = folder.absolute() / "cluster.json", secrets.token_hex(8)
        self.mark = folder.absolute() / f".cluster-{self.word}"
        self.began = time.perf_counter()
        write_text(self.mark, self.word)
        for earlier in (self.file, folder / "cluster.md"):
            earlier.unlink(missing_ok=True)

    def write(self, crew: Crew, dispatcher: Dispatcher) -> None:
        """Write it, once the work is done or has stopped."""
        self.mark.unlink(missing_ok=True)
        hands = [hand for hand in dispatcher.hands if hand.about]
        rows = [_row(hand) for hand in hands]
        seconds = time.perf_counter() - self.began
        write_json(
            self.file,
            {
                "command": self.word,
                "address": crew.address,
                "cpus_per_actor": crew.cpus,
                "gpus_per_actor": crew.gpus,
                "seconds": seconds,
                "workers": rows,
                "moved": dispatcher.moved,
                "done": {name: hand.number for hand in hands for name in hand.done},
            },
        )
        name, scale = self.unit
        titles = ["worker", "host", "device", f"{dispatcher.noun}s", "failed", name, "busy", ""]
        cells = [
            [
                *(str(row[key]) for key in ("worker", "host", "device", "done", "failed")),
                f"{row['size'] / scale:,.1f}",
                f"{100 * row['busy_seconds'] / seconds:.0f} %",
                row["ended"],
            ]
            for row in rows
        ]
        write_text(self.folder / "cluster.md", Table(titles, cells, left=(0, 1, 2, 7)).markdown())


def _row(hand: Hand) -> dict[str, Any]:
    return {
        "worker": hand.number,
        **{key: value for key, value in hand.about.items() if key != "node"},
        "done": len(hand.done),
        "failed": hand.failed,
        "size": hand.size,
        "busy_seconds": hand.busy_s,
        "ended": hand.ended,
    }
