import asyncio
import gzip
import io
import json
import logging
import re
import shutil
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from fastapi.testclient import TestClient
from PIL import Image

import mamba_unet
from mamba_unet.inference import Predictor
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.models.registry import build_model, resolve_config
from mamba_unet.monitoring import JsonLines
from mamba_unet.serve import create_app
from mamba_unet.serve.jobs import OUTCOMES
from mamba_unet.serve.result import write_image
from mamba_unet.views.intensity import MINMAX
from mamba_unet.views.patches import Patches
from mamba_unet.views.preprocessing import Preprocessing

pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with:DeprecationWarning")


PATIENCE_S = 60  # of a busy machine
HEADER_OF_ANOTHER_FILE = b"""ObjectType = Image
NDims = 3
DimSize = 2 2 2
ElementType = MET_UCHAR
ElementDataFile = /etc/hostname
"""


class Gate:
    """A predictor that waits in the middle of every volume until it is let through."""

    def __init__(self, predictor):
        self.predictor, self.metadata = predictor, predictor.metadata
        self.preprocessing = predictor.preprocessing
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, volume, progress, **options):
        progress(1, 4)
        self.reached.set()
        while not self.open.wait(0.01):
            progress(1, 4)
        return self.predictor(volume, progress=progress, **options)


def client_of(predictor, base_url="http://127.0.0.1:8765", **options):
    predictors = predictor if isinstance(predictor, dict) else {"heart": predictor}
    return TestClient(create_app(predictors, **options), base_url=base_url)


@pytest.fixture
def client(predictor):
    with client_of(predictor) as client:
        yield client


def upload(client, *files, **start):
    """Upload (name, bytes) and start; the answer to the start."""
    job = client.post("/api/jobs").json()["id"]
    for name, content in files:
        answer = client.put(f"/api/jobs/{job}/upload", params={"name": name}, content=content)
        assert answer.status_code == 204, answer.text
    return client.post(f"/api/jobs/{job}/start", json={"model": "heart", **start})


