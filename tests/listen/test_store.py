"""The folder of a node, without a network and without a neural one."""

import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from mamba_unet.listen.instance import IGNORED, NO_MATCH, OUT_OF_RESOURCES, UNREADABLE, Refused
from mamba_unet.listen.rules import Rule
from mamba_unet.listen.store import TRIES, Limits, Store


@pytest.fixture
def store(tmp_path):
    """Opens the folder, as a new process would after the last one ended in whatever way."""
    opened = []

    def reopen(**changes) -> Store:
        for before in opened:
            before.close()
        opened.append(Store(tmp_path / "node", **{"quiet_s": 0, "destinations": ["pacs"]} | changes))
        return opened[-1]

    yield reopen
    for one in opened:
        one.close()


@pytest.fixture
def series(write_series, tmp_path, image):
    """Bytes of the three images of a new series."""

    def write(**attributes) -> list[bytes]:
        files = write_series(tmp_path / f"in{time.monotonic_ns()}", image, **attributes)
        return [file.read_bytes() for file in files]

    return write


def received(store: Store, images, sender="a", clean=True, **options) -> None:
    for image in images:
        store.put(sender, image)
    store.end(sender, clean, **options)


def delivered(store: Store, names=("seg.dcm", "report.dcm")) -> str:
    """Segment what is due, and put results of these names into the outbox."""
    task = store.due()
    for name in names:
        (task.folder / name).write_bytes(b"result")
    store.deliver(task)
    return task.series.uid


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def status(store: Store, data: bytes, **options) -> int:
    with pytest.raises(Refused) as caught:
        store.put("a", data, **options)
    return caught.value.status


def test_an_instance_is_on_the_disk_as_it_came_when_put_returns(store, series, tmp_path):
    images = series()
    store().put("a", images[0])
    (file,) = (tmp_path / "node" / "series").glob("*/images/*.dcm")
    assert file.read_bytes() == images[0]
    assert (tmp_path / "node").stat().st_mode & 0o077 == 0  # this user's alone


def test_a_series_is_due_once_it_is_quiet_and_all_its_senders_ended_well(store, series):
    node, images = store(quiet_s=0.1), series()
    node.put("a", images[0])
    node.put("b", images[1])
    node.end("a", True)
    time.sleep(0.15)
    assert node.due() is None  # b is at work
    node.put("b", images[2])
    node.end("b", True)
    assert node.due() is None  # not quiet yet
    time.sleep(0.15)
    assert len(node.due().series.images) == 3
    assert node.due() is None


def test_a_series_whose_sender_says_that_it_is_complete_need_not_be_quiet(store, series):
    node = store(quiet_s=1000)
    received(node, series(), complete=True)
    assert node.due() is not None


def test_a_series_that_was_cut_off_waits_until_its_sender_comes_back(store, series):
    node, images = store(), series()
    received(node, images[:2], clean=False)
    assert node.due() is None
    node = store()  # nor after a restart
    assert node.due() is None
    received(node, images, "again")
    assert len(node.due().series.images) == 3


def test_one_who_was_at_work_before_does_not_make_up_for_one_who_was_cut_off(store, series):
    node, images = store(), series()
    node.put("other", images[0])
    received(node, images[1:2], "cut", clean=False)
    node.end("other", True)
    assert node.due() is None


@pytest.mark.parametrize(
    ("before", "again", "after", "waits"),
    [
        pytest.param([0, 1], [0, 1, 2], [], False, id="all of it"),
        pytest.param([0, 1], [1, 2], [], True, id="another part of it"),
        pytest.param([0, 1], [0, 1, 2], [2], True, id="the first one went on"),
        pytest.param([], [0, 1, 2], [0], True, id="who began later went on"),
    ],
)
def test_a_lost_connection_that_is_noticed_after_everything_came_again_keeps_nothing_waiting(
    store, series, before, again, after, waits
):
    node, images = store(), series()
    for image in before:
        node.put("lost", images[image])
    for image in again:
        node.put("again", images[image])
    for image in after:
        node.put("lost", images[image])
    node.end("again", True)
    assert node.due() is None  # nobody knows yet
    node.end("lost", False)
    assert (node.due() is None) == waits
    assert (store().due() is None) == waits  # after a restart, too


def test_who_was_sending_when_the_node_was_killed_was_cut_off(store, series):
    for image in series()[:2]:
        store().put("a", image)
    assert store().due() is None


def test_a_series_of_which_an_instance_was_refused_is_not_complete(store, series):
    node, images = store(), series()
    broken = images[2][:-40]
    node.put("a", images[0])
    assert status(node, broken) == UNREADABLE
    node.put("a", images[1])
    node.end("a", True)
    assert node.due() is None
    received(node, images)
    assert len(node.due().series.images) == 3


