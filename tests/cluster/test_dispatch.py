"""Who is given what, when, and what becomes of it: with a cluster that is a list of answers."""

from types import SimpleNamespace

import pytest

from mamba_unet.cluster.connection import Crew
from mamba_unet.cluster.dispatch import Dispatcher, GivenUp, Item
from mamba_unet.cluster.progress import Progress


class Died(Exception):
    pass


class Unavailable(Died):
    pass


class TaskError(Died):
    def __init__(self, cause):
        self.cause = cause


class Actor:
    """Answers each piece of work by itself, or by the error it is told to."""

    def __init__(self, ray, number):
        self.ray, self.number, self.killed = ray, number, False
        self.start = SimpleNamespace(remote=lambda setup: ray.answer({"host": f"h{number}", "node": f"n{number}"}))
        self.do = SimpleNamespace(remote=self._do)
        self.ping = SimpleNamespace(remote=lambda: ray.answer(ray.pings.pop(0)))

    def _do(self, work):
        self.ray.given.append((self.number, work))
        error = self.ray.errors.get(work, [])
        if error and (kind := error.pop(0)):
            return self.ray.answer(kind)
        return self.ray.answer((f"done {work}", []))


class Ray:
    """As much of Ray as a dispatcher uses. The oldest answer comes first."""

    exceptions = SimpleNamespace(RayError=Died, RayTaskError=TaskError, ActorUnavailableError=Unavailable)

    def __init__(self, errors=None, dead=(), pings=()):
        self.errors, self.dead, self.pings = errors or {}, dead, list(pings)
        self.answers, self.given, self.actors = {}, [], []

    def remote(self, kind):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._hire))

    def _hire(self):
        self.actors.append(Actor(self, len(self.actors) + 1))
        return self.actors[-1]

    def answer(self, value):
        self.answers[len(self.answers)] = value
        return len(self.answers) - 1

    def put(self, value):
        return value

    def get(self, answer):
        if isinstance(self.answers[answer], Exception):
            raise self.answers[answer]
        return self.answers[answer]

    def wait(self, answers, num_returns, timeout):
        return sorted(answers)[:1], []

    def kill(self, actor):
        actor.killed = True

    def nodes(self):
        names = [f"n{number}" for number in range(1, 9)]
        return [{"NodeID": name, "Alive": name not in self.dead, "Resources": {"CPU": 1}} for name in names]


def dispatched(ray, sizes, at_once=3, actors=2, **how):
    """Item -> what was told of it, and the dispatcher."""
    told = {}
    items = [Item(name, size, name) for name, size in sizes.items()]
    dispatcher = Dispatcher(
        Crew(ray, "auto", actors, 0, 1),
        None,
        Progress(1, "B", shown=False),
        "case",
        at_once,
        lambda item, answer, hand: bool(told.update({item.name: answer})),
        **how,
    )
    dispatcher.run(items)
    return told, dispatcher


def test_the_next_item_goes_to_whoever_holds_least():
    ray = Ray()
    told, dispatcher = dispatched(ray, {"huge": 100, "b": 10, "c": 9, "d": 8, "e": 7, "f": 6, "g": 5, "h": 4})
    assert told == {name: f"done {name}" for name in ["huge", *"bcdefgh"]}
    assert ray.given[:4] == [(1, "huge"), (2, "b"), (2, "c"), (2, "d")]
    assert [hand.number for hand in dispatcher.hands] == [1, 2] and all(actor.killed for actor in ray.actors)


def test_of_few_large_items_nobody_holds_one_that_another_could_begin():
    ray = Ray()
    dispatched(ray, dict.fromkeys("abcd", 1))
    assert ray.given[:2] == [(1, "a"), (2, "b")]


def test_what_ends_its_worker_twice_is_given_up_and_its_neighbours_are_done():
    ray = Ray({"a": [Died("crash"), Died("crash")]})
    told, dispatcher = dispatched(ray, {"a": 3, "b": 2, "c": 1, "d": 1}, actors=1)
    assert isinstance(told["a"], GivenUp) and "2 times" in told["a"].reason and "h" in told["a"].reason
    assert {name: told[name] for name in "bcd"} == {name: f"done {name}" for name in "bcd"}
    assert [hand.ended for hand in dispatcher.hands] == ["its process died", "its process died"]
    assert [work for worker, work in ray.given if worker == 2][-1] == "a", "done alone, when nothing else waits"


def test_what_gets_further_each_time_is_not_given_up():
    ray, steps = Ray({"a": [Died("x"), Died("x"), Died("x")]}), iter([1, 2, 3])
    told, _ = dispatched(ray, {"a": 10}, at_once=1, reached=lambda item: next(steps, 3))
    assert told == {"a": "done a"}


def test_a_dead_machine_is_no_fault_of_its_items():
    ray = Ray({"a": [Died("node"), Died("node"), Died("node")]}, dead={"n1", "n2", "n3"})
    told, dispatcher = dispatched(ray, {"a": 1, "b": 1}, actors=1)
    assert told == {"a": "done a", "b": "done b"}
    assert [hand.ended for hand in dispatcher.hands] == ["its machine died"] * 3 + [""]


@pytest.mark.parametrize(("ping", "ended"), [(None, "its answers were lost"), (Died("gone"), "its process died")])
def test_a_worker_that_cannot_be_reached_is_asked_again_before_its_items_go_elsewhere(ping, ended):
    ray = Ray({"a": [Unavailable()]}, pings=[ping])
    told, dispatcher = dispatched(ray, {"a": 1}, actors=1)
    assert told == {"a": "done a"} and dispatcher.hands[0].ended == ended and ray.actors[0].killed


def test_an_error_of_the_networks_ends_all():
    with pytest.raises(ValueError, match="do not fit into the memory"):
        dispatched(Ray({"a": [TaskError(ValueError("16 tiles do not fit into the memory"))]}), {"a": 1})


def test_workers_that_die_before_they_are_ready_end_all():
    ray = Ray()
    ray._hire = lambda: SimpleNamespace(start=SimpleNamespace(remote=lambda _: ray.answer(Died("Killed"))))
    ray.kill = lambda actor: None
    with pytest.raises(
        ValueError, match="3 workers died one after another before they were ready, the last by: Killed"
    ):
        dispatched(ray, {"a": 1})
