"""MONAI Label's routes: what its clients send and read, as plain HTTP, and its own client where it is installed."""

import gzip
import io
import json
import socket
import threading
import time
import warnings
from email import message_from_bytes
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from fastapi.concurrency import run_in_threadpool
from fastapi.testclient import TestClient

from mamba_unet.serve import create_app, monai_label

pytest.importorskip("python_multipart", reason="`pip install mamba-unet` brings it")
pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with:DeprecationWarning")

PATIENCE_S = 60  # of a busy machine
LEAVES_SOCKETS_OPEN = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
LABELS = {"myocardium": 1, "left ventricle": 2}


@pytest.fixture
def client(predictor):
    with TestClient(create_app({"heart": predictor}), base_url="http://127.0.0.1:8765") as client:
        yield client


def session(client, path) -> str:
    """A session of a file, made as 3D Slicer's plug-in does."""
    answer = client.put("/session/", data={"client_id": "user-xyz"}, files=[("files", (path.name, path.read_bytes()))])
    assert answer.status_code == 200, answer.text
    return answer.json()["session_id"]


def infer(client, model="heart", files=None, params=None, **query):
    """As MONAI Label's clients ask: a form, also where it holds words alone."""
    words = [("params", (None, json.dumps({"client_id": "user-xyz", **(params or {})})))]
    return client.post(f"/infer/{model}", params={"image": "", **query}, files=[*words, *(files or [])])


def parts(answer) -> SimpleNamespace:
    """params and image of a form, read by another program's code than that which wrote it."""
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    params, image = message_from_bytes(head + answer.content).get_payload()
    assert params.get_param("name", header="content-disposition") == "params"
    assert image.get_param("name", header="content-disposition") == "image"
    content = image.get_payload(decode=True)
    return SimpleNamespace(params=json.loads(params.get_payload()), name=image.get_filename(), content=content)


def expected(volume_file):
    return np.digitize(np.asarray(nib.load(volume_file).dataobj), [40, 80])


def test_info_has_what_the_plug_ins_read(client):
    info = client.get("/info/").json()
    assert info["labels"] == list(LABELS) and "config" not in info, "3D Slicer takes a config for an old server"
    model = info["models"]["heart"]
    assert model["type"] == "segmentation" and model["labels"] == LABELS and "phantom" in model["description"]
    assert model["config"] == {"slice_axis": ["automatic", "z", "y", "x"]}
    assert all(info[name] == {} for name in ("trainers", "strategies", "scoring", "train_stats"))
    assert info["datastore"] == {"total": 0, "completed": 0, "label_tags": {}}


def test_a_session_becomes_a_segmentation_in_the_image_s_place(client, volume_file):
    name = session(client, volume_file)
    assert client.get(f"/session/{name}").json()["image"] == "patient007_frame01"
    source = nib.load(volume_file)

    answer = infer(client, session_id=name)
    assert answer.status_code == 200 and int(answer.headers["content-length"]) == len(answer.content)
    found = parts(answer)
    assert found.params == {"label_names": LABELS} and found.name == "patient007_frame01_segmentation.nii.gz"
    label = nib.Nifti1Image.from_bytes(gzip.decompress(found.content))
    assert np.array_equal(label.affine, source.affine) and np.array_equal(label.dataobj, expected(volume_file))

    # a second time, as 3D Slicer asks
    params = {"result_extension": ".nrrd", "result_dtype": "uint16", "slice_axis": "z", "result_compress": False}
    found = parts(infer(client, session_id=name, params=params))
    assert found.name.endswith("_segmentation.nrrd") and found.content.startswith(b"NRRD")

    assert client.delete(f"/session/{name}").status_code == 200
    assert client.get(f"/session/{name}").status_code == 404
    assert infer(client, session_id=name).status_code == 404