def wait(client, job, *states):
    """The job once it is in one of these states."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        now = client.get(f"/api/jobs/{job}").json()
        if now["state"] in (states or ("done", "failed", "cancelled")):
            return now
        time.sleep(0.01)
    raise AssertionError(now)


def loaded(client, job, file):
    answer = client.get(f"/api/jobs/{job['id']}/{file}")
    assert answer.status_code == 200, answer.text
    return nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))


def test_a_volume_becomes_a_segmentation_in_its_own_geometry_with_measurements(client, volume_file):
    about = client.get("/api/about").json()
    assert [it["name"] for it in about["models"][0]["classes"]] == ["myocardium", "left ventricle"]

    started = upload(client, (volume_file.name, volume_file.read_bytes())).json()
    assert started["state"] in ("queued", "running", "done") and started["name"] == "patient007_frame01"
    job = wait(client, started["id"])
    assert job["state"] == "done" and job["slices"] == [6, 6]
    assert job["image"] | {"spacing_mm": None} == {
        "frames": 1,
        "shape": [32, 24, 6],
        "step": [1, 1, 1],
        "spacing_mm": None,
        "plane": "axial",
        "slice_axis": "z",
        "oriented": True,
        "dicom": False,
        "color": False,
        "windows": [
            {"name": "1–99 %", "low": 0, "high": 100},
            {"name": "full range", "low": 0, "high": 100},
        ],
    }
    source = nib.load(volume_file)
    expected = np.digitize(np.asarray(source.dataobj), [40, 80])
    for file in ("segmentation.nii.gz", "label.nii.gz"):
        label = loaded(client, job, file)
        assert np.array_equal(label.affine, source.affine) and np.array_equal(label.dataobj, expected)
    image = loaded(client, job, "image.nii.gz")
    assert np.array_equal(image.affine, source.affine) and np.array_equal(image.dataobj, source.dataobj)

    ventricle = job["result"]["structures"][1]
    assert ventricle["volume_ml"] == pytest.approx((expected == 2).sum() * 1.5 * 1.5 * 8 / 1000)
    assert ventricle["mean_intensity"] == 100 and not ventricle["touches_border"]
    table = client.get(f"/api/jobs/{job['id']}/statistics.csv")
    assert "left ventricle" in table.text
    assert 'filename="patient007_frame01_statistics.csv"' in table.headers["content-disposition"]
    assert job["result"]["files"] == ["segmentation.nii.gz", "statistics.csv"]


def test_a_cine_has_its_ejection_fraction(client, cine_file):
    job = wait(client, upload(client, (cine_file.name, cine_file.read_bytes())).json()["id"])
    assert job["image"]["frames"] == 4 and job["slices"] == [24, 24]
    cardiac = job["result"]["cardiac"]
    assert (cardiac["ed"], cardiac["es"]) == ("frame 1", "frame 3")
    sizes = [(np.asarray(nib.load(cine_file).dataobj)[..., t] > 80).sum() for t in (1, 3)]
    assert cardiac["lv_ef_percent"] == pytest.approx(100 * (1 - sizes[1] / sizes[0]))
    assert "cardiac.csv" in job["result"]["files"]
    assert loaded(client, job, "label.nii.gz").shape == (32, 24, 6, 4)


def test_pictures_and_hdf5_are_shown_as_they_lie(client, tmp_path):
    pixels = np.zeros((20, 30), np.uint8)
    pixels[2:6, 3:9] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    with h5py.File(tmp_path / "case.h5", "w") as file:
        file["image"] = pixels[None].astype(np.float64)
    for name, content in (("photo.png", stream.getvalue()), ("case.h5", (tmp_path / "case.h5").read_bytes())):
        job = wait(client, upload(client, (name, content)).json()["id"])
        assert job["state"] == "done", job["error"]
        assert not job["image"]["oriented"] and job["image"]["plane"] == "axial"
        label = loaded(client, job, "label.nii.gz")
        # seen by the radiologists' convention, the first pixel is at the top and left
        assert nib.aff2axcodes(label.affine) == ("L", "P", "S")
        assert np.array_equal(np.asarray(label.dataobj)[..., 0].T == 2, pixels > 0)
        assert job["result"]["structures"][0]["volume_ml"] is None


def test_a_volume_too_large_for_graphics_is_shown_thinned_and_segmented_whole(client, volume_file, monkeypatch):
    monkeypatch.setattr("mamba_unet.serve.result.LARGEST", 16)
    job = wait(client, upload(client, (volume_file.name, volume_file.read_bytes())).json()["id"])
    assert job["image"]["step"] == [2, 2, 1] and job["image"]["shape"] == [32, 24, 6]
    whole, shown = (loaded(client, job, file) for file in ("segmentation.nii.gz", "label.nii.gz"))
    assert whole.shape == (32, 24, 6) and shown.shape == (16, 12, 6)
    for voxel in ([0, 0, 0], [6, 5, 2], [15, 11, 5]):
        at = nib.affines.apply_affine(np.linalg.inv(whole.affine) @ shown.affine, voxel).round().astype(int)
        assert shown.dataobj[tuple(voxel)] == whole.dataobj[tuple(at)]
        assert np.array_equal(at, np.multiply(voxel, job["image"]["step"]))


def test_dicom_comes_as_a_zip_or_as_files_and_leaves_as_a_segmentation_object(client, dicom_study, tmp_path):
    import pydicom

    archive = shutil.make_archive(str(tmp_path / "series"), "zip", dicom_study / "series3")
    zipped = upload(client, ("heart.zip", Path(archive).read_bytes())).json()
    assert zipped["name"] == "heart"
    files = [(f"study/{path.parent.name}/{path.name}", path.read_bytes()) for path in sorted(dicom_study.rglob("IM*"))]
    study = upload(client, *files).json()
    assert study["state"] == "choosing" and study["volumes"] == ["study_3_short-axis", "study_4_again"]
    client.post(f"/api/jobs/{study['id']}/start", json={"model": "heart", "volume": 0})
    for started in (zipped, study):
        job = wait(client, started["id"])
        assert job["state"] == "done" and job["image"]["dicom"] and job["image"]["oriented"], job["error"]
        assert not job["result"]["notes"]
        answer = client.get(f"/api/jobs/{job['id']}/segmentation.dcm")
        seg = pydicom.dcmread(io.BytesIO(answer.content))
        assert [it.SegmentLabel for it in seg.SegmentSequence] == ["myocardium", "left ventricle"]
        assert f'filename="{job["name"]}_segmentation.dcm"' in answer.headers["content-disposition"]


def test_what_is_no_volume_is_refused_in_words_without_our_paths(client):
    for name, content in (
        ("report.nii.gz", b"this is no volume"),
        ("notes.txt", b"neither is this"),
        ("photo.png", b"\x89PNG but then nothing"),
        ("study.zip", b"PK no archive"),
        ("data.h5", b"nothing"),
        ("volume.nrrd", b"NRRD0004\nnothing"),
        ("volume.mha", HEADER_OF_ANOTHER_FILE),
        ("header.mhd", HEADER_OF_ANOTHER_FILE.replace(b"/etc/hostname", b"header.raw")),
    ):
        answer = upload(client, (name, content))
        assert answer.status_code == 422, name
        text = answer.json()["detail"]
        assert name in text, text
        assert not re.search("Error|Exception|Errno", text), text
        assert "/tmp" not in text and "input" not in text and "000000" not in text, text
        job = client.get(f"/api/jobs/{answer.request.url.path.split('/')[3]}").json()
        assert job["state"] == "failed" and job["error"] == text
    assert upload(client).status_code == 422


def test_an_unknown_model_and_volume_are_refused(client, volume_file):
    file = (volume_file.name, volume_file.read_bytes())
    answer = upload(client, file, model="lung")
    assert answer.status_code == 422 and "heart" in answer.json()["detail"]
    assert upload(client, file, volume=-1).status_code == upload(client, file, slice_axis="w").status_code == 422
    done = wait(client, upload(client, file).json()["id"])
    again = client.post(f"/api/jobs/{done['id']}/start", json={"model": "heart", "volume": 1})
    assert again.status_code == 422 and "holds 1" in again.json()["detail"]


def test_of_several_volumes_one_is_chosen(client, volume_file, cine_file):
    several = upload(client, *((path.name, path.read_bytes()) for path in (volume_file, cine_file))).json()
    assert several["state"] == "choosing" and several["volumes"] == ["patient007_frame01", "patient007_4d"]
    chosen = client.post(f"/api/jobs/{several['id']}/start", json={"model": "heart", "volume": 1})
    assert chosen.status_code == 200
    job = wait(client, several["id"])
    assert job["state"] == "done" and job["name"] == "patient007_4d" and job["image"]["frames"] == 4
    again = client.post(f"/api/jobs/{several['id']}/start", json={"model": "heart", "volume": 0, "slice_axis": "x"})
    assert again.json()["name"] == "patient007_frame01"
    job = wait(client, several["id"])
    assert job["slices"] == [32, 32] and job["image"]["plane"] == "sagittal"
    assert "cardiac.csv" not in job["result"]["files"]


def test_the_chosen_model_is_the_one_that_runs(predictor, volume_file):
    calls = []

    def other(volume, **options):
        calls.append(volume.name)
        return predictor(volume, **options)

    other.metadata, other.preprocessing = predictor.metadata, predictor.preprocessing
    with client_of({"heart": predictor, "other": other}) as client:
        file = (volume_file.name, volume_file.read_bytes())
        wait(client, upload(client, file).json()["id"])
        assert not calls
        assert wait(client, upload(client, file, model="other").json()["id"])["model"] == "other"
        assert calls == ["patient007_frame01"]


def test_a_network_for_volumes_segments_patch_by_patch(volume_file, tmp_path):
    arguments = {"dims": [8, 16, 32], "d_state": 2}
    config = {"in_channels": 1, "num_classes": 3, **resolve_config("nano", arguments, "mamba_unet_3d")}
    names = ["background", "myocardium", "left ventricle"]
    preprocessing = Preprocessing((MINMAX,), "SPL", Patches((4, 16, 16), (8.0, 2.0, 2.0))).to_json()
    metadata = CheckpointMetadata("mamba_unet_3d", config, names, preprocessing, "phantom")
    save_checkpoint(tmp_path / "run" / "best.safetensors", build_model("mamba_unet_3d", **config), metadata)
    predictor = Predictor(tmp_path / "run", device="cpu")
    with client_of(predictor) as client:
        (model,) = client.get("/api/about").json()["models"]
        assert model["tiles"] == "patches" and "kind patches" in model["card"]["what it sees"]
        job = wait(client, upload(client, (volume_file.name, volume_file.read_bytes()), uncertainty=True).json()["id"])
        assert job["state"] == "done" and job["slices"][0] == job["slices"][1] > 1
        for file in ("segmentation.nii.gz", "uncertainty.nii.gz"):
            made = loaded(client, job, file)
            assert made.shape == (32, 24, 6) and np.array_equal(made.affine, nib.load(volume_file).affine)
        by_command = predictor(volume_file).labels[0]
        assert np.array_equal(np.asarray(loaded(client, job, "segmentation.nii.gz").dataobj).T, by_command)


def test_two_people_wait_in_turn_and_cancel_their_own(predictor, volume_file):
    gate = Gate(predictor)
    with client_of(gate) as client:
        file = (volume_file.name, volume_file.read_bytes())
        first, second, third = (upload(client, file).json()["id"] for _ in range(3))
        assert gate.reached.wait(PATIENCE_S)
        assert wait(client, first, "running")["slices"] == [1, 4]
        assert [wait(client, job, "queued")["ahead"] for job in (second, third)] == [1, 2]
        client.post(f"/api/jobs/{second}/cancel")  # waiting
        assert wait(client, third, "queued")["ahead"] == 1
        client.post(f"/api/jobs/{first}/cancel")  # running
        assert wait(client, third, "running")
        gate.open.set()
        assert [wait(client, job)["state"] for job in (first, second, third)] == ["cancelled", "cancelled", "done"]
        again = client.post(f"/api/jobs/{first}/start", json={"model": "heart"})
        assert again.status_code == 200 and wait(client, first)["state"] == "done"


def test_a_running_volume_is_not_started_twice_and_takes_no_more_files(predictor, volume_file):
    gate = Gate(predictor)
    with client_of(gate) as client:
        job = upload(client, (volume_file.name, volume_file.read_bytes())).json()["id"]
        assert gate.reached.wait(PATIENCE_S)
        assert client.post(f"/api/jobs/{job}/start", json={"model": "heart"}).status_code == 409
        assert client.put(f"/api/jobs/{job}/upload", params={"name": "more.nii"}, content=b"").status_code == 409


def test_a_failure_in_the_network_is_said_and_the_next_volume_runs(predictor, volume_file, caplog):
    outcomes = iter([RuntimeError("out of luck"), MemoryError(), None])

    def unlucky(volume, **options):
        error = next(outcomes)
        if error:
            raise error
        return predictor(volume, **options)

    unlucky.metadata = predictor.metadata
    unlucky.preprocessing = predictor.preprocessing
    with client_of(unlucky) as client:
        jobs = [upload(client, (volume_file.name, volume_file.read_bytes())).json()["id"] for _ in range(3)]
        failed, too_large, done = (wait(client, job) for job in jobs)
    assert failed["state"] == "failed" and "RuntimeError" not in failed["error"]
    assert "its log says more" in failed["error"] and "out of luck" in caplog.text
    assert too_large["state"] == "failed" and "too large for the memory" in too_large["error"]
    assert done["state"] == "done"


def test_a_result_of_another_volume_is_never_given_under_this_ones_name(predictor, volume_file, cine_file):
    outcomes = iter([None, RuntimeError("out of luck")])

    def unlucky(volume, **options):
        if error := next(outcomes):
            raise error
        return predictor(volume, **options)

    unlucky.metadata, unlucky.preprocessing = predictor.metadata, predictor.preprocessing
    with client_of(unlucky) as client:
        files = [(path.name, path.read_bytes()) for path in (volume_file, cine_file)]
        job = upload(client, *files, volume=0).json()["id"]
        assert wait(client, job)["state"] == "done"
        assert client.get(f"/api/jobs/{job}/segmentation.nii.gz").status_code == 200
        client.post(f"/api/jobs/{job}/start", json={"model": "heart", "volume": 1})
        assert wait(client, job)["state"] == "failed"
        for file in ("segmentation.nii.gz", "statistics.csv", "label.nii.gz"):
            assert client.get(f"/api/jobs/{job}/{file}").status_code in (404, 409)


def test_uploads_end_at_the_limit(predictor):
    with client_of(predictor, max_upload_bytes=1000) as client:
        job = client.post("/api/jobs").json()["id"]
        where, name = f"/api/jobs/{job}/upload", {"name": "a.nii"}
        said = client.put(where, params=name, content=bytes(1001))
        assert said.status_code == 413 and "limit" in said.json()["detail"]
        assert client.put(where, params=name, content=bytes(600)).status_code == 204
        unsaid = client.put(where, params=name, content=(bytes(100) for _ in range(5)))
        assert unsaid.status_code == 413
        assert "content-length" not in unsaid.request.headers


def test_a_name_decides_no_path(client, predictor):
    jobs = client.app.state.jobs
    job = client.post("/api/jobs").json()["id"]
    client.put(f"/api/jobs/{job}/upload", params={"name": "../../../etc/passwd.nii"}, content=b"x")
    (path,) = jobs.get(job).names
    assert path.name == "000000.nii" and path.parent == jobs.get(job).upload and path.read_bytes() == b"x"
    assert client.get(f"/api/jobs/{job}/..%2Finput%2F000000.nii").status_code == 404
    assert client.get(f"/api/jobs/{job}/input").status_code == 404


def test_a_removed_volume_is_gone_from_the_disk(client, volume_file):
    job = wait(client, upload(client, (volume_file.name, volume_file.read_bytes())).json()["id"])["id"]
    folder = client.app.state.jobs.get(job).folder
    assert (folder / "segmentation.nii.gz").exists()
    assert client.delete(f"/api/jobs/{job}").status_code == 204
    assert not folder.exists() and client.get(f"/api/jobs/{job}").status_code == 404


def test_what_nobody_asks_for_any_more_goes(predictor, volume_file):
    with client_of(predictor, keep_s=0.3) as client:
        job = wait(client, upload(client, (volume_file.name, volume_file.read_bytes())).json()["id"])["id"]
        folder = client.app.state.jobs.get(job).folder
        deadline = time.monotonic() + PATIENCE_S
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        answer = client.get(f"/api/jobs/{job}")
        assert answer.status_code == 404 and "removed after a while" in answer.json()["detail"]


def test_stopping_the_server_stops_the_network_and_leaves_nothing(predictor, volume_file):
    gate = Gate(predictor)
    with client_of(gate) as client:
        upload(client, (volume_file.name, volume_file.read_bytes()))
        upload(client, (volume_file.name, volume_file.read_bytes()))
        assert gate.reached.wait(PATIENCE_S)
        folder = next(iter(client.app.state.jobs._jobs.values())).folder.parent
    assert not folder.exists()


def test_only_a_number_of_volumes_is_held_and_empty_uploads_make_room(client, volume_file, monkeypatch):
    monkeypatch.setattr("mamba_unet.serve.jobs.JOBS", 3)
    file = (volume_file.name, volume_file.read_bytes())
    done = [wait(client, upload(client, file).json()["id"])["id"]]
    empty = [client.post("/api/jobs").json()["id"] for _ in range(20)]
    assert client.get(f"/api/jobs/{empty[0]}").status_code == 404
    assert client.get(f"/api/jobs/{done[0]}").json()["state"] == "done"
    done += [wait(client, upload(client, file).json()["id"])["id"] for _ in range(2)]
    answer = client.post("/api/jobs")
    assert answer.status_code == 503 and "as many" in answer.json()["detail"]
    client.delete(f"/api/jobs/{done[0]}")
    assert client.post("/api/jobs").status_code == 201


def test_an_upload_that_nobody_goes_on_with_goes_early(client, monkeypatch):
    jobs = client.app.state.jobs
    job = jobs.create()
    job.touched -= 299
    jobs.create()
    assert job.folder.exists()
    job.touched -= 2
    jobs.create()
    assert not job.folder.exists()


def test_uploads_and_results_together_end_at_the_disk_limit(predictor, volume_file):
    content = volume_file.read_bytes()
    with client_of(predictor, max_disk_bytes=2 * len(content) + 10_000) as client:
        done = wait(client, upload(client, (volume_file.name, content)).json()["id"])
        assert client.app.state.jobs.get(done["id"]).written > 0
        job = client.post("/api/jobs").json()["id"]
        where = f"/api/jobs/{job}/upload"
        for body in (bytes(20_000), iter([bytes(20_000)])):
            answer = client.put(where, params={"name": "a.nii"}, content=body)
            assert answer.status_code == 507 and "at most" in answer.json()["detail"]
    with client_of(predictor, max_disk_bytes=len(content) + 1) as client:
        answer = upload(client, (volume_file.name, content))
        assert answer.status_code == 422 and "at most" in answer.json()["detail"]
        job = client.app.state.jobs.get(answer.request.url.path.split("/")[3])
        assert [path.name for path in job.folder.iterdir()] == ["input"]


def test_a_folder_that_disappears_is_made_again_for_this_user_alone(client):
    jobs = client.app.state.jobs
    shutil.rmtree(jobs.create().folder.parent)
    job = jobs.create()
    assert job.upload.is_dir()
    assert stat.S_IMODE(job.folder.parent.stat().st_mode) == 0o700


def test_what_makes_no_sense_is_refused_in_words_with_all_headers(predictor):
    with TestClient(create_app({"heart": predictor}), "http://127.0.0.1", raise_server_exceptions=False) as client:
        job = client.post("/api/jobs").json()["id"]
        for body in (
            '{"model": "heart", "volume": NaN}',
            '{"model": "heart", "volume": 1e999}',
            '{"model": "heart", "scan": 0}',
            '{"model": "heart", "slice_axis": "w"}',
            "{}",
            "NaN",
            "{",
            "",
        ):
            headers = {"content-type": "application/json"}
            answer = client.post(f"/api/jobs/{job}/start", content=body, headers=headers)
            assert answer.status_code == 422 and isinstance(answer.json()["detail"], str), body
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert client.get(f"/api/jobs/{job}").json()["state"] == "uploading"


def test_a_failure_of_the_server_has_all_headers_and_no_inside(predictor, monkeypatch):
    monkeypatch.setattr("mamba_unet.serve.jobs.Jobs.create", None)
    with TestClient(create_app({"heart": predictor}), "http://127.0.0.1", raise_server_exceptions=False) as client:
        answer = client.post("/api/jobs")
        assert answer.status_code == 500 and answer.json() == {
            "detail": "The server failed at this request; its log says more."
        }
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


def test_a_name_is_shown_with_escapes_for_what_no_screen_shows(client):
    name = "a\x1b[31m\u202egnp.exe"
    answer = upload(client, (name, b"x"))
    assert answer.json()["detail"].startswith(r"a\x1b[31m\u202egnp.exe: not a kind of file")


def test_a_page_of_somebody_else_gets_nothing(client):
    assert client.get("/api/about", headers={"host": "localhost:8765"}).status_code == 200
    assert client.get("/api/about", headers={"host": "[::1]:8765"}).status_code == 200
    rebound = client.get("/api/about", headers={"host": "evil.example:8765"})
    assert rebound.status_code == 403 and "127.0.0.1" in rebound.text
    for host in ("evil.example", "localhost.evil.example", "localhost@evil.example", "[", "localhost:x", ""):
        assert client.get("/api/about", headers={"host": host}).status_code == 403, host
    assert client.post("/api/jobs", headers={"origin": "http://127.0.0.1:8765"}).status_code == 201
    for origin in (
        "http://evil.example",
        "http://127.0.0.1:9999",
        "http://evil.example/127.0.0.1:8765",
        "http://[",
        "null",
    ):
        assert client.post("/api/jobs", headers={"origin": origin}).status_code == 403, origin


def test_every_answer_says_what_a_browser_may_do_with_it(client):
    for path in ("/", "/api/about", "/api/jobs/none"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] in ("no-store", "no-cache")
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_elsewhere_than_on_loopback_a_token_is_demanded(predictor):
    with client_of(predictor, base_url="http://scanner:8765", token="secret") as client:
        for path in ("/", "/app.js", "/api/about"):
            assert client.get(path).status_code == 401
        assert client.get("/", params={"token": "guess"}).status_code == 401
        assert client.post("/api/jobs").status_code == 401
        assert client.get("/api/about", headers={"authorization": "Bearer secret"}).status_code == 200
        page = client.get("/", params={"token": "secret"})
        cookie = page.headers["set-cookie"]
        assert (
            page.status_code == 200 and "HttpOnly" in cookie and "SameSite=strict" in cookie and "token_8765" in cookie
        )
        assert client.get("/api/about").status_code == 200
        assert client.post("/api/jobs").status_code == 201
        assert client.post("/api/jobs", headers={"origin": "http://evil.example"}).status_code == 403


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_health_is_told_without_the_token_and_is_503_once_the_worker_is_dead(predictor, monkeypatch):
    with client_of(predictor, base_url="http://scanner:8765", token="secret") as client:
        answer = client.get("/health")
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok", "version": mamba_unet.__version__, "networks": 1, "queue": 0}
        jobs = client.app.state.jobs

        def die():
            raise RuntimeError("the end of the thread")

        monkeypatch.setattr(jobs, "_expire", die)
        with jobs._change:
            jobs._change.notify_all()
        jobs._thread.join(PATIENCE_S)
        answer = client.get("/health")
        assert answer.status_code == 503 and answer.json()["status"] == "failed"


def test_metrics_need_the_token_unless_they_are_open(predictor):
    for options, status in (({}, 401), ({"metrics_open": True}, 200)):
        with client_of(predictor, base_url="http://scanner:8765", token="secret", **options) as client:
            assert client.get("/metrics").status_code == status
            answer = client.get("/metrics", headers={"authorization": "Bearer secret"})
            assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert client.get("/api/about").status_code == 401


def test_what_became_of_volumes_is_counted_and_logged_without_their_names(predictor, volume_file, monkeypatch, caplog):
    def numbers(client):
        lines = [line.split(" ") for line in client.get("/metrics").text.splitlines() if line[0] != "#"]
        return {name.removeprefix("mamba_unet_"): float(value) for name, value in lines}

    def fail(*args):
        raise RuntimeError(f"at {volume_file.name}")

    gate = Gate(predictor)
    name, content = volume_file.name, volume_file.read_bytes()
    caplog.set_level(logging.INFO, "mamba_unet")
    with client_of(gate) as client:
        first = upload(client, (name, content)).json()["id"]
        gate.reached.wait(PATIENCE_S)
        second = upload(client, (name, content)).json()["id"]
        now = numbers(client)
        assert (now["queue"], now["running"]) == (1, 1) and now["held_bytes"] >= 2 * len(content)
        client.post(f"/api/jobs/{second}/cancel")
        gate.open.set()
        assert wait(client, first)["state"] == "done"
        assert upload(client, (name, b"no volume")).status_code == 422
        monkeypatch.setattr("mamba_unet.serve.jobs.write_result", fail)
        assert wait(client, upload(client, (name, content)).json()["id"])["state"] == "failed"
        now = numbers(client)
    assert {key: now[f'cases_total{{outcome="{key}"}}'] for key in OUTCOMES} == dict.fromkeys(OUTCOMES, 1)
    assert now["case_seconds_count"] == 1 and now["case_seconds_sum"] > 0
    assert (now["queue"], now["running"], now["up"], now["networks"]) == (0, 0, 1, 1)

    lines = [JsonLines().format(record) for record in caplog.records if record.name.startswith("mamba_unet")]
    told = [json.loads(line) for line in lines]
    events = [line["event"] for line in told if line["event"] != "log"]
    queued = "volume_queued"
    assert events == [queued, queued, "volume_cancelled", "volume_done", "volume_refused", queued, "volume_failed"]
    done, failed = (next(line for line in told if line["event"] == f"volume_{one}") for one in ("done", "failed"))
    assert done["job"] == told[0]["job"] and done["seconds"] > 0 and failed["error"] == "RuntimeError"
    assert not [line for line in lines if "patient007" in line or first in line]


def sent(client, job, receive):
    """The status that an upload gets whose parts are given out by `receive`, one by one as a slow line does."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": f"/api/jobs/{job.id}/upload",
        "query_string": b"name=slow.nii",
        "headers": [(b"host", b"127.0.0.1:8765")],
        "server": ("127.0.0.1", 8765),
    }
    answers = []

    async def send(message):
        answers.append(message)

    asyncio.run(client.app(scope, receive, send))
    return answers[0]["status"]


