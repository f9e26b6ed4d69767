"""The folder of a node: what has come, what is to be segmented, what is to be sent. All that it knows is in there.

series/<series UID>/images/<UID>.dcm    what has come
                    open/<sender>       somebody is sending this series; who is cut off leaves it there
                    tries.json          how often its segmentation was begun
                    done.json           what became of it, and of which images
removed.json                            series whose images were removed -> how many there were
outbox/                                 results that are to be sent, see `outbox`
"""

import shutil
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mamba_unet.files import atomic_path, locked, read_record, remove_temporaries, write_json
from mamba_unet.inference.outputs import stamp
from mamba_unet.listen.disk import remove_folder, sync_folder
from mamba_unet.listen.events import event
from mamba_unet.listen.instance import IGNORED, OUT_OF_RESOURCES, Refused, checked
from mamba_unet.listen.outbox import Outbox
from mamba_unet.listen.rules import KEYWORDS, Rule, chosen

if TYPE_CHECKING:
    from pydicom import Dataset

TRIES = 2  # of a series at which the whole program ends
REMEMBERED = 10_000  # series that were ignored, or removed
BLOCK = 4096  # bytes that the smallest file takes
LATE = "more of its images came; it is segmented again"
AGAIN = "what came of it before was removed (--keep-minutes); it waits until as many images have come again"


@dataclass(frozen=True)
class Limits:
    """What senders may use.

    Attributes:
        instance_bytes: of one instance.
        instances: of one series.
        disk_bytes: of everything in the folder.
    """

    instance_bytes: int = 512 << 20
    instances: int = 5000
    disk_bytes: int = 20 << 30


LIMITS = Limits()


@dataclass(eq=False)
class Sending:
    """What one sender does to a series.

    Attributes:
        mends: the marks of those cut off that were there when it began.
        sent: UIDs of the instances.
        began, last: when it began, and last sent one; on the clock `time.monotonic`.
        repeated: how many of them another one, who began after the last of them and ended well, sent too.
    """

    mends: set[str]
    sent: set[str] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)
    repeated: int = 0

    def repeats(self, other: "Sending") -> bool:
        """Whether this is the other one again: a sender that lost its connection, which is noticed later here."""
        return bool(other.sent) and other.sent <= self.sent and other.last <= self.began


@dataclass(eq=False)
class Series:
    """One series that is in the folder.

    Attributes:
        uid, folder: its UID names its folder.
        images: instance UID -> bytes.
        bytes: of all of them.
        senders: at work on it now.
        cut_off: senders that ended too early: their images may be missing.
        complete: its last sender said so; else it is complete when it has been quiet.
        last: when something last came, on the clock `time.monotonic`.
        since: when it was last changed, or done; on the clock `time.time`, which outlives the process.
        version: counts the changes.
        state: "working" while it is segmented.
    """

    uid: str
    folder: Path
    images: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    senders: dict[str, Sending] = field(default_factory=dict)
    cut_off: set[str] = field(default_factory=set)
    complete: bool = False
    last: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.time)
    version: int = 0
    state: Literal["receiving", "working", "done", "failed"] = "receiving"

    @property
    def image_folder(self) -> Path:
        return self.folder / "images"

    @property
    def files(self) -> list[Path]:
        return [self.image_folder / f"{uid}.dcm" for uid in sorted(self.images)]


@dataclass(frozen=True)
class Task:
    """A series to segment.

    Attributes:
        series: it may go on growing meanwhile.
        version, of: what is segmented of it, and the record of that.
        folder: to write the results to, `.dcm`.
    """

    series: Series
    version: int
    of: dict[str, Any]
    folder: Path

    @property
    def images(self) -> Path:
        return self.series.image_folder


