"""Edited labels, as the page and other programs send them, and the data set that is collected of them."""

import gzip
import io
import itertools
import json
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from fastapi.testclient import TestClient

from mamba_unet.serve import create_app
from mamba_unet.serve.collection import Collection
from mamba_unet.serve.edits import read_label
from mamba_unet.serve.result import viewer_affine
from mamba_unet.volumes import write
from mamba_unet.volumes.read import read_volume

pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with:DeprecationWarning")

PATIENCE_S = 60
ORIENTATIONS = [
    "".join(codes)
    for pairs in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*pairs)
]  # fmt: skip


def client_of(predictor, **options):
    return TestClient(create_app({"heart": predictor}, **options), base_url="http://127.0.0.1:8765")


@pytest.fixture
def client(predictor):
    with client_of(predictor) as client:
        yield client


def segmented(client, *files, **start):
    """The finished job of (name, bytes)."""
    job = client.post("/api/jobs").json()["id"]
    for name, content in files:
        client.put(f"/api/jobs/{job}/upload", params={"name": name}, content=content)
    client.post(f"/api/jobs/{job}/start", json={"model": "heart", **start})
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        now = client.get(f"/api/jobs/{job}").json()
        if now["state"] in ("done", "failed"):
            assert now["state"] == "done", now["error"]
            return now
        time.sleep(0.01)
    raise AssertionError(now)


def loaded(client, job, file):
    answer = client.get(f"/api/jobs/{job['id']}/{file}")
    assert answer.status_code == 200, answer.text
    return nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))


def send(client, job, image, **params):
    content = image if isinstance(image, bytes) else image.to_bytes()
    params = {"model": "heart", "volume": job["volume"]} | params
    return client.put(f"/api/jobs/{job['id']}/edits", params=params, content=content)


def edited(client, job):
    """The network's label and one with a few voxels of each class changed, as the page sends it."""
    before = loaded(client, job, "label.nii.gz")
    array = np.asarray(before.dataobj).copy()
    array[1:4, 2:7, 1] = 2
    array[12, 9, 2:4] = 0
    return before, nib.Nifti1Image(array, before.affine)


def test_an_edit_is_a_version_of_its_own_with_measurements_and_files(client, volume_file):
    job = segmented(client, (volume_file.name, volume_file.read_bytes()))
    before, label = edited(client, job)
    answer = send(client, job, gzip.compress(label.to_bytes()), by=" Anna ")
    assert answer.status_code == 201, answer.text
    edit = answer.json()
    assert (edit["number"], edit["by"]) == (1, "Anna") and edit["saved"].endswith("Z")
    assert client.get(f"/api/jobs/{job['id']}").json()["edits"] == [edit]
    voxels = [one["voxels"] for one in edit["result"]["structures"]]
    assert voxels == [int((label.get_fdata() == index).sum()) for index in (1, 2)]
    assert voxels != [one["voxels"] for one in job["result"]["structures"]]

    saved = loaded(client, job, "edits/1/segmentation.nii.gz")
    assert np.array_equal(saved.dataobj, label.dataobj) and np.array_equal(saved.affine, nib.load(volume_file).affine)
    table = client.get(f"/api/jobs/{job['id']}/edits/1/statistics.csv")
    assert f",{voxels[1]}," in table.text
    assert 'filename="patient007_frame01_edit1_statistics.csv"' in table.headers["content-disposition"]
    assert np.array_equal(loaded(client, job, "segmentation.nii.gz").dataobj, before.dataobj)  # the network's stays

    assert send(client, job, before).json()["number"] == 2
    bundle = zipfile.ZipFile(io.BytesIO(client.get(f"/api/jobs/{job['id']}/everything.zip").content))
    zipped = gzip.decompress(bundle.read("patient007_frame01/edit1/patient007_frame01_segmentation.nii.gz"))
    assert np.array_equal(nib.Nifti1Image.from_bytes(zipped).dataobj, label.dataobj)
    for file in ("edits/3/segmentation.nii.gz", "edits/1/image.nii.gz", "edits/1/.."):
        assert client.get(f"/api/jobs/{job['id']}/{file}").status_code == 404


def test_an_edit_of_a_cine_has_its_ejection_fraction_and_all_frames(client, cine_file):
    job = segmented(client, (cine_file.name, cine_file.read_bytes()))
    label = loaded(client, job, "label.nii.gz")
    array = np.asarray(label.dataobj).copy()
    array[..., 3][array[..., 3] == 2] = 1
    result = send(client, job, nib.Nifti1Image(array, label.affine)).json()["result"]
    assert result["cardiac"]["lv_esv_ml"] != job["result"]["cardiac"]["lv_esv_ml"]
    assert np.array_equal(loaded(client, job, "edits/1/segmentation.nii.gz").dataobj, array)


