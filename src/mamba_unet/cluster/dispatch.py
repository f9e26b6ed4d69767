"""The driver's side: hands pieces of work to workers and keeps account, so that none is lost whoever dies."""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mamba_unet.cluster.actor import Actor, Setup
from mamba_unet.cluster.connection import Crew
from mamba_unet.cluster.progress import Progress
from mamba_unet.words import counted

TICK_S = 1.0
DEATHS = 2  # of workers that a piece of work ends; then it is given up
STARTS = 3  # workers that may die one after another before they are ready
NO_ROOM_S = 120.0  # without a machine that has room for a worker, after which nobody waits any more

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Item:
    """A piece of work.

    Attributes:
        name: of the case or the training.
        size: how much it is, in what progress counts.
        work: what the worker is given.
        deaths: workers that it has ended, one after another.
        reached: how much of it was done when the last one died.
    """

    name: str
    size: float
    work: Any
    deaths: int = 0
    reached: float = 0.0


@dataclass(frozen=True)
class GivenUp:
    """In place of an answer: why there will be none."""

    reason: str


@dataclass(eq=False)
class Hand:
    """A worker, as the driver knows it.

    Attributes:
        number: counted from 1.
        actor: Ray's handle.
        asked: the answer to its start, or whether it is still there; None where nothing was asked.
        about: what it says of itself; empty until it is ready.
        holds: answers that are expected -> their items.
        doubtful: items whose answers did not come; whether it is still there is being asked.
        done: names of the items it has done.
        failed: how many came to nothing.
        size: of these together.
        busy_s: seconds in which it held an item.
        ended: how it ended before the work did; empty where it did not.
    """

    number: int
    actor: Any
    asked: Any
    about: dict[str, Any] = field(default_factory=dict)
    holds: dict[Any, Item] = field(default_factory=dict)
    doubtful: list[Item] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: int = 0
    size: float = 0.0
    busy_s: float = 0.0
    ended: str = ""
    _since: float = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether it takes items."""
        return bool(self.about) and self.asked is None and not self.ended

    @property
    def expected(self) -> list[Any]:
        """All answers that are to come."""
        return [*self.holds, *([] if self.asked is None else [self.asked])]

    @property
    def load(self) -> tuple[float, int]:
        """How much it holds."""
        return sum(item.size for item in self.holds.values()), len(self.holds)

    def give(self, item: Item) -> None:
        """Hand it an item."""
        if not self.holds:
            self._since = time.monotonic()
        self.holds[self.actor.do.remote(item.work)] = item

    def take(self, answer: Any) -> Item:
        """Take an item back, whose answer is here."""
        item = self.holds.pop(answer)
        if not self.holds:
            self.busy_s += time.monotonic() - self._since
        return item

    def take_all(self) -> list[Item]:
        """Take back what it holds, in the order it was given."""
        items = [*self.doubtful, *(self.take(answer) for answer in list(self.holds))]
        self.doubtful = []
        return items


class Dispatcher:
    """Hands items to the workers of a crew. The next item goes to whoever holds least.

    The items of a worker that died go to others. Where its machine died with it, they are not to blame. Else each of
    them is suspected, and later done alone; one that ends `DEATHS` workers without getting further is given up.

    Args:
        crew: the cluster.
        setup: what each worker is told.
        progress: is told how far the work is.
        noun: of an item, for messages: "case".
        at_once: items that a worker may hold, so that it can read one while it computes another.
        settled: told of every item once, with its answer or `GivenUp`, and by whom; returns whether it failed.
        reached: how much of an item that is not finished is on the disk already.

    Attributes:
        hands: all workers there were.
        moved: items that had to be done again: name, worker, and why.
    """

    def __init__(
        self,
        crew: Crew,
        setup: Setup,
        progress: Progress,
        noun: str,
        at_once: int,
        settled: Callable[[Item, Any, Hand], bool],
        reached: Callable[[Item], float] = lambda item: 0.0,
    ) -> None:
        self.crew, self.setup, self.progress, self.noun, self.at_once = crew, setup, progress, noun, at_once
        self.settled, self.reached = settled, reached
        self.hands: list[Hand] = []
        self.moved: list[dict[str, Any]] = []
        self._waiting: deque[Item] = deque()
        self._suspects: deque[Item] = deque()
        self._done, self._size, self._total = 0, 0.0, 0.0
        self._died_starting = 0
        self._room_at = time.monotonic()

    def run(self, items: Sequence[Item]) -> None:
        """Have all items done, in about this order.

        Raises:
            ValueError: workers cannot start, or no machine is left that has room for one.
            Exception: what `Worker.do` raised.
        """
        ray = self.crew.ray
        self._waiting.extend(items)
        self._total = sum(item.size for item in items)
        total = len(items)
        remote = ray.remote(Actor).options(
            num_cpus=self.crew.cpus,
            num_gpus=self.crew.gpus,
            max_concurrency=self.at_once,  # 1 is the main thread, where signals can be received
            max_restarts=0,
        )
        self._remote, self._told = remote, ray.put(self.setup)
        try:
            for _ in range(min(self.crew.actors, total)):
                self._hire()
            while self._done < total:
                self._hand_out()
                expected = {answer: hand for hand in self.hands if not hand.ended for answer in hand.expected}
                if ray.wait(list(expected), num_returns=1, timeout=TICK_S)[0]:
                    for answer in ray.wait(list(expected), num_returns=len(expected), timeout=0)[0]:
                        self._settle(expected[answer], answer)
                self._tell(total)
        finally:
            self.progress.close()
            for hand in self.hands:
                if not hand.ended:
                    ray.kill(hand.actor)

    def _hire(self) -> None:
        actor = self._remote.remote()
        self.hands.append(Hand(len(self.hands) + 1, actor, actor.start.remote(self._told)))

    def _hand_out(self) -> None:
        ready = [hand for hand in self.hands if hand.is_ready]
        share = (self._total - self._size) / max(1, sum(not hand.ended for hand in self.hands))
        while self._waiting:
            trusted = [hand for hand in ready if not any(item.deaths for item in hand.holds.values())]
            hand = min(trusted, key=lambda hand: hand.load, default=None)
            if hand is None:
                return
            size, held = hand.load
            # nobody keeps an item waiting that another, who may be faster, could soon begin
            if held and (held >= self.at_once or size + self._waiting[0].size > share / 2):
                return
            hand.give(self._waiting.popleft())
        for hand in ready:
            if self._suspects and not hand.holds:
                hand.give(self._suspects.popleft())

    def _settle(self, hand: Hand, answer: Any) -> None:
        exceptions = self.crew.ray.exceptions
        if answer not in hand.expected:
            return  # it died by an answer before
        try:
            value = self.crew.ray.get(answer)
        except exceptions.ActorUnavailableError as error:
            self._doubt(hand) if hand.about else self._lost(hand, error)
        except exceptions.RayTaskError as error:
            raise _own(error) from None
        except exceptions.RayError as error:
            self._lost(hand, error)
        else:
            if answer != hand.asked:
                self._answered(hand, answer, *value)
            elif hand.about:  # it was there all the time, but what it was doing is not known
                self._lost(hand, None)
            else:
                hand.about, hand.asked = value, None
                self._died_starting = 0

    def _answered(self, hand: Hand, answer: Any, value: Any, messages: list[tuple[int, str]]) -> None:
        for level, text in messages:
            log.log(level, "%s", text)
        item = hand.take(answer)
        hand.done.append(item.name)
        hand.size += item.size
        self._finish(item, value, hand)

    def _finish(self, item: Item, value: Any, hand: Hand) -> None:
        self._done += 1
        self._size += item.size
        hand.failed += self.settled(item, value, hand)

    def _doubt(self, hand: Hand) -> None:
        """No answer came, and Ray does not know yet whether the worker died."""
        hand.doubtful, hand.asked = hand.take_all(), hand.actor.ping.remote()

    def _lost(self, hand: Hand, error: Exception | None) -> None:
        with suppress(Exception):  # nothing of it must go on working
            self.crew.ray.kill(hand.actor)
        if not hand.about:
            hand.ended = "its process died at the start"
            self._died_starting += 1
            if self._died_starting >= STARTS:
                raise ValueError(
                    f"{STARTS} workers died one after another before they were ready, the last by: "
                    f"{_last_line(error)}; more memory for each may help: --actors, --cpus-per-actor"
                )
        elif error is None:
            hand.ended = "its answers were lost"
        else:
            hand.ended = "its process died" if self.crew.is_alive(hand.about["node"]) else "its machine died"
        items = hand.take_all()
        if items:
            names = ", ".join(item.name for item in items)
            log.warning("worker %d on %s: %s while it held %s", hand.number, hand.about["host"], hand.ended, names)
        for item in reversed(items):
            self.moved.append({self.noun: item.name, "worker": hand.number, "why": hand.ended})
            self._again(item, hand)
        if self._waiting or self._suspects:
            self._hire()

    def _again(self, item: Item, hand: Hand) -> None:
        if hand.ended != "its process died":
            self._waiting.appendleft(item)
            return
        reached = self.reached(item)
        item.deaths = 1 if reached > item.reached else item.deaths + 1
        item.reached = reached
        if item.deaths < DEATHS:
            self._suspects.append(item)
            return
        reason = f"it ended the process that worked on it {DEATHS} times, the last on {hand.about['host']}"
        self._finish(item, GivenUp(f"{reason}; damaged, or more than the memory"), hand)

    def _tell(self, total: int) -> None:
        ready = sum(hand.is_ready for hand in self.hands)
        part = sum(min(item.size, self.reached(item)) for hand in self.hands for item in hand.holds.values())
        words = f"{self._done:,} of {counted(total, self.noun)}, {counted(ready, 'worker')}"
        self.progress.show(self._size + part, words)
        if ready or self.crew.has_room():
            self._room_at = time.monotonic()
        elif time.monotonic() - self._room_at > NO_ROOM_S:
            raise ValueError(
                "no machine of the cluster is left that has room for a worker; what is finished stays, the same "
                "command does the rest"
            )


def _own(error: Any) -> Exception:
    """What our code raised on a worker."""
    if isinstance(error.cause, ImportError):
        return ValueError(f"a machine of the cluster: {error.cause}; install the same mamba-unet there")
    return error.cause if isinstance(error.cause, Exception) else ValueError(_last_line(error))


def _last_line(error: Exception | None) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