def test_a_slow_upload_does_not_grow_old(client):
    jobs = client.app.state.jobs
    job = jobs.create()
    parts = iter([True, True, False])

    async def receive():
        before, job.touched = job.touched, 0
        assert before
        return {"type": "http.request", "body": b"x", "more_body": next(parts)}

    assert sent(client, job, receive) == 204 and job.touched and job.size == 3


def test_an_upload_ends_with_its_volume_and_leaves_nothing(predictor):
    with client_of(predictor, max_upload_bytes=100) as client:
        jobs = client.app.state.jobs
        job = jobs.create()

        async def receive():
            if job.size == 2:
                jobs.remove(job)
            return {"type": "http.request", "body": b"x", "more_body": True}

        assert sent(client, job, receive) == 404
        assert not job.folder.exists()


def test_an_upload_cut_off_leaves_nothing(client):
    job = client.app.state.jobs.create()
    messages = iter([{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(messages)

    sent(client, job, receive)
    assert not job.folder.exists() and client.get(f"/api/jobs/{job.id}").status_code == 404


def test_an_upload_starts_only_when_all_of_it_is_here(client):
    job, answers = client.app.state.jobs.create(), []

    async def receive():
        answers.append(client.post(f"/api/jobs/{job.id}/start", json={"model": "heart"}))
        return {"type": "http.request", "body": b"x", "more_body": False}

    assert sent(client, job, receive) == 204
    assert answers[0].status_code == 409 and "still on its way" in answers[0].json()["detail"]
    assert client.post(f"/api/jobs/{job.id}/start", json={"model": "heart"}).status_code == 422  # tried, and no volume


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_a_full_disk_is_said(client, monkeypatch):
    monkeypatch.setattr(client.app.state.jobs, "adding", lambda job, name: nullcontext(Path("/dev/full")))
    job = client.post("/api/jobs").json()["id"]
    answer = client.put(f"/api/jobs/{job}/upload", params={"name": "a.nii"}, content=bytes(100_000))
    assert answer.status_code == 507 and "disk is full" in answer.json()["detail"]


@pytest.fixture
def slow_reading(monkeypatch):
    """Two events: a volume has begun to be read, and it may go on."""
    reading, go_on = threading.Event(), threading.Event()

    def slow(*args):
        reading.set()
        assert go_on.wait(2 * PATIENCE_S)
        return write_image(*args)

    monkeypatch.setattr("mamba_unet.serve.jobs.write_image", slow)
    return reading, go_on


def test_volumes_that_wait_to_be_read_keep_nobody_else_waiting_and_can_be_cancelled(client, volume_file, slow_reading):
    reading, go_on = slow_reading
    jobs = []
    for _ in range(50):  # more than the server has threads
        jobs.append(client.post("/api/jobs").json()["id"])
        client.put(f"/api/jobs/{jobs[-1]}/upload", params={"name": "a.nii.gz"}, content=volume_file.read_bytes())
    with ThreadPoolExecutor(len(jobs) + 1) as people:
        starts = [people.submit(client.post, f"/api/jobs/{job}/start", json={"model": "heart"}) for job in jobs]
        assert reading.wait(PATIENCE_S)
        try:
            for job in jobs:
                wait(client, job, "reading")
            assert people.submit(client.get, "/api/about").result(PATIENCE_S).status_code == 200
            for job in jobs[1:]:
                assert client.post(f"/api/jobs/{job}/cancel").json()["state"] == "cancelled"
        finally:
            go_on.set()
        assert {start.result(PATIENCE_S).json()["state"] for start in starts[1:]} == {"cancelled"}
    assert wait(client, jobs[0])["state"] == "done"


def test_a_volume_that_is_slow_to_read_keeps_no_other_waiting(client, volume_file, monkeypatch):
    reading, go_on = threading.Event(), threading.Event()

    def slow(folder, volume, *args):
        if volume.name == "slow":
            reading.set()
            assert go_on.wait(PATIENCE_S)
        return write_image(folder, volume, *args)

    monkeypatch.setattr("mamba_unet.serve.jobs.write_image", slow)
    content = volume_file.read_bytes()
    with ThreadPoolExecutor(1) as somebody:
        for large in (False, True):
            with monkeypatch.context() as patch:
                reading.clear(), go_on.clear()
                is_large = property(lambda job, large=large: large and "slow" in job.called)
                patch.setattr("mamba_unet.serve.job.Job.large", is_large)
                start = somebody.submit(upload, client, ("slow.nii.gz", content))
                assert reading.wait(PATIENCE_S)
                try:
                    assert wait(client, upload(client, ("fast.nii.gz", content)).json()["id"])["state"] == "done"
                finally:
                    go_on.set()
                assert wait(client, start.result(PATIENCE_S).json()["id"])["state"] == "done"


def test_a_volume_cancelled_and_started_again_while_it_is_read_runs_once(predictor, volume_file, slow_reading):
    (reading, go_on), gate, calls = slow_reading, Gate(predictor), []
    gate.open.set()

    def counted(volume, **options):
        calls.append(volume.name)
        return gate(volume, **options)

    counted.metadata = predictor.metadata
    counted.preprocessing = predictor.preprocessing
    with client_of(counted) as client, ThreadPoolExecutor(2) as people:
        job = client.post("/api/jobs").json()["id"]
        client.put(f"/api/jobs/{job}/upload", params={"name": "a.nii.gz"}, content=volume_file.read_bytes())
        starts = [people.submit(client.post, f"/api/jobs/{job}/start", json={"model": "heart"})]
        assert reading.wait(PATIENCE_S)
        client.post(f"/api/jobs/{job}/cancel")
        starts.append(people.submit(client.post, f"/api/jobs/{job}/start", json={"model": "heart"}))
        wait(client, job, "reading")
        go_on.set()
        assert [start.result(PATIENCE_S).status_code for start in starts] == [200, 200]
        assert wait(client, job)["state"] == "done"
    assert calls == ["a"]


@pytest.mark.parametrize("damaged", [False, True])
def test_another_volume_started_while_a_cancelled_one_is_read_is_the_one_that_runs(
    client, volume_file, monkeypatch, damaged
):
    reading, go_on, image, reads = threading.Event(), threading.Event(), nib.load(volume_file), []

    def slow(folder, volume, *args):
        reads.append(volume.name)
        if len(reads) == 1:
            reading.set()
            assert go_on.wait(PATIENCE_S)
            if damaged:
                raise ValueError("damaged")
        return write_image(folder, volume, *args)

    monkeypatch.setattr("mamba_unet.serve.jobs.write_image", slow)
    arrays = [np.roll(image.dataobj, number, axis=0) for number in range(3)]
    files = [
        (f"{name}.nii.gz", gzip.compress(nib.Nifti1Image(array, image.affine).to_bytes()))
        for name, array in zip("abc", arrays, strict=True)
    ]
    job = upload(client, *files).json()["id"]
    with ThreadPoolExecutor(2) as people:
        starts = [people.submit(client.post, f"/api/jobs/{job}/start", json={"model": "heart", "volume": 2})]
        assert reading.wait(PATIENCE_S)
        try:
            client.post(f"/api/jobs/{job}/cancel")
            starts.append(people.submit(client.post, f"/api/jobs/{job}/start", json={"model": "heart", "volume": 1}))
            wait(client, job, "reading")
        finally:
            go_on.set()
        assert [start.result(PATIENCE_S).status_code for start in starts] == [200, 200]
    done = wait(client, job)
    assert (done["state"], done["volume"], done["name"], reads) == ("done", 1, "b", ["c", "b"])
    assert np.array_equal(loaded(client, done, "image.nii.gz").dataobj, arrays[1])
    assert np.array_equal(loaded(client, done, "segmentation.nii.gz").dataobj, np.digitize(arrays[1], [40, 80]))
    assert client.get(f"/api/jobs/{job}/statistics.csv").text.splitlines()[1].startswith("b,")


def test_what_was_read_of_a_volume_after_it_was_cancelled_is_not_given(client, volume_file, slow_reading):
    reading, go_on = slow_reading
    job = client.post("/api/jobs").json()["id"]
    client.put(f"/api/jobs/{job}/upload", params={"name": "a.nii.gz"}, content=volume_file.read_bytes())
    with ThreadPoolExecutor(1) as somebody:
        start = somebody.submit(client.post, f"/api/jobs/{job}/start", json={"model": "heart"})
        assert reading.wait(PATIENCE_S)
        client.post(f"/api/jobs/{job}/cancel")
        go_on.set()
        assert start.result(PATIENCE_S).json()["image"] is None
    assert client.get(f"/api/jobs/{job}/image.nii.gz").status_code == 409


def test_a_volume_removed_while_it_is_read_leaves_nothing(client, volume_file, monkeypatch):
    def removed(folder, *args):
        client.delete(f"/api/jobs/{job}")
        return write_image(folder, *args)  # as when the removal comes in the middle of the writing

    monkeypatch.setattr("mamba_unet.serve.jobs.write_image", removed)
    job = client.post("/api/jobs").json()["id"]
    client.put(f"/api/jobs/{job}/upload", params={"name": "a.nii.gz"}, content=volume_file.read_bytes())
    folder = client.app.state.jobs.get(job).folder
    client.post(f"/api/jobs/{job}/start", json={"model": "heart"})
    assert not folder.exists() and client.get(f"/api/jobs/{job}").status_code == 404


def test_a_volume_that_unpacks_to_too_much_is_refused_before_it_is_read(client, tmp_path, monkeypatch):
    monkeypatch.setattr("mamba_unet.volumes.limits.max_bytes", 1 << 20)
    zeros = np.zeros((10, 300, 300), np.int16)
    nib.save(nib.Nifti1Image(zeros, np.eye(4)), tmp_path / "a.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(zeros), tmp_path / "a.nrrd", useCompression=True)
    np.savez_compressed(tmp_path / "a.npz", image=zeros)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=zeros, compression="gzip")
    Image.fromarray(zeros[0]).save(tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(zeros[0])] * 9)
    for name in ("a.nii.gz", "a.nrrd", "a.npz", "a.h5", "a.tif"):
        answer = upload(client, (name, (tmp_path / name).read_bytes()))
        assert answer.status_code == 422 and "of memory, the limit is" in answer.json()["detail"], (name, answer.text)


def test_only_an_upload_may_be_large(client):
    job = client.post("/api/jobs").json()["id"]
    body = b'{"model": "' + bytes(100_000) + b'"}'
    for content in (body, iter([body])):
        answer = client.post(f"/api/jobs/{job}/start", content=content)
        assert answer.status_code == 413
