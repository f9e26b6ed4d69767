"""How far the work of a cluster is: a bar on a terminal, one plain line a minute elsewhere."""

import sys
import time

from tqdm import tqdm

from mamba_unet.training.progress import LINE_EVERY_S
from mamba_unet.words import duration


class Progress:
    """Shows how much is done, at which rate, and the time left.

    Args:
        total: of the work, in `unit`; a large piece counts more than a small one.
        unit: such as "B".
        shown: whether anything is.
    """

    def __init__(self, total: float, unit: str, shown: bool) -> None:
        self.total, self.shown = total, shown
        self.began = self.said = time.monotonic()
        on_terminal = shown and sys.stderr.isatty()
        self.bar = tqdm(
            total=total, desc="cluster", unit=unit, unit_scale=True, dynamic_ncols=True, disable=not on_terminal
        )

    def show(self, done: float, words: str) -> None:
        """Tell how much is done; `words` are on the same line."""
        if not self.bar.disable:
            self.bar.set_postfix_str(words, refresh=False)
            self.bar.update(done - self.bar.n)
            return
        now = time.monotonic()
        if self.shown and now - self.said >= LINE_EVERY_S:
            self.said = now
            left = f", about {duration((now - self.began) / done * (self.total - done))} left" if done else ""
            print(f"{words}{left}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