def test_an_edit_of_a_dicom_series_is_marked_as_semi_automatic(client, dicom_study):
    import pydicom

    files = [(f"{path.name}.dcm", path.read_bytes()) for path in sorted((dicom_study / "series3").iterdir())]
    job = segmented(client, *files)
    before, label = edited(client, job)
    assert send(client, job, label).status_code == 201
    kinds, frames = [], []
    for file in ("segmentation.dcm", "edits/1/segmentation.dcm"):
        answer = client.get(f"/api/jobs/{job['id']}/{file}")
        seg = pydicom.dcmread(io.BytesIO(answer.content))
        kinds.append({str(it.SegmentAlgorithmType) for it in seg.SegmentSequence})
        frames.append(int(seg.pixel_array.sum()))
    assert kinds == [{"AUTOMATIC"}, {"SEMIAUTOMATIC"}]
    assert frames == [int((np.asarray(it.dataobj) > 0).sum()) for it in (before, label)]


def test_labels_that_do_not_fit_are_refused_in_words_and_leave_nothing(client, predictor, volume_file):
    job = segmented(client, (volume_file.name, volume_file.read_bytes()))
    label = loaded(client, job, "label.nii.gz")
    array = np.asarray(label.dataobj)
    held = client.app.state.jobs.get(job["id"])
    before = sorted(held.folder.rglob("*")), held.written
    turned = label.as_reoriented([[0, -1], [1, 1], [2, 1]])
    for image, words in (
        (nib.Nifti1Image(array[:-1], label.affine), "has the shape (31, 24, 6); the volume has (32, 24, 6)"),
        (nib.Nifti1Image(array, np.eye(4)), "lies elsewhere than the volume"),
        (turned, "lies elsewhere than the volume"),
        (nib.Nifti1Image(array + np.uint8(2), label.affine), "holds values that are no class; expected 0 background"),
        (nib.Nifti1Image(array + np.float32(0.5), label.affine), "holds values that are no class"),
        (b"not NIfTI", "not a NIfTI file that can be read"),
        (gzip.compress(label.to_bytes())[:-20], "not a NIfTI file that can be read"),
        (gzip.compress(bytes(2**22)), "larger than a label of shape"),
    ):
        answer = send(client, job, image)
        assert answer.status_code == 422 and words in answer.json()["detail"], words
    for params in ({"model": "other"}, {"volume": 1}):
        assert send(client, job, label, **params).status_code == 409
    assert client.put(f"/api/jobs/{job['id']}/edits", params={"model": "heart", "by": "x" * 101}).status_code == 422
    foreign = {"origin": "http://evil.example"}
    assert client.put(f"/api/jobs/{job['id']}/edits", params={"model": "heart"}, headers=foreign).status_code == 403
    assert [path for path in sorted(held.folder.rglob("*")) if path.name != "edits"] == before[0]
    assert held.written == before[1] and not client.get(f"/api/jobs/{job['id']}").json()["edits"]


def test_an_edit_says_whether_image_and_structures_fit_as_they_are_now(client, volume_file, monkeypatch):
    told = {"voxels": [[60] * 5, [60] * 5], "slices": [1] * 5}  # of myocardium and left ventricle in training
    seen = replace(client.app.state.jobs.predictors["heart"].metadata, seen=told)
    monkeypatch.setattr(client.app.state.jobs.predictors["heart"], "metadata", seen)
    job = segmented(client, (volume_file.name, volume_file.read_bytes()))
    job_here = client.app.state.jobs.get(job["id"])
    (large, larger) = job["result"]["misfits"]
    assert large.startswith("myocardium has") and larger.startswith("left ventricle has")
    job_here.result["misfits"].insert(0, "pixels are 9 mm")  # as of the image
    label = loaded(client, job, "label.nii.gz")
    array = np.asarray(label.dataobj).copy()
    array[..., 2:][array[..., 2:] == 1] = 0
    array[2:6, 2:6, 1] = 2
    result = send(client, job, nib.Nifti1Image(array, label.affine)).json()["result"]
    assert result["misfits"] == [
        "pixels are 9 mm",
        f"left ventricle has {(array == 2).sum()} voxels, in training 60 to 60",
    ]


def test_a_volume_that_is_shown_thinned_is_not_edited(client, volume_file, monkeypatch):
    monkeypatch.setattr("mamba_unet.serve.result.LARGEST", 16)
    job = segmented(client, (volume_file.name, volume_file.read_bytes()))
    answer = send(client, job, loaded(client, job, "label.nii.gz"))
    assert answer.status_code == 409 and "shown thinned" in answer.json()["detail"]