class Store:
    """The folder of a node. Every method may be called from any thread.

    Args:
        folder: made if needed, for this user alone.
        rules: which series are chosen, see `rules.chosen`.
        limits: what senders may use.
        quiet_s: a series is complete when nothing of it has come for so long.
        destinations: names of those that results go to.

    Attributes:
        outbox: results that are to be sent.
        counts: of events since the start, for the log.

    Raises:
        ValueError: another node uses the folder.
    """

    def __init__(
        self,
        folder: str | Path,
        rules: Sequence[Sequence[Rule]] = (),
        limits: Limits = LIMITS,
        quiet_s: float = 30,
        destinations: Sequence[str] = (),
    ) -> None:
        self.folder, self.rules, self.limits, self.quiet_s = Path(folder), rules, limits, quiet_s
        self.counts: Counter[str] = Counter()
        self.changed = threading.Condition()  # guards all below; never held while an image is written
        self._series: dict[str, Series] = {}
        self._ignored: OrderedDict[str, int] = OrderedDict()
        self._refused: dict[str, set[str]] = defaultdict(set)  # sender -> series of which it lost an instance
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = ExitStack()
        self._lock.enter_context(locked(self.folder, "DICOM node", "give this one a folder of its own (--folder)"))
        self.outbox = Outbox(self.folder / "outbox", destinations)
        self._removed = OrderedDict[str, int](read_record(self.folder / "removed.json"))
        self._load()

    @property
    def bytes(self) -> int:
        """Of all images and results."""
        with self.changed:
            return self.outbox.bytes + sum(one.bytes for one in self._series.values())

    @property
    def waiting(self) -> int:
        """How many series are being received, wait or are in the network."""
        with self.changed:
            return sum(one.state in ("receiving", "working") for one in self._series.values())

    def close(self) -> None:
        """Give the folder free."""
        self._lock.close()

    # ------------------------------------------------------------------------------------------------- what comes
    def put(self, sender: str, data: bytes, sop_class: str = "", instance: str = "") -> None:
        """Take an instance: it is on the disk when this returns.

        Args:
            sender: who sends, see `end`.
            data: a DICOM file.
            sop_class, instance: what the sender calls it, where it says so.

        Raises:
            Refused: with the status to answer.
        """
        try:
            if len(data) > self.limits.instance_bytes:
                raise Refused(OUT_OF_RESOURCES, f"larger than {self.limits.instance_bytes >> 20} MiB")
            header = checked(data, sop_class, instance)
            self._choose(header)
            self._keep(sender, header.SeriesInstanceUID, header.SOPInstanceUID, data)
        except Refused as error:
            if error.status != IGNORED:
                self.lost(sender, error.series)
            raise

    def lost(self, sender: str, uid: str = "") -> None:
        """An instance was not taken; where its series is not known, all series of the sender are in doubt."""
        with self.changed:
            self._refused[sender].add(uid)
            series = self._series.get(uid)
            if series and series.state in ("receiving", "working"):  # though nothing that this sender sent was taken
                with suppress(OSError):
                    self._register(series, sender)

    def _register(self, series: Series, sender: str) -> None:
        """Somebody is sending a series; its mark says so after a restart."""
        series.senders.setdefault(sender, Sending(set(series.cut_off)))
        mark = series.folder / "open" / sender
        if mark.exists():
            return
        mark.parent.mkdir(parents=True, exist_ok=True)
        series.image_folder.mkdir(exist_ok=True)
        mark.touch()
        for folder in (mark.parent, series.folder, series.folder.parent):
            sync_folder(folder)

    def _choose(self, header: "Dataset") -> None:
        """By the first image of a series: a series is taken as a whole or not at all."""
        uid = header.SeriesInstanceUID
        with self.changed:
            if uid in self._series:
                return
            said = {keyword: str(header.get(keyword) or "") for keyword in KEYWORDS.values()}
            if uid in self._ignored or not chosen(self.rules, said):
                _remember(self._ignored, uid)
                raise Refused(IGNORED, "not among the chosen series (--only)")

    def _keep(self, sender: str, uid: str, instance: str, data: bytes) -> None:
        try:
            self._write(sender, uid, instance, data)
        except OSError as error:
            raise Refused(OUT_OF_RESOURCES, f"cannot be written ({error.strerror or error})", uid) from error

    def _write(self, sender: str, uid: str, instance: str, data: bytes) -> None:
        size = max(len(data), BLOCK)
        with self.changed:
            series = self._series.get(uid) or Series(uid, self.folder / "series" / uid)
            before = series.images.get(instance, 0)
            if not before and len(series.images) >= self.limits.instances:
                raise Refused(OUT_OF_RESOURCES, f"more than {self.limits.instances} instances in a series", uid)
            if self.bytes + size - before > self.limits.disk_bytes:
                raise Refused(OUT_OF_RESOURCES, f"this node holds {self.limits.disk_bytes >> 20} MiB, as it may", uid)
            self._register(series, sender)
            for other, refused in self._refused.items():
                if uid in refused:
                    self._register(series, other)
            if uid not in self._series and uid in self._removed:
                event("again", warn=True, series=uid, note=AGAIN, images_before=self._removed[uid])
            self._series[uid] = series
            series.complete = False
        path = series.image_folder / f"{instance}.dcm"
        same = before == size and path.read_bytes() == data
        if not same:
            with atomic_path(path) as temporary:
                temporary.write_bytes(data)
            sync_folder(path.parent)
        with self.changed:
            series.last, series.since = time.monotonic(), time.time()
            if sending := series.senders.get(sender):
                sending.sent.add(instance)
                sending.last = series.last
            if not same:
                series.images[instance] = size
                series.bytes += size - before
                series.version += 1
                if series.state in ("done", "failed"):
                    event("late", warn=True, series=uid, note=LATE)
                    series.state = "receiving"
                    (series.folder / "done.json").unlink(missing_ok=True)

    def end(self, sender: str, clean: bool, complete: bool = False, whole: bool = False) -> None:
        """A sender is done with all its series.

        A series that a sender was cut off at, or of which it could not hand over an instance, waits until another
        sender, who began later, ends well. It does not where another one has sent the same again meanwhile.

        Args:
            clean: it said that it is done.
            complete: its series need not be quiet for a while.
            whole: it knows how many images there are, and sent all: fewer than were removed are right.
        """
        with self.changed:
            refused = self._refused.pop(sender, set())
            for series in self._series.values():
                if sender not in series.senders:
                    continue
                sending = series.senders.pop(sender)
                taken = not refused & {"", series.uid}
                if clean and whole:
                    self._removed.pop(series.uid, None)
                if clean and taken:
                    for mark in {sender, *sending.mends}:
                        (series.folder / "open" / mark).unlink(missing_ok=True)
                    series.cut_off -= sending.mends
                    series.complete = complete
                    for other in series.senders.values():
                        if sending.repeats(other):
                            other.repeated = len(other.sent)
                    if self._is_short(series):
                        event("incomplete", warn=True, series=series.uid, images=len(series.images), note=AGAIN)
                elif taken and sending.sent and sending.repeated == len(sending.sent):
                    (series.folder / "open" / sender).unlink(missing_ok=True)
                else:
                    series.cut_off.add(sender)
                    note = "not all its images have come; it waits for its sender to come back"
                    event("incomplete", warn=True, series=series.uid, images=len(series.images), note=note)
            self.changed.notify_all()

    # ------------------------------------------------------------------------------------------- what is to be done
    def due(self) -> Task | None:
        """The complete series that has waited longest; this caller's until delivered, failed or put back."""
        now = time.monotonic()
        with self.changed:
            waiting = [
                series
                for series in self._series.values()
                if series.state == "receiving" and series.images and not series.senders and not series.cut_off
                if not self._is_short(series)
                if series.complete or now - series.last >= self.quiet_s
            ]
            if not waiting:
                return None
            series = min(waiting, key=lambda one: one.last)
            series.state = "working"
            version, files = series.version, series.files
        try:
            task = Task(series, version, stamp(files), self.outbox.draft())
            tries = series.folder / "tries.json"
            before = read_record(tries).get("begun", 0)
            write_json(tries, {"begun": before + 1})
        except OSError:
            self._wait(series)
            raise
        event("complete", series=series.uid, images=len(files))
        if before >= TRIES:
            self.fail(task, f"segmenting it ended this program {before} times")
            return self.due()
        return task

    def _is_short(self, series: Series) -> bool:
        """Whether fewer images are here than were removed of it: the rest of a series is not the series."""
        return len(series.images) < self._removed.get(series.uid, 0)

    def put_back(self, task: Task) -> None:
        """It was not segmented, for a reason that is not its own."""
        shutil.rmtree(task.folder, ignore_errors=True)
        self._wait(task.series)

    def _wait(self, series: Series) -> None:
        with self.changed:
            (series.folder / "tries.json").unlink(missing_ok=True)
            series.state, series.last, series.complete = "receiving", time.monotonic(), False

    def fail(self, task: Task, reason: str) -> None:
        """There is no result of this series, and will be none."""
        shutil.rmtree(task.folder, ignore_errors=True)
        event("failed", warn=True, series=task.series.uid, reason=reason)
        self.counts["failed"] += 1
        self._finish(task, reason)

    def deliver(self, task: Task) -> None:
        """Put what was written to the task's folder into the outbox; not if the series has changed meanwhile."""
        with self.changed:
            if current := task.version == task.series.version:
                self.outbox.add(task.folder, task.series.uid, task.of)
        if not current:
            event("late", warn=True, series=task.series.uid, note=LATE)
            return self.put_back(task)
        self.counts["segmented"] += 1
        self._finish(task)

    def _finish(self, task: Task, failed: str = "") -> None:
        series = task.series
        with suppress(OSError):  # a full disk: after a restart it is segmented again, at worst
            write_json(series.folder / "done.json", {"of": task.of, "failed": failed})
        with self.changed:
            (series.folder / "tries.json").unlink(missing_ok=True)
            series.since = time.time()
            series.state = "failed" if failed else "done"
            if task.version != series.version:
                event("late", warn=True, series=series.uid, note=LATE)
                series.state = "receiving"
            self.changed.notify_all()

    # ------------------------------------------------------------------------------------------------ what is left
    def expire(self, keep_s: float) -> None:
        """Remove the images of series that are done, failed or left incomplete for so long; tell what is not sent."""
        old, removed = time.time() - keep_s, []
        with self.changed:
            for series in self._series.values():
                incomplete = bool(series.cut_off) or self._is_short(series)
                left = series.state in ("done", "failed") or (series.state == "receiving" and incomplete)
                if not left or series.senders or series.since > old:
                    continue
                before = self._removed.pop(series.uid, 0)
                _remember(self._removed, series.uid, max(before, len(series.images)))
                removed.append((series, incomplete))
            if removed:
                write_json(self.folder / "removed.json", self._removed)
            for series, incomplete in removed:
                with suppress(FileNotFoundError):  # somebody removed it by hand
                    remove_folder(series.folder)
                del self._series[series.uid]
                event("removed", warn=incomplete, series=series.uid, incomplete=incomplete)
        self.outbox.tell_old(old)

    def _load(self) -> None:
        """Find out from the folder how things stand: whoever was sending when the node ended was cut off."""
        (self.folder / "series").mkdir(exist_ok=True)
        for left in (self.folder / "series").glob(".*"):
            shutil.rmtree(left)
        delivered = self.outbox.origins
        for folder in (self.folder / "series").iterdir():
            series = Series(folder.name, folder)
            remove_temporaries(series.image_folder)
            found = {file.stem: file.stat() for file in series.image_folder.glob("*.dcm")}
            series.cut_off = {mark.name for mark in (folder / "open").glob("*")}
            if not found and not series.cut_off:
                shutil.rmtree(folder)
                continue
            self._series[series.uid] = series
            series.images = {uid: max(one.st_size, BLOCK) for uid, one in found.items()}
            series.bytes = sum(series.images.values())
            series.since = max((one.st_mtime for one in found.values()), default=folder.stat().st_mtime)
            done = folder / "done.json"
            if done.is_file() or series.uid in delivered:
                said, now = read_record(done), stamp(series.files)
                if said.get("of") != now and delivered.get(series.uid) == now:  # it ended between the two
                    said = {"of": now, "failed": ""}
                    write_json(done, said)
                if said.get("of") == now:
                    series.state, series.since = "failed" if said["failed"] else "done", done.stat().st_mtime
        waiting = sum(series.state == "receiving" for series in self._series.values())
        event(
            "opened",
            folder=self.folder,
            series=len(self._series),
            waiting=waiting,
            unsent_mib=self.outbox.bytes / 2**20,
        )


def _remember(uids: "OrderedDict[str, int]", uid: str, value: int = 0) -> None:
    uids[uid] = value
    if len(uids) > REMEMBERED:
        uids.popitem(last=False)
