import csv
import json
import os

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image

from mamba_unet.cli import main
from mamba_unet.files import sha256
from mamba_unet.inference import Predictor, predict_files
from mamba_unet.inference.outputs import stamp
from mamba_unet.views.patches import Patches
from mamba_unet.views.slices import Slices

HEART = ["background", "left ventricle"]


def table(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def heart_run(save_threshold):
    return save_threshold(class_names=HEART)


@pytest.fixture
def write_series(tmp_path):
    """A CT series of three slices, the middle one without what is bright in the others."""

    def write(folder):
        folder.mkdir(parents=True)
        for number, position in enumerate((-80.0, -75.0, -70.0)):
            slice_ = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
            slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
            slice_.ImagePositionPatient = [-158.0, -179.0, position]
            pixels = np.zeros((slice_.Rows, slice_.Columns), np.int16)
            if number != 1:
                pixels[10 : 20 + number, 90:120] = 1000
            slice_.PixelData = pixels.tobytes()
            slice_.save_as(folder / f"{number}.dcm")
        return folder

    return write


def test_statistics_are_measured_in_the_images_own_units_and_merged_over_cases(heart_run, save_scan, corner, tmp_path):
    save_scan("a.nii.gz")
    save_scan("b.nii.gz", array=2 * np.roll(corner, -1, axis=0))
    out = tmp_path / "out"
    for k in (1, 2):  # two machines
        arguments = {"outputs": ("nifti", "statistics"), "part": (k, 2)}
        predict_files(Predictor(heart_run), [tmp_path / "images"], out, **arguments)
    (structure,) = json.loads((out / "a_statistics.json").read_text())["a"]
    assert structure["voxels"] == 25 and structure["volume_ml"] == pytest.approx(25 * 1.5 * 1.5 * 8 / 1000)
    assert structure["area_mm2"] == pytest.approx([0, 25 * 1.5 * 1.5, 0, 0, 0])
    rows = table(out / "statistics.csv")
    assert [row["case"] for row in rows] == ["a", "b"]
    assert [float(row["mean_intensity"]) for row in rows] == [7, 14]
    assert [row["touches_border"] for row in rows] == ["False", "True"]


def test_a_preview_is_a_picture_of_the_slices(heart_run, save_scan, tmp_path):
    save_scan("a.nii.gz")
    done = predict_files(Predictor(heart_run), [tmp_path / "images"], tmp_path / "out", outputs=("preview",))
    assert [path.name for path in done.written["a"]] == ["a_preview.png"]
    with Image.open(tmp_path / "out" / "a_preview.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 100


def test_hearts_are_measured_over_pairs_of_frames_and_over_cines(heart_run, save_scan, tmp_path, capsys):
    def heart(width):
        array = np.zeros((20, 16, 5), np.float32)
        array[4 : 4 + width, 4:8, 1:4] = 1
        return array

    folder = "images/patient001"
    save_scan("patient001_frame01.nii.gz", array=heart(10), folder=folder)
    save_scan("patient001_frame12.nii.gz", array=heart(4), folder=folder)
    (tmp_path / folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
    save_scan("cine.nii.gz", array=np.stack([heart(8), heart(2), heart(6)], axis=-1), folder="images/cine")
    save_scan("alone.nii.gz", array=heart(3), folder="images/alone")
    inputs = [tmp_path / "images" / name for name in ("patient001", "cine", "alone")]
    done = predict_files(Predictor(heart_run), inputs, tmp_path / "out", cardiac=True)
    rows = {row["case"]: row for row in table(tmp_path / "out" / "cardiac.csv")}
    assert rows.keys() == {"patient001", "cine"}
    voxel_ml = 1.5 * 1.5 * 8 / 1000
    assert float(rows["patient001"]["lv_edv_ml"]) == pytest.approx(10 * 4 * 3 * voxel_ml)
    assert float(rows["patient001"]["lv_ef_percent"]) == pytest.approx(60)
    assert rows["patient001"]["phases_by"] == "Info.cfg"
    assert float(rows["cine"]["lv_ef_percent"]) == pytest.approx(75) and rows["cine"]["es"] == "frame 1"
    assert "| patient001" in (tmp_path / "out" / "cardiac.md").read_text()
    assert list(done.failures) == ["cardiac measures of alone"] and len(done.written) == 4
    words = [*map(str, [heart_run, *inputs[:2], "--out", tmp_path / "again", "--cardiac"])]
    assert main(["predict", *words]) == 0
    assert "| patient001" in capsys.readouterr().out


def test_tables_that_are_there_say_what_the_labels_say_now(heart_run, save_scan, tmp_path):
    box = np.zeros((20, 16, 5), np.float32)
    box[4:14, 4:8, 1:4] = 1
    cine, out = np.stack([box, np.roll(box, 1, axis=0) * box], axis=-1), tmp_path / "out"
    save_scan("a.nii.gz", array=cine)
    wanted = {"outputs": ("nifti", "statistics"), "cardiac": True}
    predict_files(Predictor(heart_run), [tmp_path / "images"], out, **wanted)
    assert [row["voxels"] for row in table(out / "statistics.csv")] == ["120", "108"]
    assert [row["ed"] for row in table(out / "cardiac.csv")] == ["frame 0"]
    save_scan("a.nii.gz", array=cine[..., ::-1] * cine[..., :1])  # other frames, and no tables asked for
    predict_files(Predictor(heart_run), [tmp_path / "images"], out)
    assert [row["voxels"] for row in table(out / "statistics.csv")] == ["108", "120"]
    assert [row["ed"] for row in table(out / "cardiac.csv")] == ["frame 1"]
    save_scan("a.nii.gz", array=box)  # no cine any more
    done = predict_files(Predictor(heart_run), [tmp_path / "images"], out, cardiac=True)
    assert list(done.failures) == ["cardiac measures of a"] and not list(out.glob("cardiac.*"))


def test_hearts_of_a_network_that_knows_none_are_refused_before_anything_is_predicted(checkpoint, save_scan, tmp_path):
    save_scan("a.nii.gz")
    with pytest.raises(ValueError, match="no class is the left ventricle"):
        predict_files(Predictor(checkpoint), [tmp_path / "images"], tmp_path / "out", cardiac=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::UserWarning:highdicom", "ignore::UserWarning:pydicom")
@pytest.mark.parametrize("view", [Slices((128, 128)), Patches((4, 48, 48), None)], ids=["slices", "patches"])
def test_a_dicom_series_gives_a_dicom_segmentation_and_anything_else_says_why_not(
    save_threshold, write_series, save_scan, tmp_path, view
):
    import highdicom as hd

    series = write_series(tmp_path / "patient")
    nifti = save_scan("a.nii.gz")
    predictor = Predictor(save_threshold(class_names=HEART, view=view))
    outputs = ("nifti", "dicom-seg", "statistics")
    done = predict_files(predictor, [series, nifti], tmp_path / "out", outputs=outputs)
    assert [path.name for path in done.written["patient"]] == [
        *("patient.nii.gz", "patient.dcm", "patient_statistics.json")
    ]
    assert list(done.failures) == [str(nifti)] and "leave dicom-seg out of --output-type" in done.failures[str(nifti)]
    seg = hd.seg.segread(tmp_path / "out" / "patient.dcm")
    assert seg.get_segment_description(1).segment_label == "left ventricle"
    marked = seg.get_volume(segment_numbers=[1], combine_segments=True, relabel=True)
    inside = nib.load(tmp_path / "out" / "patient.nii.gz")
    assert int(marked.array.sum()) == int(np.asarray(inside.dataobj).sum()) == 10 * 30 + 12 * 30
    ours = nib.affines.apply_affine(inside.affine, np.argwhere(inside.dataobj))
    theirs = nib.affines.apply_affine(marked.affine, np.argwhere(marked.array)) * (-1, -1, 1)  # LPS -> RAS
    assert np.allclose(sorted(ours.round(3).tolist()), sorted(theirs.round(3).tolist()), atol=0.01)


def test_a_series_is_finished_until_one_of_its_files_changes(save_threshold, write_series, tmp_path):
    series = write_series(tmp_path / "patient" / "study")
    predictor, out = Predictor(save_threshold(image_size=(128, 128))), tmp_path / "patient" / "results"
    report = {"report": tmp_path / "run.json"}
    assert list(predict_files(predictor, [tmp_path / "patient"], out, **report).written) == ["patient"]
    (case,) = json.loads(report["report"].read_text())["cases"]
    assert case["sha256"] == sha256(sorted(series.iterdir()))  # of its own files, whatever lies beside them
    assert predict_files(predictor, [tmp_path / "patient"], out).skipped == ["patient"]
    slice_ = pydicom.dcmread(series / "1.dcm")
    slice_.PatientComments = "corrected"
    slice_.save_as(series / "1.dcm")
    assert list(predict_files(predictor, [tmp_path / "patient"], out).written) == ["patient"]


def test_a_file_replaced_by_another_of_its_size_and_time_is_another_input(tmp_path, monkeypatch):
    files = [tmp_path / f"{number}.dcm" for number in range(3)]
    for file in files:
        file.write_bytes(b"slice" + file.name.encode())
        os.utime(file, (1e9, 1e9))
    for small in (1 << 20, 0):  # by content, and by what the disk says of every file
        monkeypatch.setattr("mamba_unet.inference.outputs.SMALL", small)
        before = stamp(files)
        assert stamp(files) == before
        other = tmp_path / "other"
        other.write_bytes(b"SLICE0.dcm" if small else b"Slice0.dcm")
        os.utime(other, (1e9, 1e9))
        os.replace(other, files[0])
        assert stamp(files) != before


def test_a_record_that_cannot_be_read_is_no_record(heart_run, save_scan, tmp_path):
    """A machine that lost its power may leave it empty: the case is done again."""
    save_scan("a.nii.gz")
    out = tmp_path / "out"
    arguments = {"outputs": ("nifti", "statistics")}
    predict_files(Predictor(heart_run), [tmp_path / "images"], out, **arguments)
    record = out / "cases" / "a.json"
    whole, table_ = record.read_text(), (out / "statistics.csv").read_text()
    for broken in ("", "{", "[]", "{}"):
        record.write_text(broken)
        assert not predict_files(Predictor(heart_run), [tmp_path / "images"], out, **arguments).failures
        assert record.read_text() == whole and (out / "statistics.csv").read_text() == table_
    said = json.loads(whole)
    record.write_text(json.dumps(said | {"outputs": list(said["outputs"])}))  # as earlier versions wrote it
    assert predict_files(Predictor(heart_run), [tmp_path / "images"], out, **arguments).skipped == ["a"]
    for content in ("", whole):  # another process is writing it, or was killed before it had its name
        (out / "cases" / ".0123abcd.a.json").write_text(content)
        assert predict_files(Predictor(heart_run), [tmp_path / "images"], out, **arguments).skipped == ["a"]
        assert (out / "statistics.csv").read_text() == table_
    described = out / "predict.json"
    whole = described.read_text()
    for broken in ("", "{"):
        described.write_text(broken)
        assert predict_files(Predictor(heart_run), [tmp_path / "images"], out, **arguments).skipped == ["a"]
        assert described.read_text() == whole
    described.unlink()
    record.unlink()
    with pytest.raises(ValueError, match="nothing says what made it"):
        predict_files(Predictor(heart_run), [tmp_path / "images"], out, **arguments)


def test_an_unknown_output_is_named(checkpoint, save_scan, tmp_path):
    save_scan("a.nii.gz")
    for outputs, message in (
        (("nifty",), "unknown output nifty; expected some of auto, nifti"),
        ((), "nothing to write"),
    ):
        with pytest.raises(ValueError, match=message):
            predict_files(Predictor(checkpoint), [tmp_path / "images"], tmp_path / "out", outputs=outputs)


def test_the_report_tells_everything_that_a_result_hangs_on(checkpoint, save_scan, tmp_path):
    path = save_scan("a.nii.gz")
    save_scan("b.nii.gz", array=np.full((3, 3, 3), np.nan))
    report = tmp_path / "out" / "run.json"
    predict_files(Predictor(checkpoint), [tmp_path / "images"], tmp_path / "out", report=report)
    said = json.loads(report.read_text())
    assert said["environment"]["torch"] and said["device"] == "cpu" and said["seconds"] > 0
    weights = checkpoint / "best.safetensors"
    assert said["checkpoints"] == [{"path": str(weights), "sha256": sha256([weights])}]
    assert said["settings"]["tta"] is False and said["settings"]["outputs"] == ["auto"]
    (case,) = said["cases"]
    assert case["input"] == str(path) and case["sha256"] == sha256([path]) and case["outputs"] == ["a.nii.gz"]
    assert case["shape"] == [1, 1, 5, 16, 20] and case["slices"] == 5 and case["slice_axis"] == "z"
    assert case["spacing_mm"] == [8, 1.5, 1.5]
    assert set(case["seconds"]) == {"reading", "network", "writing"} and min(case["seconds"].values()) > 0
    assert list(said["failures"]) == [str(tmp_path / "images" / "b.nii.gz")] and said["skipped"] == []
    predict_files(Predictor(checkpoint), [path], tmp_path / "out", report=report)
    assert json.loads(report.read_text())["skipped"] == ["a"]


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ("images/a.nii.gz", "is there already, and is no report of predict"),
        ("images/settings.json", "is there already, and is no report of predict"),
        ("images", "is there already, and is no report of predict"),
        ("out/predict.json", "is the name of a result or a record in .*out"),
        ("out/a.nii.gz", "is the name of a result or a record in .*out"),
        ("out/cases/run.json", "is the name of a result or a record in .*out"),
        ("images/a.nii.gz/new/run.json", "cannot be written: .*a.nii.gz is no folder"),
        ("locked/run.json", "cannot be written: .* not yours to write to"),
    ],
)
def test_a_report_replaces_nothing_but_a_report(checkpoint, save_scan, tmp_path, monkeypatch, report, message):
    save_scan("a.nii.gz")
    (tmp_path / "images" / "settings.json").write_text('{"lr": 1}')
    monkeypatch.setattr(os, "access", lambda *_: "locked" not in report)  # to root nothing is
    with pytest.raises(ValueError, match=rf"{message}.*; give another file \(--report\)"):
        predict_files(
            Predictor(checkpoint), [tmp_path / "images" / "a.nii.gz"], tmp_path / "out", report=tmp_path / report
        )
    assert not (tmp_path / "out").exists()


def test_what_an_input_was_before_it_broke_is_told_and_in_no_table(heart_run, save_scan, tmp_path):
    box = np.ones((4, 4, 4, 2), np.float32) * (np.arange(4) < 2)[:, None, None, None]
    files, out = [save_scan(f"{name}.nii.gz", array=box) for name in "ab"], tmp_path / "out"
    wanted = {"outputs": ("nifti", "statistics"), "cardiac": True}
    predict_files(Predictor(heart_run), files, out, **wanted)
    files[1].write_bytes(files[1].read_bytes()[:60])
    done = predict_files(Predictor(heart_run), files, out, **wanted)
    kept = f"; results of the file that was there before are kept: {out / 'b.nii.gz'}, {out / 'b_statistics.json'}"
    assert done.skipped == ["a"] and done.failures.keys() == {str(files[1])}
    assert done.failures[str(files[1])].endswith(kept) and (out / "b.nii.gz").is_file()
    for name in ("statistics.csv", "cardiac.csv"):
        assert {row["case"] for row in table(out / name)} == {"a"}
    files[0].unlink()
    files[0].symlink_to(tmp_path / "nothing")
    assert "are kept" in predict_files(Predictor(heart_run), files, out).failures[str(files[0])]
    assert not (out / "statistics.csv").exists() and not (out / "cardiac.csv").exists()


def test_the_hash_of_several_files_is_of_their_names_and_contents(tmp_path):
    for folder, name, text in (("a", "1", "x"), ("b", "1", "x"), ("c", "2", "x"), ("d", "1", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
        (tmp_path / folder / "last").touch()
    a, b, c, d = (sha256(sorted((tmp_path / folder).iterdir())) for folder in "abcd")
    assert a == b and len({a, c, d}) == 3