def test_an_answer_as_nrrd_lies_where_the_image_does(client, volume_file, tmp_path):
    answer = infer(
        client, session_id=session(client, volume_file), output="image", params={"result_extension": ".nrrd"}
    )
    assert 'filename="patient007_frame01_segmentation.nrrd"' in answer.headers["content-disposition"]
    (tmp_path / "label.nrrd").write_bytes(answer.content)
    label, image = sitk.ReadImage(str(tmp_path / "label.nrrd")), sitk.ReadImage(str(volume_file))
    for place in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        assert np.allclose(getattr(label, place)(), getattr(image, place)())
    assert np.array_equal(sitk.GetArrayFromImage(label).T, expected(volume_file))
    assert label.GetPixelID() == sitk.sitkUInt8


def test_only_the_labels_that_are_there_are_named(client, tmp_path):
    image = np.zeros((32, 24, 6), np.int16)
    image[4:8, 4:8, 2] = 100
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "white.nii.gz")
    answer = infer(client, session_id=session(client, tmp_path / "white.nii.gz"), output="json")
    assert answer.json() == {"label_names": {"left ventricle": 2}}


def test_an_image_can_come_with_the_question_and_leaves_nothing(client, volume_file):
    files = [("file", (f"/home/someone/{volume_file.name}", volume_file.read_bytes()))]
    found = parts(infer(client, image="anything", files=files))
    assert found.name == "patient007_frame01_segmentation.nii.gz"
    assert not client.app.state.jobs._jobs and not list(client.app.state.jobs._folder.path.iterdir())
    assert infer(client, image="anything").status_code == 404, "others cannot have it by the name"


def test_the_data_store_gives_an_uploaded_image_a_name_of_its_own_and_holds_nothing_else(client, volume_file):
    form = {"params": (None, "{}"), "file": (volume_file.name, volume_file.read_bytes())}
    image = client.put("/datastore/", params={"image": "mine"}, files=form).json()["image"]
    assert image != "mine" and infer(client, image=image, output="json").json() == {"label_names": LABELS}
    assert client.get("/datastore/").json()["total"] == 0
    assert client.get("/datastore/", params={"output": "all"}).json()["objects"] == {}
    assert client.post("/activelearning/random", json={}).json() == {}
    answer = client.put("/datastore/label", params={"image": image}, files={"label": ("a.nii.gz", b"x")})
    assert answer.status_code == 501 and "keeps no labels" in answer.json()["detail"]
    assert client.get("/train/", params={"check_if_running": "true"}).status_code == 404  # what stands for "no"


