"""A real archive and a real sender: Orthanc with its DICOMweb plug-in, and storescu of dcmtk."""

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (extra dicom)")

from mamba_unet.listen import send as sending
from mamba_unet.listen.send import Archive
from mamba_unet.listen.web import Dicomweb, WebArchive

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def dcmtk_storescu() -> str | None:
    """Not pynetdicom's program of that name, which an activated environment has first."""
    for folder in os.get_exec_path():
        if program := shutil.which("storescu", path=folder):
            said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout
            if "dcmtk" in said.lower():
                return program
    return None


STORESCU = dcmtk_storescu()
for name, program in (("Orthanc", shutil.which("Orthanc")), ("dcmtk's storescu", STORESCU)):
    if program is None:
        pytest.skip(f"{name} is not installed (Debian: orthanc, dcmtk)", allow_module_level=True)
if not PLUGIN.exists():
    pytest.skip("Orthanc's DICOMweb is not installed (Debian: orthanc-dicomweb)", allow_module_level=True)


class Orthanc:
    """Orthanc on the loopback address, with a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ports, self.process = folder, _free_ports(2), None
        self.http, self.dicom = self.ports
        settings = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": self.http,
            "DicomPort": self.dicom,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"

    def start(self, until) -> None:
        with (self.folder / "log").open("ab") as log:
            words = ["Orthanc", str(self.folder / "orthanc.json")]
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        until(self.answers, 30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def answers(self) -> bool:
        try:
            return bool(self.ask("/system"))
        except OSError:
            return False

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", body, timeout=10) as answer:
            return answer.read()

    def files(self, modality: str) -> list[bytes]:
        query = json.dumps({"Level": "Instance", "Query": {"Modality": modality}}).encode()
        return [self.ask(f"/instances/{one}/file") for one in json.loads(self.ask("/tools/find", query))]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def orthanc(tmp_path, until, monkeypatch):
    monkeypatch.setattr(sending, "FIRST_WAIT_S", 0.2)
    folder = tmp_path / "orthanc"
    folder.mkdir()
    running = Orthanc(folder)
    running.start(until)
    yield running
    running.kill()


def storescu(port: int, folder: Path, *options: str) -> subprocess.CompletedProcess:
    words = [STORESCU, *options, "-aet", "SCANNER", "-aec", "MAMBA", "+sd", "127.0.0.1", str(port), str(folder)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def read(content: bytes, folder: Path):
    """A segmentation or a report as highdicom reads it."""
    import highdicom as hd
    import pydicom

    (folder / "read.dcm").write_bytes(content)
    report = pydicom.dcmread(folder / "read.dcm").Modality == "SR"
    return (hd.sr.srread if report else hd.seg.segread)(folder / "read.dcm")


def test_storescu_to_the_node_to_orthanc_which_is_killed_meanwhile(orthanc, node, write_series, until, image, tmp_path):
    import pydicom

    running = node(destinations=[Archive("127.0.0.1", orthanc.dicom, "ORTHANC", "MAMBA")])
    files = write_series(tmp_path / "first", image)
    half = shutil.copytree(tmp_path / "first", tmp_path / "half")
    next(half.iterdir()).unlink()
    storescu(running.port, half, "--abort")  # cut off, and then sent again in full
    done = storescu(running.port, tmp_path / "first")
    assert done.returncode == 0, done.stderr
    until(lambda: len(orthanc.files("SR")) == 1 and len(orthanc.files("SEG")) == 1)

    seg, report = (read(orthanc.files(kind)[0], tmp_path) for kind in ("SEG", "SR"))
    sources = {dataset.SOPInstanceUID: dataset for dataset in map(pydicom.dcmread, files)}
    slices = sorted(sources, key=lambda uid: sources[uid].ImagePositionPatient[2])
    pixels = seg.get_pixels_by_source_instance(
        slices, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(pixels[..., 0], image > 500)
    (group,) = report.content.get_volumetric_roi_measurement_groups()
    segment, *images = (item.ReferencedSOPSequence[0] for item in group.referenced_segment)
    assert segment.ReferencedSOPInstanceUID == seg.SOPInstanceUID and segment.ReferencedSegmentNumber == 1
    assert {one.ReferencedSOPInstanceUID for one in images} == set(sources)
    (volume,) = group.get_measurements()
    assert volume.value == pytest.approx(np.count_nonzero(image) * 5 * 1.5 * 0.75 / 1000, abs=5e-4)
    subprocess.run(["dsrdump", str(tmp_path / "read.dcm")], check=True, capture_output=True)  # dcmtk reads it too
    assert {seg.StudyInstanceUID, report.StudyInstanceUID} == {sources[slices[0]].StudyInstanceUID}

    orthanc.kill()
    for number in range(2):
        write_series(tmp_path / f"more{number}", image)
        assert storescu(running.port, tmp_path / f"more{number}").returncode == 0
    until(lambda: running.store.counts["segmented"] == 3)
    orthanc.start(until)
    until(lambda: len(orthanc.files("SR")) == 3 and len(orthanc.files("SEG")) == 3)
    until(lambda: list((tmp_path / "node" / "outbox").iterdir()) == [])


def test_in_by_polling_and_out_by_stow(orthanc, node, write_series, until, image, tmp_path):
    files = write_series(tmp_path / "in", image, StudyDate="20200101")
    for file in files:
        orthanc.ask("/instances", file.read_bytes())
    web = Dicomweb(orthanc.web)
    running = node(destinations=[WebArchive(web)], poll=[web], poll_s=0.3, poll_days=10000, quiet_s=1000)
    until(lambda: len(orthanc.files("SR")) == 1 and len(orthanc.files("SEG")) == 1)
    seg, report = (read(orthanc.files(kind)[0], tmp_path) for kind in ("SEG", "SR"))
    assert seg.get_volume(combine_segments=True).array.sum() == np.count_nonzero(image)
    assert len(report.content.get_volumetric_roi_measurement_groups()) == 1
    running.close()
    assert running.store.counts["stored"] == 3  # not its own results