def test_edits_end_at_the_limits_and_with_the_result(predictor, volume_file):
    content = volume_file.read_bytes()
    with client_of(predictor, max_upload_bytes=6000) as client:
        job = segmented(client, (volume_file.name, content))
        label = loaded(client, job, "label.nii.gz")
        larger = nib.Nifti1Image(np.asarray(label.dataobj).astype(np.int16), label.affine)
        assert send(client, job, larger).status_code == 413
        assert send(client, job, gzip.compress(label.to_bytes())).status_code == 201
        held = client.app.state.jobs.get(job["id"])
        client.app.state.jobs.disk_bytes = held.size + held.written + 600
        assert send(client, job, gzip.compress(label.to_bytes())).status_code == 507
        assert [one.name for one in (held.folder / "edits").iterdir()] == ["1"]
        client.app.state.jobs.disk_bytes = 2**30
        client.post(f"/api/jobs/{job['id']}/start", json={"model": "heart"})
        assert held.edits == [] and not (held.folder / "edits").exists()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_voxels_go_there_and_back_in_every_orientation(tmp_path, predictor, orientation):
    """From the label that the page shows to the file to take away: x + 3 y + 12 z, of classes 0 to 59."""
    from mamba_unet.inference import Segmentation
    from mamba_unet.serve.result import _save

    x, y, z = np.meshgrid(range(3), range(4), range(5), indexing="ij")
    values = (x + 3 * y + 12 * z).astype(np.uint8)
    affine = np.zeros((4, 4))
    for axis, (along, sign) in enumerate(nib.orientations.axcodes2ornt(orientation).astype(int)):
        affine[along, axis] = sign * (2, 3, 4)[axis]
    affine[:, 3] = 5, -6, 7, 1
    assert "".join(nib.aff2axcodes(affine)) == orientation
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine), tmp_path / "image.nii.gz")
    volume = read_volume(tmp_path / "image.nii.gz")
    _save(tmp_path / "shown.nii.gz", np.zeros(volume.array[:, 0].shape, np.uint8), viewer_affine(volume))
    shown = nib.load(tmp_path / "shown.nii.gz")
    nib.save(nib.Nifti1Image(values, shown.affine), tmp_path / "edited.nii.gz")  # in the order that the page shows

    names = [f"class {index}" for index in range(60)]
    labels = read_label(tmp_path / "edited.nii.gz", tmp_path / "shown.nii.gz", names)
    Segmentation(volume, labels, volume.array, names, 0, edited=True).save(tmp_path / "segmentation.nii.gz")
    saved, image = nib.load(tmp_path / "segmentation.nii.gz"), nib.load(tmp_path / "image.nii.gz")
    assert np.array_equal(saved.dataobj, values) and np.array_equal(saved.affine, image.affine)


def test_edits_are_collected_as_a_data_set_that_prepare_reads(predictor, volume_file, cine_file, dicom_study, tmp_path):
    from mamba_unet.data import prepare

    def moved(voxels):
        image = nib.load(volume_file)
        return gzip.compress(nib.Nifti1Image(np.roll(image.dataobj, voxels, axis=0), image.affine).to_bytes())

    series = [(f"{path.name}.dcm", path.read_bytes()) for path in sorted((dicom_study / "series3").iterdir())]
    with client_of(predictor, collect=tmp_path / "collected") as client:
        assert client.get("/api/about").json()["collects"]
        for files in (
            [(volume_file.name, volume_file.read_bytes())],
            [(volume_file.name, moved(1))],  # another image of this name
            [("patient008_frame01.nii.gz", moved(2))],
            [("patient009_frame01.nii.gz", moved(3))],
            series,
            [(cine_file.name, cine_file.read_bytes())],
        ):
            job = segmented(client, *files)
            before, label = edited(client, job) if job["image"]["frames"] == 1 else (None, None)
            if label is None:
                before = loaded(client, job, "label.nii.gz")
                array = np.asarray(before.dataobj).copy()
                array[2, 3, 1, 2] = 1
                label = nib.Nifti1Image(array, before.affine)
            answer = send(client, job, label, by="Anna").json()
            assert not answer["result"]["notes"]
            if files[0][1] == volume_file.read_bytes():
                send(client, job, before)  # again, by nobody: both are kept, the newer one is to learn from
    folder = tmp_path / "collected" / "heart"
    (dicom_case,) = {path.name[:-7] for path in (folder / "labelsTr").glob("P*")}
    cases = [dicom_case, "patient007_4d_frame03", "patient007_frame01", "patient007_frame01_img2"]
    cases += ["patient008_frame01", "patient009_frame01"]
    assert sorted(path.name[:-7] for path in (folder / "labelsTr").iterdir()) == sorted(cases)
    assert "synthetic" not in dicom_case
    place = folder / "edits" / "patient007_frame01"
    first, second = (json.loads((place / number / "edit.json").read_text()) for number in "12")
    assert (first["by"], second["by"]) == ("Anna", None)
    assert first["changed_voxels"] > 0 == second["changed_voxels"]
    array = np.asarray(nib.load(volume_file).dataobj)
    network = np.digitize(array, [40, 80])
    label = nib.load(folder / "labelsTr" / "patient007_frame01.nii.gz")
    assert np.array_equal(label.dataobj, network) and np.array_equal(label.affine, nib.load(volume_file).affine)
    person = np.asarray(nib.load(place / "1" / "person.nii.gz").dataobj)
    assert (person != network).sum() == first["changed_voxels"]
    image = nib.load(folder / "imagesTr" / "patient007_frame01_0000.nii.gz")
    assert np.array_equal(image.dataobj, array)

    prepared = prepare(folder, tmp_path / "prepared")
    assert sorted(prepared.identifiers) == sorted(cases)
    assert list(prepared.class_names) == ["background", "myocardium", "left ventricle"]


