"""How far a training is: a bar on a terminal, plain lines in a file."""

import sys
import time

from tqdm import tqdm

from mamba_unet.words import counted, duration

LINE_EVERY_S = 60


class Progress:
    """Is told how a training goes on; this one shows nothing."""

    def start(self, step: int, iterations: int, seconds: float | None = None) -> None:
        """A training begins, or goes on behind `step` iterations; it ends after `iterations`, or so many seconds."""

    def step(self, step: int, loss: float) -> None:
        """An iteration is done; `step` counts it."""

    def validated(self, step: int, dice: float, best: float) -> None:
        """The network was validated: its mean foreground Dice, and the best so far."""

    def close(self) -> None:
        """The training ends, also by an error."""


class Bar(Progress):
    """A bar over the iterations."""

    def start(self, step: int, iterations: int, seconds: float | None = None) -> None:
        if seconds is not None:
            print(f"train: {_planned(iterations, seconds)}; the bar counts iterations", file=sys.stderr)
        self.bar = tqdm(desc="train", initial=step, total=iterations, unit="it", dynamic_ncols=True)

    def step(self, step: int, loss: float) -> None:
        self._show(loss=f"{loss:.3f}")
        self.bar.update()

    def validated(self, step: int, dice: float, best: float) -> None:
        self._show(Dice=f"{dice:.4f}", best=f"{best:.4f}")

    def close(self) -> None:
        self.bar.close()

    def _show(self, **values: str) -> None:
        self.shown = getattr(self, "shown", {}) | values
        self.bar.set_postfix(self.shown, refresh=False)


class Lines(Progress):
    """One line per validation and per minute, without carriage returns or escape codes."""

    def start(self, step: int, iterations: int, seconds: float | None = None) -> None:
        self.iterations, self.first, self.began = iterations, step, time.monotonic()
        self.said, self.limit = self.began, seconds
        behind = f"goes on behind iteration {step}, " if step else ""
        self._print(f"train: {behind}{_planned(iterations, seconds)}")

    def step(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self.said >= LINE_EVERY_S:
            self.said = now
            left = (now - self.began) / (step - self.first) * (self.iterations - step)
            if self.limit is not None:
                left = min(left, max(0, self.limit - (now - self.began)))
            self._print(f"iteration {step} of {self.iterations}: loss {loss:.4f}, about {duration(left)} left")

    def validated(self, step: int, dice: float, best: float) -> None:
        self._print(f"iteration {step} of {self.iterations}: validation Dice {dice:.4f}, best {best:.4f}")

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _planned(iterations: int, seconds: float | None) -> str:
    return f"{counted(iterations, 'iteration')}" + (
        "" if seconds is None else f", or {duration(seconds)} if they take longer"
    )


def default_progress() -> Progress:
    """A bar where the errors go to a terminal, else lines."""
    return Bar() if sys.stderr.isatty() else Lines()