def test_a_damaged_image_leaves_the_other_series_of_its_sender_alone(store, series):
    node, good = store(), series()
    assert status(node, series()[0][:-40]) == UNREADABLE
    received(node, good)
    assert len(node.due().series.images) == 3


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("before", [True, False])
def test_images_refused_in_an_association_of_their_own_make_their_series_wait(store, series, before, restarted):
    """Some senders open one for each image: nothing else of it tells that one is missing."""
    node, images = store(), series()
    if before:
        received(node, images[:2])
    assert status(node, images[2][:-100]) == UNREADABLE
    if not before:  # the first of its series; the others come while its sender is still there
        received(node, images[:2], sender="b")
    assert node.due() is None
    node.end("a", True)
    node = store() if restarted else node
    assert node.due() is None
    received(node, images[2:], sender="c")
    assert len(node.due().series.images) == 3


@pytest.mark.parametrize("keep", [0, 100, 500, -1, -60])
def test_an_instance_cut_short_is_refused_in_words_without_the_patient(store, series, keep):
    with pytest.raises(Refused, match=r"cut short|no DICOM|no UID|without pixels") as caught:
        store().put("a", series(PatientName="Doe^Jane")[0][:keep])
    assert caught.value.status == UNREADABLE and "Doe" not in str(caught.value)


def test_an_instance_that_is_sent_under_another_name_is_refused(store, series):
    assert status(store(), series()[0], sop_class="1.2.3", instance="1.2.3") == NO_MATCH


@pytest.mark.parametrize("uid", ["..", "1/../../2", "", "1.2..3"])
def test_a_uid_that_is_none_names_no_folder(store, series, uid, tmp_path):
    assert status(store(), series(SeriesInstanceUID=uid)[0]) == UNREADABLE
    assert files(tmp_path / "node") == [".lock"]