def test_a_collected_dicom_series_keeps_nothing_of_its_folder_s_name(predictor, dicom_study, tmp_path):
    files = [(f"DOE_JOHN/{path.name}", path.read_bytes()) for path in sorted((dicom_study / "series3").iterdir())]
    with client_of(predictor, collect=tmp_path) as client:
        job = segmented(client, *files)
        assert job["name"] == "DOE_JOHN"
        assert send(client, job, edited(client, job)[1], by="Anna").status_code == 201
    (case,) = (path.name[:-7] for path in (tmp_path / "heart" / "labelsTr").iterdir())
    about = json.loads((tmp_path / "heart" / "edits" / case / "1" / "edit.json").read_text())
    assert about["image"] == about["case"] == case and case.startswith("P")
    for path in tmp_path.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert "DOE" not in path.name and b"DOE" not in content, path


def test_two_servers_that_collect_at_once_lose_nothing(predictor, volume_file, tmp_path, monkeypatch):
    def slowly(path, *args, **options):
        time.sleep(0.05)
        save(path, *args, **options)

    save = write.save_nifti
    monkeypatch.setattr(write, "save_nifti", slowly)
    image = read_volume(volume_file)
    others = [replace(image, array=np.roll(image.array, shift, axis=-1)) for shift in range(3)]
    servers = [Collection(tmp_path, {"heart": predictor}) for _ in range(2)]
    label = np.zeros(image.array[:, 0].shape, np.uint8)
    with ThreadPoolExecutor(4) as people:
        # each has another image of this name at the same time
        pairs = [(others[0], 0), (others[1], 1), (others[1], 0), (others[2], 1), (others[2], 0), (others[0], 1)]
        added = [
            people.submit(servers[number].add, "heart", volume, label, label + 1, "", "") for volume, number in pairs
        ]
        cases = [one.result()[0] for one in added]
    folder = tmp_path / "heart"
    assert sorted(cases) == sorted(2 * ["patient007_frame01", "patient007_frame01_img2", "patient007_frame01_img3"])
    for (volume, _), case in zip(pairs, cases, strict=True):
        kept = nib.load(folder / "imagesTr" / f"{case}_0000.nii.gz")
        assert np.array_equal(kept.dataobj, volume.array[0, 0].T)
        assert sorted(path.name for path in (folder / "edits" / case).iterdir()) == ["1", "2", "image.json"]


def test_a_collection_of_other_classes_is_left_alone_and_the_edit_is_kept(predictor, volume_file, tmp_path):
    (tmp_path / "heart").mkdir()
    described = tmp_path / "heart" / "dataset.json"
    described.write_text('{"labels": {"background": 0, "liver": 1}}')
    with client_of(predictor, collect=tmp_path) as client:
        job = segmented(client, (volume_file.name, volume_file.read_bytes()))
        result = send(client, job, loaded(client, job, "label.nii.gz")).json()["result"]
    assert "Not collected for training" in result["notes"][-1] and "has other labels" in result["notes"][-1]
    assert [path.name for path in (tmp_path / "heart").iterdir()] == [
        "dataset.json"
    ] and "liver" in described.read_text()