def test_dicom_comes_as_the_files_of_a_session_and_goes_as_a_segmentation_object(client, dicom_study):
    import pydicom

    series = sorted((dicom_study / "series3").iterdir())
    sent = [("files", (path.name, path.read_bytes())) for path in series]
    name = client.put("/session/", files=sent).json()["session_id"]
    answer = infer(client, session_id=name, output="dicom_seg")
    assert answer.headers["content-type"] == "application/dicom"
    seg = pydicom.dcmread(io.BytesIO(answer.content))
    assert [it.SegmentLabel for it in seg.SegmentSequence] == list(LABELS)

    sent += [("files", (f"again{path.name}", path.read_bytes())) for path in (dicom_study / "series4").iterdir()]
    name = client.put("/session/", files=sent).json()["session_id"]
    answer = infer(client, session_id=name)
    assert answer.status_code == 422 and "several volumes" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"model": "lung"}, 422, "no model 'lung'"),
        ({"output": "picture"}, 422, "no output 'picture'"),
        ({"params": {"result_extension": ".exe"}}, 422, "result_extension: .exe is none of .nii.gz, .nrrd, .mha"),
        ({"params": {"result_dtype": "float64"}}, 422, "result_dtype"),
        ({"params": {"slice_axis": "w"}}, 422, "slice_axis: w is none of z, y, x"),
        ({"files": [("label", ("scribbles.nii.gz", b"x"))]}, 422, "take images alone"),
        ({"files": [("note", (None, "x" * 20_000))]}, 413, "Only an upload may be as large"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(client, volume_file, asked, status, words):
    answer = infer(client, session_id=session(client, volume_file), **asked)
    assert answer.status_code == status and words in answer.json()["detail"]


def test_what_is_no_volume_and_what_is_no_form_is_refused(client, tmp_path):
    (tmp_path / "report.nii.gz").write_bytes(b"no volume")
    answer = infer(client, session_id=session(client, tmp_path / "report.nii.gz"))
    assert answer.status_code == 422 and "report" in answer.json()["detail"] and "/tmp" not in answer.text
    for content, kind in ((b"{}", "application/json"), (b"--x\r\nhalf", "multipart/form-data; boundary=x"), (b"", "")):
        answer = client.put("/session/", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 422, (content, answer.text)
    assert client.put("/session/", files={"params": (None, "{}")}).status_code == 422
    broken = client.post("/infer/heart", files={"params": (None, "[" * 9000)})
    assert broken.status_code in (404, 422)


def test_the_limits_of_the_page_hold(predictor, volume_file):
    content = volume_file.read_bytes() + bytes(2**20)
    for limits, status in (({"max_upload_bytes": 2**20}, 413), ({"max_disk_bytes": 2**20}, 507)):
        with TestClient(create_app({"heart": predictor}, **limits), base_url="http://127.0.0.1:8765") as client:
            chunks = (
                b"--x\r\nContent-Disposition: form-data; name=files; filename=a.nii.gz\r\n\r\n" + content + b"\r\n--x--"
            )
            for body in (chunks, iter([chunks])):  # told in advance, and not
                kind = {"Content-Type": "multipart/form-data; boundary=x"}
                assert client.put("/session/", content=body, headers=kind).status_code == status
            assert not client.app.state.jobs._jobs


def test_a_client_logs_in_with_the_token_for_a_password(predictor):
    app = create_app({"heart": predictor}, token="secret")
    with TestClient(app, base_url="http://machine:8765") as client:
        assert client.get("/info/").status_code == client.put("/session/").status_code == 401
        assert client.get("/auth/token/valid").status_code == 401
        assert client.get("/auth/").json()["enabled"] is True
        wrong = client.post("/auth/token", data={"username": "me", "password": "guess", "grant_type": "password"})
        assert wrong.status_code == 401 and "secret" not in wrong.text
        given = client.post("/auth/token", data={"username": "me", "password": "secret", "grant_type": "password"})
        login = {"Authorization": f"{given.json()['token_type']} {given.json()['access_token']}"}
        assert client.get("/info/", headers=login).status_code == 200
        assert client.get("/auth/token/valid", headers=login).status_code == 200
        foreign = {**login, "Origin": "http://elsewhere"}
        assert client.post("/infer/heart", headers=foreign).status_code == 403
    with TestClient(create_app({"heart": predictor}), base_url="http://127.0.0.1:8765") as client:
        assert client.get("/auth/").json()["enabled"] is False
        assert client.get("/info/", headers={"Host": "elsewhere"}).status_code == 403


@pytest.mark.parametrize("moment", ["before it looks again", "while it takes the files"])
def test_a_segmentation_of_another_request_is_no_answer(predictor, volume_file, monkeypatch, moment):
    def other(volume, **options):
        return predictor(volume, **options)

    def ask_again():
        """Somebody else has the image segmented by another network, from beginning to end."""
        wait_for_the_end()
        assert client.post(f"/api/jobs/{name}/start", json={"model": "other"}).status_code == 200
        wait_for_the_end()

    def wait_for_the_end():
        deadline = time.monotonic() + PATIENCE_S
        while client.app.state.jobs.get(name).state != "done" and time.monotonic() < deadline:
            time.sleep(0.01)

    async def finished(*args):
        await run_in_threadpool(ask_again)
        await on_time(*args)

    def image(*args):
        ask_again()
        return read(*args)

    other.metadata, other.preprocessing = predictor.metadata, predictor.preprocessing
    on_time, read = monai_label._finished, monai_label._image
    with TestClient(create_app({"heart": predictor, "other": other}), base_url="http://127.0.0.1:8765") as client:
        name = session(client, volume_file)
        with monkeypatch.context() as patch:
            if moment == "before it looks again":
                patch.setattr(monai_label, "_finished", finished)
            else:
                patch.setattr(monai_label, "_image", image)
            answer = infer(client, session_id=name)
        assert client.get(f"/api/jobs/{name}").json()["model"] == "other"
        assert answer.status_code == 409 and "started again meanwhile" in answer.json()["detail"]
        assert infer(client, model="other", session_id=name).status_code == 200


@pytest.fixture
def served(predictor, request, listening):
    """The server behind a real socket; its address."""
    app = create_app({"heart": predictor}, token=getattr(request, "param", None))
    with listening(app) as (host, port):
        yield SimpleNamespace(url=f"http://{host}:{port}", jobs=app.state.jobs)


def test_a_client_that_goes_away_stops_the_network(served, volume_file, monkeypatch):
    begun, jobs = threading.Event(), served.jobs
    predictor = jobs.predictors["heart"]

    def endless(volume, progress, **options):
        begun.set()
        while not jobs._closed:
            progress(1, 2)
            time.sleep(0.01)

    endless.metadata, endless.preprocessing = predictor.metadata, predictor.preprocessing
    monkeypatch.setitem(jobs.predictors, "heart", endless)
    job = jobs.create()
    with jobs.adding(job, volume_file.name) as path:
        path.write_bytes(volume_file.read_bytes())
    body = b'--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n{}\r\n--x--\r\n'
    head = (
        f"POST /infer/heart?session_id={job.id} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as caller:
        caller.sendall(head.encode() + body)
        assert begun.wait(PATIENCE_S)
    deadline = time.monotonic() + PATIENCE_S
    while job.state != "cancelled" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert job.state == "cancelled"


@pytest.fixture
def their_client():
    """The class that MONAI Label's own plug-ins are built on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it reads forms by Python's cgi
        return pytest.importorskip(
            "monailabel.client.client", reason="MONAI Label is not here; `make test-nnunet` installs its client"
        ).MONAILabelClient


def talk(client, volume_file, tmp_path):
    """Everything that a plug-in does to segment an image."""
    assert client.info()["models"]["heart"]["labels"] == LABELS
    name = client.create_session(str(volume_file))["session_id"]
    assert client.get_session(name)["image"] == "patient007_frame01"
    params = {"result_extension": ".nrrd", "result_dtype": "uint8", "slice_axis": "automatic"}
    file, found = client.infer("heart", "patient007", params, session_id=name)
    assert file.startswith(str(tmp_path)) and file.endswith(".nrrd") and found["label_names"] == LABELS
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(file)).T, expected(volume_file))
    client.remove_session(name)
    file, _ = client.infer("heart", "", {}, file=str(volume_file))
    assert np.array_equal(nib.load(file).dataobj, expected(volume_file))
    image = client.upload_image(str(volume_file), "patient007")["image"]
    assert client.infer("heart", image, {})[1]["label_names"] == LABELS
    assert client.datastore()["objects"] == {} and client.next_sample("random", {}) == {}
    assert client.train_status(check_if_running=True) is False


@LEAVES_SOCKETS_OPEN
def test_their_client_segments_with_our_networks(their_client, served, volume_file, tmp_path):
    client = their_client(served.url, tmpdir=str(tmp_path), client_id="user-xyz")
    assert not client.auth_enabled()
    talk(client, volume_file, tmp_path)


@LEAVES_SOCKETS_OPEN
@pytest.mark.parametrize("served", ["secret"], indirect=True)
def test_their_client_logs_in(their_client, served, volume_file, tmp_path):
    client = their_client(served.url, tmpdir=str(tmp_path), client_id="user-xyz")
    with pytest.raises(Exception, match="401"):
        client.info()
    assert client.auth_enabled() and not client.auth_valid_token()
    client.update_auth(client.auth_token("anybody", "secret"))
    assert client.auth_valid_token()
    talk(client, volume_file, tmp_path)
