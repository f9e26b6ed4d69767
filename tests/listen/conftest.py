"""A node on the loopback address, an archive that it sends to, and a sender."""

import gc
import logging
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

# remarks on synthetic files, and on sockets that pynetdicom leaves to the collector
QUIET = ("ignore::UserWarning:highdicom", "ignore::UserWarning:pydicom", "ignore:unclosed:ResourceWarning")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == Path(__file__).parent:
            for line in QUIET:
                item.add_marker(pytest.mark.filterwarnings(line))


@pytest.fixture(autouse=True)
def _collected(request):
    """Collect the sockets at the end of their test: in another one they would be an error."""
    logging.getLogger("pynetdicom").propagate = False  # tracebacks in a captured log hold sockets
    yield
    if {"archive", "associate", "node"} & set(request.fixturenames):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()


class Archive:
    """A storage SCP in this process that keeps what it gets, and can be switched off and on."""

    def __init__(self) -> None:
        self.port, self.got, self.status, self.callers = 0, [], 0x0000, set()
        self._server, self._sockets = None, []  # pynetdicom leaves some of them open
        self.start()

    def start(self) -> None:
        from pynetdicom import AE, AllStoragePresentationContexts, evt

        entity = AE(ae_title="ARCHIVE")
        entity.supported_contexts = AllStoragePresentationContexts
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_CONN_OPEN, self._opened)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        self._server.ae.shutdown()
        for connection in self._sockets:
            connection.close()

    def _opened(self, happened) -> None:
        self._sockets.append(happened.assoc.dul.socket.socket)

    def _store(self, happened) -> int:
        if self.status == 0x0000:
            self.callers.add(happened.assoc.requestor.ae_title)
            dataset = happened.dataset
            dataset.file_meta = happened.file_meta
            self.got.append(dataset)
        return self.status

    def of(self, modality: str) -> list:
        return [dataset for dataset in self.got if dataset.Modality == modality]


@pytest.fixture
def archive():
    archive = Archive()
    yield archive
    archive.stop()


@pytest.fixture
def image() -> np.ndarray:
    """(3, 8, 8): dark, with one bright box of 8 voxels."""
    array = np.zeros((3, 8, 8), np.int16)
    array[1, 2:4, 3:7] = 1000
    return array


@pytest.fixture
def node(save_threshold, tmp_path, archive):
    """Starts a node that sends to the archive; arguments as `Node` takes them. All are closed at the end."""
    from mamba_unet.inference import Predictor
    from mamba_unet.listen.node import Node
    from mamba_unet.listen.send import Archive as Destination

    predictor, nodes = Predictor(save_threshold(image_size=(8, 8)), "cpu"), []

    def start(**changes):
        wanted = {
            "folder": tmp_path / "node",
            "title": "MAMBA",
            "destinations": [Destination("127.0.0.1", archive.port, "ARCHIVE", "MAMBA")],
            "port": 0,
            "quiet_s": 0.3,
        }
        nodes.append(Node(predictor, **wanted | changes))
        return nodes[-1]

    yield start
    for one in nodes:
        one.close()


@pytest.fixture
def associate():
    """Opens associations to a node; what is still open at the end is aborted."""
    from pydicom.uid import ExplicitVRLittleEndian
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import CTImageStorage, MRImageStorage, SegmentationStorage, Verification

    opened, sockets = [], []
    handlers = [(evt.EVT_CONN_OPEN, lambda happened: sockets.append(happened.assoc.dul.socket.socket))]

    def open_one(port: int, called: str = "MAMBA", calling: str = "SCANNER", tls=None):
        entity = AE(ae_title=calling)
        entity.acse_timeout = entity.network_timeout = entity.dimse_timeout = 10
        entity.add_requested_context(Verification)
        for stored in (MRImageStorage, CTImageStorage, SegmentationStorage):
            entity.add_requested_context(stored, ExplicitVRLittleEndian)
        secured = tls and (tls, "localhost")
        opened.append(entity.associate("127.0.0.1", port, ae_title=called, tls_args=secured, evt_handlers=handlers))
        return opened[-1]

    yield open_one
    for association in opened:
        if association.is_established:
            association.abort()
    for connection in sockets:
        connection.close()


@pytest.fixture
def send(associate):
    """Sends files to a node in one association; returns the statuses."""

    def send_files(port: int, files, **options) -> list[int]:
        association = associate(port, **options)
        assert association.is_established
        statuses = [association.send_c_store(file).Status for file in files]
        association.release()
        return statuses

    return send_files


def _until(condition, seconds: float = 60):
    """Wait for a condition, and return what it gave."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s; threads: {threading.enumerate()}"
        time.sleep(0.02)
    return found


@pytest.fixture
def until():
    return _until