def test_what_is_not_chosen_is_ignored_as_a_whole_and_leaves_nothing(store, series, tmp_path):
    node = store(rules=[[Rule.parse("description=venous")]])
    images = series(SeriesDescription="scout")
    assert {status(node, image) for image in images} == {IGNORED}
    assert status(node, series(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[0]) == IGNORED
    node.end("a", True)
    received(node, series(SeriesDescription="portal venous"))
    assert node.due() is not None
    assert len(files(tmp_path / "node" / "series")) == 4  # three images, and that it was begun


def test_the_first_image_decides_for_its_series(store, series, write_series, tmp_path, image):
    def edit(dataset, _, number):
        dataset.SeriesDescription = "venous" if number else ""

    written = write_series(tmp_path / "mixed", image, edit=edit, SeriesInstanceUID="1.2.3")
    images = sorted((file.read_bytes() for file in written), key=lambda data: b"venous" not in data)
    node = store(rules=[[Rule.parse("description=venous")]])
    received(node, images)
    assert len(node.due().series.images) == 3


def test_objects_without_an_image_are_ignored(store, structured_report):
    assert status(store(), structured_report) == IGNORED


@pytest.fixture
def structured_report(tmp_path):
    """The bytes of a structured report."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ComprehensiveSRStorage, ExplicitVRLittleEndian, generate_uid

    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComprehensiveSRStorage, generate_uid()
    dataset.SeriesInstanceUID, dataset.Modality = generate_uid(), "SR"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(tmp_path / "report", enforce_file_format=True)
    return (tmp_path / "report").read_bytes()


def test_limits_of_an_instance_and_a_series_hold(store, series):
    images = series()
    assert status(store(limits=Limits(instance_bytes=100)), images[0]) == OUT_OF_RESOURCES
    node = store(limits=Limits(instances=2))
    node.put("a", images[0])
    node.put("a", images[1])
    assert status(node, images[2]) == OUT_OF_RESOURCES
    node.put("a", images[1])  # once more, and no more than before
    node.end("a", True)
    assert node.due() is None


def test_a_disk_that_is_full_is_told_to_the_sender(store, series, monkeypatch):
    node, images = store(), series()
    node.put("a", images[0])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        assert status(node, images[1]) == OUT_OF_RESOURCES
    node.put("a", images[2])
    node.end("a", True)
    assert node.due() is None


def test_what_came_before_is_segmented_again_when_more_of_it_comes(store, series, caplog):
    caplog.set_level("INFO", "mamba_unet")
    node, images = store(), series()
    received(node, images[:2])
    delivered(node)
    received(node, images[:2], "resent")
    assert node.due() is None  # the same files: nothing new
    received(node, images[2:], "late")
    assert "late" in caplog.text
    assert len(node.due().series.images) == 3


def test_a_result_of_a_series_that_grew_meanwhile_is_dropped(store, series):
    node, images = store(), series()
    received(node, images[:2])
    task = node.due()
    received(node, images[2:])
    (task.folder / "seg.dcm").write_bytes(b"half")
    node.deliver(task)
    assert node.outbox.unsent("pacs") == []
    assert len(node.due().series.images) == 3


def test_results_wait_in_the_outbox_over_a_restart_until_every_destination_has_them(store, series, tmp_path):
    two = {"destinations": ["pacs", "web"]}
    received(store(**two), series())
    node = store(**two)
    uid = delivered(node)
    node.outbox.sent("pacs", node.outbox.unsent("pacs")[0])
    node = store(**two)
    (left,) = node.outbox.unsent("pacs")
    assert (left.series, left.path.name) == (uid, "seg.dcm")
    assert len(node.outbox.unsent("web")) == 2
    node.outbox.sent("pacs", left)
    for result in node.outbox.unsent("web"):
        node.outbox.sent("web", result)
    assert node.outbox.unsent("web") == [] and list((tmp_path / "node" / "outbox").iterdir()) == []
    assert node.due() is None and store(**two).due() is None  # it is done


def test_a_node_that_ends_between_the_outbox_and_its_record_does_not_segment_twice(store, series, tmp_path):
    node = store()
    received(node, series())
    delivered(node)
    next((tmp_path / "node").glob("series/*/done.json")).unlink()
    node = store()
    assert node.due() is None and len(node.outbox.unsent("pacs")) == 2


def test_what_a_kill_left_half_written_is_removed(store, series, tmp_path):
    node = store()
    received(node, series())
    task = node.due()
    (task.folder / "seg.dcm").write_bytes(b"half")
    (task.images / ".0123abcd.1.2.dcm").write_bytes(b"half")
    node = store()
    assert len(node.due().series.images) == 3
    assert not any(name.startswith((".0", "seg")) for name in files(tmp_path / "node"))


def test_a_series_that_ends_the_program_again_and_again_is_given_up(store, series):
    received(store(), series())
    for _ in range(TRIES):
        assert store().due() is not None
    node = store()
    assert node.due() is None and node.counts["failed"] == 1
    assert store().due() is None


def test_stopping_in_the_middle_is_no_failed_try(store, series):
    received(store(), series())
    for _ in range(TRIES + 2):
        node = store()
        node.put_back(node.due())
    assert store().due() is not None


def test_images_go_after_a_while_and_unsent_results_stay_with_a_warning(store, series, tmp_path, caplog):
    caplog.set_level("INFO", "mamba_unet")
    node = store()
    received(node, series())
    uid = delivered(node)
    received(node, series()[:1], "cut", clean=False)
    received(node, series(), "waiting")
    node.expire(60)
    assert len(list((tmp_path / "node" / "series").iterdir())) == 3
    node.expire(-1)
    node.expire(-1)
    (left,) = (tmp_path / "node" / "series").iterdir()  # the one that is still to be segmented
    assert left.name == node.due().series.uid
    assert len(node.outbox.unsent("pacs")) == 2
    told = [line for line in caplog.messages if line.startswith(("unsent", "removed"))]
    assert len(told) == 3 and f"unsent series={uid}" in caplog.text and caplog.text.count("incomplete=True") == 1


@pytest.mark.parametrize("restarted", [False, True])
def test_the_rest_of_a_series_whose_images_were_removed_is_not_taken_for_the_series(store, series, caplog, restarted):
    node, images = store(), series()
    received(node, images)
    delivered(node)
    node.expire(-1)
    node = store() if restarted else node
    received(node, images[:2])
    assert "again" in caplog.text and "incomplete" in caplog.text
    assert node.due() is None
    received(node, images[2:])
    assert len(node.due().series.images) == 3


def test_fewer_images_than_were_removed_are_right_where_the_sender_knows_how_many_there_are(store, series):
    node, images = store(), series()
    received(node, images)
    delivered(node)
    node.expire(-1)
    received(node, images[:2], whole=True)
    assert len(node.due().series.images) == 2


def test_a_mark_that_could_not_be_written_is_written_with_the_next_image(store, series, monkeypatch):
    """Else a series whose second sender had no room for an image looks whole after a restart."""
    node, images = store(), series()
    received(node, images[:1])
    with monkeypatch.context() as patch, pytest.raises(Refused):
        patch.setattr(Path, "touch", Mock(side_effect=OSError(28, "full")))
        node.put("b", images[1])
    node.put("b", images[2])
    assert store().due() is None


def test_a_rest_that_nobody_completes_goes_in_time(store, series, tmp_path):
    node, images = store(), series()
    received(node, images)
    delivered(node)
    node.expire(-1)
    received(node, images[:2])
    node.expire(-1)
    assert not list((tmp_path / "node" / "series").iterdir())
    received(node, images[2:])
    assert node.due() is None, "three were there once"


def test_a_folder_that_somebody_removed_keeps_no_other_series_waiting(store, series):
    node = store()
    received(node, series())
    delivered(node)
    received(node, series(), sender="b")
    next(iter(node._series.values())).folder.rename(node.folder / "elsewhere")
    node.expire(-1)
    assert len(node._series) == 1 and node.due() is not None


def test_a_folder_has_one_node_at_a_time(store, tmp_path):
    store()
    with pytest.raises(ValueError, match="--folder"):
        Store(tmp_path / "node")


def test_bytes_count_for_the_limit_of_the_disk_until_they_are_gone(store, series):
    small = np.prod((3, 4096))  # three images of less than a block
    node = store(limits=Limits(disk_bytes=int(small) + 8192))
    received(node, series())
    delivered(node)
    other = series()
    node.put("a", other[0])
    assert status(node, other[1]) == OUT_OF_RESOURCES
    for result in node.outbox.unsent("pacs"):
        node.outbox.sent("pacs", result)
    node.expire(-1)
    node.put("a", other[1])
