"""The processes of a distributed training watch one another: who waits for a dead one would wait for ever.

Each writes a beat into the store by which they found one another, and reads the beats of the others. A thread does so,
because the main one may be what waits. It ends its process where another one has died, stands still or cannot be
reached, whatever the main thread is in.
"""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from lightning.fabric import Fabric

BEAT_S = 5.0
SILENCE = 8  # own beats without one of another process, which then counts as dead; a suspended job does not age
LEFT, FAILED = "left", "failed"
EXIT = 2


class LostProcess(SystemExit):
    """Another process of this training is gone, which was said; exit code 2."""

    def __init__(self) -> None:
        super().__init__(EXIT)


@contextmanager
def watched(fabric: Fabric) -> Iterator[None]:
    """Keep the training's processes together in the block, which they leave together.

    Raises:
        LostProcess: a collective operation failed, because another process is gone.
    """
    if fabric.world_size == 1:
        yield
        return
    beats = _Beats(dist.distributed_c10d._get_default_store().clone(), fabric.global_rank, fabric.world_size)
    last = FAILED
    try:
        beats.write("0")
        fabric.barrier()  # now the beats of all are there
        beats.start()
        yield
        fabric.barrier()
        last = LEFT
    except SystemExit:  # asked to stop; the first process may still be saving
        last = LEFT
        raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        beats.say(f"another process of this training is gone ({str(error).splitlines()[0]})")  # now: a launcher kills
        raise LostProcess from error
    finally:
        beats.stop(last)


class _Beats(threading.Thread):
    """Beats until it is stopped, or ends the process.

    Args:
        store: a connection of its own, because a store answers one question at a time.
        rank, world_size: of this process.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int) -> None:
        super().__init__(name="mamba-unet-watch", daemon=True)
        self.store, self.rank = store, rank
        self.keys = [f"mamba_unet/beat/{number}" for number in range(world_size)]
        self.stopped = threading.Event()

    def write(self, word: str) -> None:
        self.store.set(self.keys[self.rank], word)

    def stop(self, last: str) -> None:
        """Beat no more, and tell the others why.

        The thread has ended then: Python aborts a process that it leaves while a thread waits for the store.
        """
        self.stopped.set()
        try:
            self.write(last)
        except RuntimeError:  # the store went with the first process
            pass
        if self.is_alive():
            self.join()

    def run(self) -> None:
        before, silent, own = [""] * len(self.keys), [0] * len(self.keys), 0
        while not self.stopped.wait(BEAT_S):
            own += 1
            guard = threading.Timer(SILENCE * BEAT_S, self._end, ["the first process does not answer"])
            guard.daemon = True
            guard.start()
            try:
                self.write(str(own))
                now = [value.decode() for value in self.store.multi_get(self.keys)]
            except RuntimeError:
                self._end_after_a_beat("the first process is gone")
                return
            finally:
                guard.cancel()
            silent = [0 if a != b or b == LEFT else n + 1 for a, b, n in zip(before, now, silent, strict=True)]
            before = now
            if FAILED in now:
                self._end_after_a_beat(f"process {now.index(FAILED)} failed")
            elif max(silent) >= SILENCE:
                lost = silent.index(max(silent))
                self._end(f"nothing was heard of process {lost} for {SILENCE * BEAT_S:.0f} s")

    def _end_after_a_beat(self, why: str) -> None:
        """Unless this process ends by itself, with a message of its own."""
        if not self.stopped.wait(BEAT_S):
            self._end(why)

    def say(self, why: str) -> None:
        print(
            f"mamba-unet: {why}; process {self.rank} of {len(self.keys)}, on {socket.gethostname()}, ends as well. "
            "The same command with --resume goes on from the last state that was saved",
            file=sys.stderr,
            flush=True,
        )

    def _end(self, why: str) -> None:
        self.say(why)
        os._exit(EXIT)
