"""A node and real senders and archives, all in this process."""

import json
import logging
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra dicom)")

from mamba_unet.listen import send as sending
from mamba_unet.listen.instance import IGNORED, OUT_OF_RESOURCES, UNREADABLE
from mamba_unet.listen.rules import Rule
from mamba_unet.listen.send import Archive
from mamba_unet.listen.store import Limits
from mamba_unet.listen.tls import Tls


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(sending, "FIRST_WAIT_S", 0.1)


@pytest.fixture
def events(caplog):
    """The log's lines so far that begin with a word."""
    caplog.set_level(logging.INFO, "mamba_unet")
    return lambda word: [line for line in caplog.messages if line.split()[0] == word]


def uids(files) -> set[str]:
    import pydicom

    return {pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files}


def test_a_series_comes_back_as_a_segmentation_and_a_report_that_refer_to_it(
    node, archive, write_series, send, until, image, tmp_path
):
    files = write_series(tmp_path / "in", image, PatientName="Doe^Jane", PatientID="4711")
    running = node()
    assert send(running.port, files) == [0x0000] * 3
    until(lambda: len(archive.got) == 2)
    (seg,), (report,) = archive.of("SEG"), archive.of("SR")
    assert seg.pixel_array.sum() == np.count_nonzero(image)
    used = {
        frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    referred = {
        instance.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert used <= uids(files) and referred == {*uids(files), seg.SOPInstanceUID}
    assert {seg.PatientID, report.PatientID} == {"4711"} and archive.callers == {"MAMBA"}
    until(lambda: list((tmp_path / "node" / "outbox").iterdir()) == [])


def test_each_phase_of_a_cine_has_a_segmentation_in_one_series(
    node, archive, write_series, send, until, image, tmp_path
):
    send(node().port, write_series(tmp_path / "in", np.stack([image, 2 * image, 3 * image])))
    until(lambda: len(archive.got) == 4)
    masks = archive.of("SEG")
    assert len({mask.SeriesInstanceUID for mask in masks}) == 1
    assert {int(mask.InstanceNumber) for mask in masks} == {1, 2, 3}
    assert len(archive.of("SR")) == 1


def test_only_named_callers_who_name_the_node_are_let_in_and_echo_is_answered(node, associate, events):
    running = node(allow=["SCANNER", "PACS"])
    friend = associate(running.port)
    assert friend.send_c_echo().Status == 0x0000
    friend.release()
    assert associate(running.port, calling="STRANGER").is_rejected
    assert associate(running.port, called="OTHER").is_rejected
    assert len(events("rejected")) == 2 and "caller=STRANGER" in events("rejected")[0]


def test_what_is_not_chosen_is_ignored_and_counted(node, archive, write_series, send, until, image, tmp_path, events):
    running = node(rules=[[Rule.parse("modality=CT")]])
    scout = write_series(tmp_path / "mr", image)
    wanted = write_series(tmp_path / "ct", image, Modality="CT")
    assert send(running.port, [*scout, *wanted]) == [IGNORED] * 3 + [0x0000] * 3
    until(lambda: len(archive.got) == 2)
    assert "ignored=3" in events("released")[0] and "stored=3" in events("released")[0]
    running.close()
    assert "ignored=3" in events("stopped")[0] and "segmented=1" in events("stopped")[0]


def test_with_release_as_the_rule_a_series_need_not_be_quiet(node, archive, write_series, send, until, image, tmp_path):
    send(node(quiet_s=1000, at_release=True).port, write_series(tmp_path / "in", image))
    until(lambda: len(archive.got) == 2)


def test_two_senders_at_once_are_two_results(node, archive, write_series, send, until, image, tmp_path):
    running = node()
    series = [write_series(tmp_path / f"in{number}", np.repeat(image, 4, axis=0)) for number in range(4)]
    halves = [series[0], series[1], series[2][:6] + series[3], series[2][6:]]  # one series comes from two senders
    threads = [threading.Thread(target=send, args=(running.port, files)) for files in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(archive.got) == 8)
    for seg in archive.of("SEG"):
        assert seg.pixel_array.sum() == 4 * np.count_nonzero(image)


def test_a_series_that_is_cut_off_waits_for_its_sender(
    node, archive, write_series, send, associate, until, image, tmp_path, events
):
    running, files = node(), write_series(tmp_path / "in", image)
    association = associate(running.port)
    assert [association.send_c_store(file).Status for file in files[:2]] == [0x0000] * 2
    association.abort()
    until(lambda: events("incomplete"))
    other = write_series(tmp_path / "other", image)
    send(running.port, other)
    until(lambda: len(archive.got) == 2)  # of the other one
    assert {seg.StudyInstanceUID for seg in archive.got} != uids(files)
    assert send(running.port, files) == [0x0000] * 3
    until(lambda: len(archive.got) == 4)
    assert len(events("segmented")) == 2 and "cut_off caller=SCANNER stored=2" in events("cut_off")[0]


def test_connections_that_break_off_or_talk_nonsense_end_nothing(
    node, archive, write_series, send, until, image, tmp_path
):
    running = node()
    nonsense = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x01\x00" + struct.pack(">I", 2**32 - 1) + b"\0" * 100,  # a PDU of four gigabytes
        b"\x01\x00" + struct.pack(">I", 200) + b"\0" * 50,
        b"\x04\x00" + struct.pack(">I", 6) + b"\0\0\0\2\1\3",  # data before an association
        bytes(range(256)) * 4,
    ]
    for data in nonsense:
        with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
            connection.sendall(data)
    silent = socket.create_connection(("127.0.0.1", running.port), timeout=5)  # and one that stays
    send(running.port, write_series(tmp_path / "in", image))
    until(lambda: len(archive.got) == 2)
    silent.close()


def test_a_connection_that_is_lost_in_the_middle_of_an_instance_leaves_no_half_one(
    node, associate, write_series, until, image, tmp_path, events
):
    running, files = node(), write_series(tmp_path / "in", image)
    association = associate(running.port)
    association.send_c_store(files[0])
    connection = association.dul.socket.socket
    connection.sendall(b"\x04\x00" + struct.pack(">I", 5000) + b"\0" * 100)
    connection.shutdown(socket.SHUT_RDWR)
    until(lambda: events("incomplete"))
    assert len(list((tmp_path / "node").glob("series/*/images/*"))) == 1 and running.store.due() is None


def test_instances_that_are_damaged_misnamed_or_too_large_are_refused_by_their_status(
    node, associate, write_series, until, image, tmp_path, events
):
    import pydicom

    running = node(limits=Limits(instance_bytes=200_000, instances=1))
    good, second, *_ = write_series(tmp_path / "in", image, PatientName="Doe^Jane", PatientID="4711")
    short = pydicom.dcmread(good)
    short.PixelData = short.PixelData[:50]
    large = pydicom.dcmread(good)
    large.Rows = large.Columns = 1000
    large.PixelData = bytes(2_000_000)
    association = associate(running.port)
    assert association.send_c_store(short).Status == UNREADABLE
    assert association.send_c_store(good).Status == 0x0000
    assert association.send_c_store(second).Status == OUT_OF_RESOURCES  # one instance of a series
    assert "Status" not in association.send_c_store(large)  # aborted while it is on its way
    until(lambda: events("aborted") and events("incomplete"))
    assert len(events("refused")) == 2 and "status=C000" in events("refused")[0]
    assert "Doe" not in "".join(events("refused"))


def test_results_wait_for_an_archive_that_is_down(node, archive, write_series, send, until, image, tmp_path, events):
    archive.stop()
    running = node()
    for number in range(3):
        send(running.port, write_series(tmp_path / f"in{number}", image))
    until(lambda: len(events("segmented")) == 3 and len(events("not_sent")) >= 3)
    waits = [float(line.rpartition("=")[2]) for line in events("not_sent")]
    assert waits[:3] == [0.1, 0.2, 0.4]
    running.close()
    again = node()
    archive.start()
    until(lambda: len(archive.got) == 6)
    assert len({one.SOPInstanceUID for one in archive.got}) == 6
    until(lambda: again.store.counts["sent"] == 6)


def test_results_that_an_archive_refuses_are_tried_again(
    node, archive, write_series, send, until, image, tmp_path, events
):
    archive.status = 0xA700
    send(node().port, write_series(tmp_path / "in", image))
    until(lambda: len(events("not_sent")) > 1)
    assert "A700" in events("not_sent")[0] and archive.got == []
    archive.status = 0x0000
    until(lambda: len(archive.got) == 2)


def test_every_destination_gets_all(node, archive, write_series, send, until, image, tmp_path):
    other = type(archive)()
    names = [Archive("127.0.0.1", one.port, "ARCHIVE", "MAMBA") for one in (archive, other)]
    send(node(destinations=names).port, write_series(tmp_path / "in", image))
    until(lambda: len(archive.got) == len(other.got) == 2)
    other.stop()


def test_a_series_that_cannot_be_segmented_fails_alone_and_without_the_patient_in_the_log(
    node, archive, write_series, send, until, image, tmp_path, events, caplog
):
    def gap(dataset, _, number):
        dataset.ImagePositionPatient = [0, 0, [0, 5, 50][number]]

    patient = {"PatientName": "Doe^Jane", "PatientID": "Kqwx-Zvbn"}  # no digits, of which UIDs are full
    uneven = write_series(tmp_path / "uneven", image, edit=gap, SeriesDescription="of Doe, Kqwx-Zvbn", **patient)
    running = node()
    send(running.port, uneven)
    send(running.port, write_series(tmp_path / "in", image, **patient))
    until(lambda: len(archive.got) == 2 and events("failed"))
    assert "slices are missing" in events("failed")[0]
    assert not any(word in caplog.text for word in ("Doe", "Jane", "Kqwx", "Zvbn"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """An authority, a certificate for `localhost` that it signed, and one that it did not."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")

    def openssl(words: str) -> None:
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)

    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for name in ("ca", "stranger"):
        openssl(f"req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2")
    openssl(f"req {key} -keyout node.key -out node.csr -subj /CN=localhost")
    openssl("x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out node.pem -days 2 -extfile names")
    return folder


def test_with_tls_and_an_authority_only_those_it_knows_are_heard(
    node, archive, associate, write_series, send, until, image, tmp_path, certificates
):
    ours = Tls(certificates / "node.pem", certificates / "node.key", certificates / "ca.pem")
    running = node(tls=ours)
    silent = socket.create_connection(("127.0.0.1", running.port), timeout=5)  # must not keep others out
    assert not associate(running.port).is_established  # in the clear
    stranger = Tls(certificates / "stranger.pem", certificates / "stranger.key", certificates / "ca.pem").client()
    association = associate(running.port, tls=stranger)
    assert not association.is_established
    send(running.port, write_series(tmp_path / "in", image), tls=ours.client())
    until(lambda: len(archive.got) == 2)
    silent.close()


def test_results_go_out_by_tls(node, write_series, send, until, image, tmp_path, certificates):
    from mamba_unet.listen.receive import Receiver
    from mamba_unet.listen.store import Store

    ours = Tls(certificates / "node.pem", certificates / "node.key", certificates / "ca.pem")
    other = Store(tmp_path / "other")
    server = Receiver(other, "ARCHIVE", "127.0.0.1", 0, tls=ours)
    send(node(destinations=[Archive("localhost", server.port, "ARCHIVE", "MAMBA", ours.client())]).port,
         write_series(tmp_path / "in", image))  # fmt: skip
    until(lambda: list((tmp_path / "node" / "outbox").iterdir()) == [] and server.port)
    server.close()
    other.close()


def test_a_file_that_is_no_certificate_is_named(tmp_path):
    (tmp_path / "a.pem").write_text("nothing")
    with pytest.raises(ValueError, match=r"a\.pem"):
        Tls(tmp_path / "a.pem").server()
    assert isinstance(Tls().client(), ssl.SSLContext) and Tls().server() is None


def test_a_port_that_is_taken_is_a_clear_error_and_the_folder_is_free_again(node, tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(ValueError, match="cannot listen on 127"):
        node(port=taken.getsockname()[1])
    taken.close()
    node()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_two_hundred_series_in_a_row_leave_neither_memory_nor_files(
    node, archive, write_series, associate, until, tmp_path
):
    counts = Counter()

    def count(happened) -> int:
        counts[happened.dataset.Modality] += 1
        return 0x0000

    archive.stop()
    archive._store = count
    archive.start()
    running = node(quiet_s=0, at_release=True, keep_s=0)
    image, folder, used = np.eye(8, dtype=np.int16)[None], tmp_path / "in", []
    for quarter in range(4):
        association = associate(running.port)
        for _ in range(50):
            assert association.send_c_store(write_series(folder, image)[0]).Status == 0x0000
            shutil.rmtree(folder)
        association.release()
        until(lambda sent=50 * quarter + 50: counts["SR"] == sent, 60)
        used.append(_resident_mib())
    # the archive has the last result a moment before the node notes that, and removes it
    folders = [tmp_path / "node" / "series", tmp_path / "node" / "outbox"]
    until(lambda: not running.store._series and not any(list(folder.iterdir()) for folder in folders))
    assert counts == {"SEG": 200, "SR": 200}
    assert used[-1] - used[0] < 20, used


def _resident_mib() -> float:
    fields = Path("/proc/self/status").read_text().split()
    return int(fields[fields.index("VmRSS:") + 1]) / 1024


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_an_administrator_sees_whether_it_works_and_how_much(node, archive, write_series, send, until, image, tmp_path):
    running = node(watch_port=0)
    status, said = ask(running.watch_port, "/health")
    assert status == 200 and json.loads(said)["status"] == "ok" and json.loads(said)["queue"] == 0
    archive.status = 0xA700
    send(running.port, write_series(tmp_path / "in", image, PatientName="Doe^Jane", PatientID="Kqwx"))
    until(lambda: "mamba_unet_unsent 2" in ask(running.watch_port, "/metrics")[1])
    numbers = ask(running.watch_port, "/metrics")[1]
    assert 'mamba_unet_events_total{event="stored"} 3' in numbers and "mamba_unet_case_seconds_count 1" in numbers
    assert (
        'event="segmented"} 1' in numbers and 'event="sent"} 0' in numbers and "mamba_unet_held_bytes 0" not in numbers
    )
    assert "Doe" not in numbers and "Kqwx" not in numbers
    archive.status = 0x0000
    until(lambda: 'event="sent"} 2' in ask(running.watch_port, "/metrics")[1])
    assert "mamba_unet_unsent 0" in ask(running.watch_port, "/metrics")[1]
    assert ask(running.watch_port, "/anything")[0] == 404
    running._threads[0].close()  # the network's thread is gone
    status, said = ask(running.watch_port, "/health")
    assert status == 503 and json.loads(said)["status"] == "failed"
    with pytest.raises(ValueError, match=r"cannot listen on 127\.0\.0\.1"):
        node(folder=tmp_path / "other", watch_port=running.watch_port)
    node(folder=tmp_path / "other")  # the folder was given free
