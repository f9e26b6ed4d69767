import csv
import gc
import json
import os
import re
import shutil
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from mamba_unet import build_model
from mamba_unet.cli import main
from mamba_unet.data import prepare
from mamba_unet.data.registry import DATASETS
from mamba_unet.files import write_json_once
from mamba_unet.inference import Predictor, Segmentation, jobs, pipeline, predict_files, scores
from mamba_unet.inference.outputs import OUTPUTS
from mamba_unet.measures.statistics import write_statistics
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.models.registry import resolve_config
from mamba_unet.views.intensity import MINMAX
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices
from mamba_unet.volumes.find import find_volumes
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.volume import Volume


def labels(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture
def predictor(checkpoint):
    return Predictor(checkpoint)


def test_files_and_folders_are_segmented_under_their_names(predictor, save_scan, corner, tmp_path):
    save_scan("case_0000.nii.gz")
    save_scan("other.nii", array=corner[::-1])
    picture = tmp_path / "eye.png"
    Image.fromarray((corner[..., 1].T * 30).astype(np.uint8)).save(picture)
    with h5py.File(tmp_path / "heart.h5", "w") as file:
        file["image"] = corner.T
    done = predict_files(predictor, [tmp_path / "images", picture, tmp_path / "heart.h5"], tmp_path / "out")
    assert not done.failures
    assert {case: [path.name for path in paths] for case, paths in done.written.items()} == {
        "eye": ["eye.png"],
        **{name: [f"{name}.nii.gz"] for name in ("case", "heart", "other")},
    }
    mask = np.asarray(Image.open(tmp_path / "out" / "eye.png"))
    assert mask.dtype == np.uint8 and np.array_equal(mask, corner[..., 1].T > 3.5)
    assert np.array_equal(labels(tmp_path / "out" / "case.nii.gz"), corner > 3.5)
    assert np.array_equal(labels(tmp_path / "out" / "other.nii.gz"), corner[::-1] > 3.5)
    assert np.array_equal(labels(tmp_path / "out" / "heart.nii.gz"), corner > 3.5)


def test_a_case_joined_from_slices_is_segmented_whole_under_its_own_name(save_threshold, corner, tmp_path):
    predictor = Predictor(save_threshold(class_names=DATASETS["acdc"].class_names, orientation=None))
    image = corner.T / 7
    for mark, case in enumerate(("patient001_frame01", "patient071_frame01", "patient081_frame01")):
        image[0, 0, 0] = 0.1 * mark  # no two alike
        for number, pixels in enumerate(image, start=1):
            path = tmp_path / "src" / "slices" / f"{case}_slice_{number}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["image"], file["label"] = pixels, (pixels > 0.5).astype(np.uint8)
    prepared = prepare(tmp_path / "src", tmp_path / "data", progress=False)
    assert len(prepared.identifiers) == 3
    predict_files(predictor, [], tmp_path / "out", prepared, prepared.identifiers)
    for case in prepared.identifiers:
        assert np.array_equal(labels(tmp_path / "out" / f"{case}.nii.gz").T, prepared.case(case).label)
        assert np.array_equal(predictor.predict_case(prepared.case(case)), prepared.case(case).label)


def test_the_batches_of_the_networks_go_across_files(checkpoint, save_scan, tmp_path):
    for number in range(4):
        save_scan(f"{number}.nii.gz")
    predictor = Predictor(checkpoint, batch_size=8)
    predict_files(predictor, [tmp_path / "images"], tmp_path / "out", progress=False)
    assert [size[0] for size in predictor.members[0].sizes] == [8, 8, 4]


def test_a_bad_case_is_reported_and_does_not_stop_the_others(predictor, save_scan, corner, tmp_path, monkeypatch):
    images = tmp_path / "images"
    save_scan("good.nii.gz")
    save_scan("nan.nii.gz", array=np.full((4, 4, 4), np.nan, np.float32))
    save_scan("complex.nii.gz", array=np.ones((4, 4, 4), np.complex64))
    (images / "broken.nii.gz").write_bytes(b"\x1f\x8b no gzip")
    (images / "empty.h5").write_bytes(b"")
    save_scan("unwritable.nii.gz")
    (tmp_path / "out" / "unwritable.nii.gz").mkdir(parents=True)
    save_scan("surprise.nii.gz")
    prepare_scan = predictor.prepare

    def surprised(scan, *arguments, **keywords):
        if scan.name == "surprise":
            raise RuntimeError("what no one thought of")
        return prepare_scan(scan, *arguments, **keywords)

    monkeypatch.setattr(predictor, "prepare", surprised)
    done = predict_files(predictor, [images], tmp_path / "out", overwrite=True)
    assert list(done.written) == ["good"]
    assert np.array_equal(labels(tmp_path / "out" / "good.nii.gz"), corner > 3.5)
    failures = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert failures == done.failures
    assert sorted(name.rsplit("/", 1)[-1] for name in failures) == [
        *("broken.nii.gz", "complex.nii.gz", "empty.h5", "nan.nii.gz", "surprise.nii.gz", "unwritable.nii.gz")
    ]
    assert failures[str(images / "nan.nii.gz")].startswith("NaN or infinite values")  # the file is said already
    assert failures[str(images / "surprise.nii.gz")] == "RuntimeError: what no one thought of"

    for name in ("nan.nii.gz", "complex.nii.gz", "broken.nii.gz", "empty.h5", "unwritable.nii.gz", "surprise.nii.gz"):
        (images / name).unlink()
    assert not predict_files(predictor, [images], tmp_path / "out").failures
    assert not (tmp_path / "out" / "failures.json").exists()


def test_finished_cases_are_skipped_and_the_others_done(predictor, save_scan, corner, tmp_path):
    for name in "abc":
        save_scan(f"{name}.nii.gz")
    out = tmp_path / "out"
    predict_files(predictor, [tmp_path / "images" / "a.nii.gz"], out)
    before = (out / "a.nii.gz").stat().st_mtime_ns
    done = predict_files(predictor, [tmp_path / "images"], out)
    assert done.skipped == ["a"] and list(done.written) == ["b", "c"]
    assert (out / "a.nii.gz").stat().st_mtime_ns == before

    (out / "a.nii.gz").unlink()  # lost
    save_scan("b.nii.gz", array=2 - corner)  # another image under the old name
    done = predict_files(predictor, [tmp_path / "images"], out)
    assert done.skipped == ["c"] and list(done.written) == ["a", "b"]
    assert np.array_equal(labels(out / "b.nii.gz"), 2 - corner > -1.5)

    assert list(predict_files(predictor, [tmp_path / "images"], out, overwrite=True).written) == ["a", "b", "c"]


def test_a_case_without_all_that_is_wanted_now_is_not_finished(predictor, save_scan, tmp_path):
    save_scan("a.nii.gz")
    out = tmp_path / "out"
    predict_files(predictor, [tmp_path / "images"], out)
    both = {"outputs": ("nifti", "probabilities")}
    assert list(predict_files(predictor, [tmp_path / "images"], out, **both).written) == ["a"]
    assert labels(out / "a_probabilities.nii.gz").shape == (20, 16, 5, 2)
    assert predict_files(predictor, [tmp_path / "images"], out, **both).skipped == ["a"]
    for outputs in (["statistics"], ["statistics", "uncertainty"]):
        assert list(predict_files(predictor, [tmp_path / "images"], out, outputs=outputs).written) == ["a"]
        (structure,) = json.loads((out / "a_statistics.json").read_text())["a"]
        assert ((structure["mean_uncertainty"] or 0) > 0) == ("uncertainty" in outputs)


def test_what_a_person_changed_is_kept_and_only_what_is_missing_is_written(predictor, save_scan, corner, tmp_path):
    scans, out = [save_scan(f"{name}.nii.gz") for name in "ab"], tmp_path / "out"
    predict_files(predictor, scans, out)
    before = (out / "b.nii.gz").stat().st_mtime_ns
    save_scan("a.nii.gz", array=corner * 9, folder="out")  # corrected by hand
    assert predict_files(predictor, scans, out).skipped == ["a", "b"]
    done = predict_files(predictor, scans, out, outputs=["auto", "preview"])
    assert list(done.written) == ["b"] and (out / "b.nii.gz").stat().st_mtime_ns == before
    assert f"{out / 'a.nii.gz'} was changed after it was written" in done.failures[str(scans[0])]
    save_scan("a.nii.gz", array=2 - corner)  # another image
    assert "was changed" in predict_files(predictor, scans, out).failures[str(scans[0])]
    assert labels(out / "a.nii.gz").max() == 63
    assert not predict_files(predictor, scans, out, overwrite=True).failures
    assert labels(out / "a.nii.gz").max() == 1


def test_another_image_of_the_same_name_does_not_replace_the_result(
    predictor, save_scan, corner, tmp_path, monkeypatch
):
    for folder, array in (("p1", corner), ("p2", corner[::-1])):
        save_scan("scan.nii.gz", array, folder=folder)
    out, given = tmp_path / "out", ["scan.nii.gz"]
    monkeypatch.chdir(tmp_path / "p1")
    predict_files(predictor, given, out)
    monkeypatch.chdir(tmp_path / "p2")
    (failure,) = predict_files(predictor, given, out).failures.values()
    assert re.search(r"result of .*/p1/scan\.nii\.gz, another image, under the name 'scan'; rename one", failure)
    assert np.array_equal(labels(out / "scan.nii.gz"), corner > 3.5)
    (tmp_path / "p1" / "scan.nii.gz").rename("scan.nii.gz")  # the first one, moved
    assert predict_files(predictor, given, out).skipped == ["scan"]
    monkeypatch.chdir(tmp_path)
    save_scan("scan.nii.gz", corner[::-1], folder="p1")
    assert list(predict_files(predictor, ["p1/scan.nii.gz"], out, overwrite=True).written) == ["scan"]
    assert np.array_equal(labels(out / "scan.nii.gz"), corner[::-1] > 3.5)


@pytest.mark.parametrize("what", ["5 slices", "2 frames", None])
def test_what_does_not_fit_into_a_picture_is_refused_before_the_network_runs(
    predictor, save_scan, corner, tmp_path, what
):
    if what is not None:
        file = save_scan("a.nii.gz", corner if what == "5 slices" else np.stack([corner[..., :1]] * 2, axis=-1))
    else:
        file = tmp_path / "a.tif"
        first, *others = [Image.fromarray(page) for page in corner.T.astype(np.uint8)]
        first.save(file, save_all=True, append_images=others)
    done = predict_files(predictor, [file], tmp_path / "out", outputs=["nifti", "picture"])
    remedy = "leave picture out of --output-type; nifti holds them"
    assert done.failures == ({str(file): f"{what} do not fit into one picture: {remedy}"} if what else {})
    assert bool(predictor.members[0].sizes) == bool(done.written) == (what is None)


def test_an_image_that_is_replaced_while_it_is_segmented_is_not_finished(predictor, save_scan, tmp_path, monkeypatch):
    save_scan("a.nii.gz")
    file, out, real = tmp_path / "images" / "a.nii.gz", tmp_path / "out", jobs.JobReader.__call__

    def read(reader, job):
        volume = real(reader, job)
        file.write_bytes(file.read_bytes() + b"\0")  # gzip ends before it
        return volume

    with monkeypatch.context() as patch:
        patch.setattr(jobs.JobReader, "__call__", read)
        assert list(predict_files(predictor, [tmp_path / "images"], out).written) == ["a"]
    assert predict_files(predictor, [tmp_path / "images"], out).skipped == []


def test_what_an_earlier_image_left_is_never_taken_for_this_ones(predictor, save_scan, corner, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    both = {"outputs": ("nifti", "statistics")}
    save_scan("a.nii.gz")
    predict_files(predictor, [images], out, **both)
    predict_files(predictor, [images], out, overwrite=True)  # the same image: its statistics still hold
    assert predict_files(predictor, [images], out, **both).skipped == ["a"]
    save_scan("a.nii.gz", array=2 - corner)
    predict_files(predictor, [images], out)
    assert not (out / "a_statistics.json").exists()  # the first image's
    assert list(predict_files(predictor, [images], out, **both).written) == ["a"]


def test_results_of_another_network_or_other_settings_are_never_taken_for_finished(
    save_threshold, save_scan, corner, tmp_path
):
    for name in "ab":
        save_scan(f"{name}.nii.gz")
    images, out = tmp_path / "images", tmp_path / "out"
    run = save_threshold()
    predict_files(Predictor(run), [images], out)
    contrary = save_threshold("contrary", weight=-1.0)
    for predictor, changes, what in (
        (Predictor(contrary), {}, "checkpoints"),
        (Predictor([run, contrary]), {}, "checkpoints"),
        (Predictor(run, tta=True), {}, "tta False, now it is True"),
        (Predictor(run), {"slice_axis": "x"}, "slice_axis None, now it is x"),
    ):
        with pytest.raises(ValueError, match=f"{what}.*--out.*--overwrite"):
            predict_files(predictor, [images], out, **changes)
    done = predict_files(Predictor(contrary), [images / "a.nii.gz"], out, overwrite=True)
    assert list(done.written) == ["a"] and np.array_equal(labels(out / "a.nii.gz"), corner <= 3.5)
    # the case that was not redone is the old network's still, and the new one's command redoes it
    done = predict_files(Predictor(contrary), [images], out)
    assert done.skipped == ["a"] and list(done.written) == ["b"]


def test_results_are_recorded_as_those_of_the_weights_that_made_them(save_threshold, save_scan, tmp_path):
    save_scan("a.nii.gz")
    loaded = Predictor(save_threshold())
    run = save_threshold(weight=-1.0)  # takes its place
    predict_files(loaded, [tmp_path / "images"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"checkpoints.*--overwrite"):
        predict_files(Predictor(run), [tmp_path / "images"], tmp_path / "out")


@pytest.mark.parametrize("why", ["memory", "allocator", "nan"])
def test_an_image_without_an_answer_is_one_failed_case(save_threshold, save_scan, tmp_path, why):
    for name in "abc":
        save_scan(f"{name}.nii.gz")
    predictor, calls = Predictor(save_threshold(), batch_size=3), []

    def answer(module, given, output):
        calls.append(len(given[0]))
        if len(calls) != 3:  # of b, which has five slices
            return output
        if why == "nan":
            return output.where(torch.arange(len(output)).view(-1, 1, 1, 1) == 0, torch.nan)
        raise MemoryError if why == "memory" else RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")

    predictor.members[0].register_forward_hook(answer)
    done = predict_files(predictor, [tmp_path / "images"], tmp_path / "out", outputs=["nifti", "statistics"])
    assert list(done.written) == ["a", "c"] and list(done.failures) == [str(tmp_path / "images" / "b.nii.gz")]
    assert ("NaN or infinite" if why == "nan" else "do not fit into the memory of cpu") in done.failures.popitem()[1]
    with open(tmp_path / "out" / "statistics.csv", newline="") as stream:
        assert [row["case"] for row in csv.DictReader(stream)] == ["a", "c"]
    assert list(predict_files(predictor, [tmp_path / "images"], tmp_path / "out").written) == ["b"]


def test_no_table_holds_cases_of_two_networks(save_threshold, save_scan, tmp_path):
    for name in "ab":
        save_scan(f"{name}.nii.gz")
    images, out, outputs = tmp_path / "images", tmp_path / "out", ["nifti", "statistics"]
    predict_files(Predictor(save_threshold()), [images], out, outputs=outputs)
    contrary = Predictor(save_threshold("contrary", weight=-1.0))
    predict_files(contrary, [images / "a.nii.gz"], out, overwrite=True, outputs=outputs)
    with open(out / "statistics.csv", newline="") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {"a"}


def test_of_two_networks_that_start_at_once_one_has_the_folder(save_threshold, save_scan, tmp_path, monkeypatch):
    save_scan("a.nii.gz")
    first, second = (Predictor(save_threshold(name, weight=weight)) for name, weight in (("a", 1.0), ("b", -1.0)))
    images, out = tmp_path / "images", tmp_path / "out"

    def other_was_faster(path, made_by):
        monkeypatch.undo()
        predict_files(first, [images], out)
        return write_json_once(path, made_by)

    monkeypatch.setattr("mamba_unet.inference.outputs.write_json_once", other_was_faster)
    with pytest.raises(ValueError, match=r"holds results made with checkpoints .*--out"):
        predict_files(second, [images], out)


def test_tables_hold_a_case_that_another_machine_finishes_while_they_are_written(
    predictor, save_scan, tmp_path, monkeypatch
):
    for name in "ab":
        save_scan(f"{name}.nii.gz")
        predict_files(predictor, [tmp_path / "images" / f"{name}.nii.gz"], tmp_path / name, outputs=["nifti"])
    real = write_statistics

    def slow(path, cases):
        shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
        real(path, cases)

    monkeypatch.setattr("mamba_unet.inference.outputs.write_statistics", slow)
    predict_files(predictor, [tmp_path / "images" / "a.nii.gz"], tmp_path / "a", outputs=["nifti", "statistics"])
    table = (tmp_path / "a" / "statistics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == ["a", "b"]


def test_a_name_that_no_disk_takes_is_refused_before_the_network_runs(predictor, save_scan, tmp_path, monkeypatch):
    save_scan("x" * 240 + ".nii.gz"), save_scan("a.nii.gz")
    (tmp_path / "out").mkdir()  # in which such a name is asked for
    ran = []
    real = predictor.segment
    monkeypatch.setattr(
        predictor, "segment", lambda volumes, *more: real((ran.append(v.volume.name), v)[1] for v in volumes)
    )
    done = predict_files(predictor, [tmp_path / "images"], tmp_path / "out", outputs=["nifti", "probabilities"])
    assert list(done.written) == ran == ["a"]
    assert "xxx_probabilities.nii.gz would have a name of 261 bytes, and 255 are allowed" in done.failures.popitem()[1]
    done = predict_files(predictor, [tmp_path / "images"], tmp_path / "out", outputs=["nifti"])
    assert not done.failures and list(done.written) == ["x" * 240]
    done = predict_files(predictor, [save_scan("x" * 251 + ".nii")], tmp_path / "out", outputs=["preview"])
    assert "would have a name of 263 bytes" in done.failures.popitem()[1]
    done = predict_files(predictor, [tmp_path / "images" / ("x" * 251 + ".nii")], tmp_path / "out", outputs=["picture"])
    assert "xxx.json would have a name of 256 bytes" in done.failures.popitem()[1]


def test_results_beside_the_images_are_no_images(predictor, save_scan, tmp_path, monkeypatch):
    save_scan("a.nii"), save_scan("b.nii")
    monkeypatch.chdir(tmp_path / "images")
    outputs = ["nifti", "probabilities", "preview"]
    for given in (".", "*", tmp_path / "images"):
        done = predict_files(predictor, [given], ".", outputs=outputs)
        assert not done.failures and sorted([*done.written, *done.skipped]) == ["a", "b"], given
    assert done.skipped == ["a", "b"] and len(list(Path().glob("*.nii.gz"))) == 4


def test_what_a_run_left_that_ended_amid_a_case_is_taken_up_again(predictor, save_scan, tmp_path, monkeypatch):
    save_scan("a.nii"), save_scan("b.nii")
    images, real = tmp_path / "images", Segmentation.save_probabilities

    def ends(segmentation, path):
        real(segmentation, path)
        if segmentation.volume.name == "b":
            raise OSError("the end")

    outputs = ["nifti", "probabilities", "statistics"]
    with monkeypatch.context() as patch:
        patch.setitem(OUTPUTS, "probabilities", ("_probabilities.nii.gz", ends))
        assert list(predict_files(predictor, [images], images, outputs=outputs).written) == ["a"]
    assert (images / "b_probabilities.nii.gz").exists()
    assert [line.split(",")[0] for line in (images / "statistics.csv").read_text().splitlines()] == ["case", "a"]
    done = predict_files(predictor, [images], images, outputs=outputs)
    assert done.skipped == ["a"] and list(done.written) == ["b"] and not done.failures


def test_files_of_unknown_origin_and_inputs_are_not_overwritten(predictor, save_scan, tmp_path):
    save_scan("a.nii.gz")
    drawn = save_scan("a.nii.gz", folder="out")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"out/a\.nii\.gz is there already"):
            predict_files(predictor, [tmp_path / "images"], tmp_path / "out")
        predict_files(predictor, [save_scan("b.nii.gz", folder="others")], tmp_path / "out")  # ours beside it
    with pytest.raises(ValueError, match=r"a\.nii\.gz is an input and would be overwritten"):
        predict_files(predictor, [tmp_path / "images"], tmp_path / "images", overwrite=True)
    assert labels(drawn).max() == 7


def test_tables_of_somebody_else_stay(predictor, save_scan, tmp_path):
    scan, table = save_scan("a.nii.gz"), tmp_path / "out" / "statistics.csv"
    table.parent.mkdir()
    table.write_text("of measure")
    with pytest.raises(ValueError, match=r"out/statistics\.csv is there already"):
        predict_files(predictor, [scan], tmp_path / "out")
    assert [path.name for path in table.parent.iterdir()] == [table.name] and table.read_text() == "of measure"


def test_no_part_puts_the_result_of_an_earlier_input_into_the_tables(predictor, save_scan, tmp_path):
    how = {"outputs": {"nifti", "statistics"}}
    scans = [save_scan(f"{name}.nii.gz") for name in "ab"]
    predict_files(predictor, scans, tmp_path / "out", **how)
    scans[0].write_bytes(b"damaged")
    for k in (1, 2):
        predict_files(predictor, scans, tmp_path / "out", part=(k, 2), **how)
        table = (tmp_path / "out" / "statistics.csv").read_text()
        assert "\nb," in table and "\na," not in table


def test_parts_share_the_sorted_list_without_overlap(predictor, save_scan, tmp_path):
    for number in range(7):
        save_scan(f"{number}.nii.gz")
    shares = [predict_files(predictor, [tmp_path / "images"], tmp_path / "out", part=(k, 3)).written for k in (1, 2, 3)]
    assert [list(share) for share in shares] == [["0", "3", "6"], ["1", "4"], ["2", "5"]]
    done = predict_files(predictor, [tmp_path / "images"], tmp_path / "out")
    assert len(done.skipped) == 7 and not done.written
    with pytest.raises(ValueError, match="part 4/3"):
        predict_files(predictor, [tmp_path / "images"], tmp_path / "out", part=(4, 3))


def test_failures_of_parts_do_not_overwrite_each_other(predictor, save_scan, tmp_path):
    for name in "abc":
        save_scan(f"{name}.nii.gz", array=np.full((4, 4, 4), np.inf))
    for k in (1, 2):
        predict_files(predictor, [tmp_path / "images"], tmp_path / "out", part=(k, 2))
    for k, names in ((1, "ac"), (2, "b")):
        failures = json.loads((tmp_path / "out" / f"failures_{k}_of_2.json").read_text())
        assert list(failures) == [str(tmp_path / "images" / f"{name}.nii.gz") for name in names]


@pytest.mark.parametrize("slow", ["reading", "network", "writing"])
def test_few_scans_are_in_memory_at_once_however_many_there_are(checkpoint, corner, tmp_path, monkeypatch, slow):
    predictor = Predictor(checkpoint, batch_size=16)
    alive: list[weakref.ref] = []
    most = 0

    def look(what):
        nonlocal most
        if what == slow:
            time.sleep(0.01)
        most = max(most, sum(array() is not None for array in alive))

    def read(path):
        scan = Volume.from_array(corner.T.copy(), (8.0, 1.5, 1.5))
        alive.append(weakref.ref(scan.array))
        look("reading")
        return scan

    run, write = scores._run, Segmentation.save
    monkeypatch.setattr("mamba_unet.volumes.find.read_volume", read)
    monkeypatch.setattr(scores, "_run", lambda *arguments: (look("network"), run(*arguments)))
    writer = (".nii.gz", lambda segmentation, path: (look("writing"), write(segmentation, path)))
    monkeypatch.setitem(OUTPUTS, "nifti", writer)
    for number in range(30):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{number:02}.nii.gz").touch()
    assert len(predict_files(predictor, [tmp_path / "images"], tmp_path / "out", isolated=False).written) == 30
    # 16 slices of a batch are of up to 5 scans of 5 slices; one is read meanwhile, one written
    assert len(alive) == 30 and most <= 7
    gc.collect()
    assert not any(array() is not None for array in alive)


def test_a_file_at_which_the_reader_crashes_or_hangs_loses_no_other(predictor, save_scan, tmp_path, monkeypatch):
    for number in range(6):
        save_scan(f"{number}.nii.gz")
    crashes = {"1": os.abort, "2": partial(os._exit, 0), "4": partial(time.sleep, 60)}

    def found(*words, **_):
        return [replace(file, read=crashes.get(file.name, file.read)) for file in find_volumes(*words)]

    monkeypatch.setattr(jobs, "find_volumes", found)
    monkeypatch.setattr(pipeline, "Reader", partial(Reader, deadline_s=5))
    done = predict_files(predictor, [tmp_path / "images"], tmp_path / "out", progress=False)
    assert sorted(done.written) == ["0", "3", "5"] and len(done.failures) == 3
    listed = json.loads((tmp_path / "out" / "failures.json").read_text())
    assert listed == done.failures and "SIGABRT" in listed[str(tmp_path / "images" / "1.nii.gz")]


@pytest.mark.parametrize(
    ("given", "isolated", "apart"),
    [
        ("images", None, True),
        ("images/*.nii", None, True),
        ("images/a.nii", None, False),
        ("images/a.nii", True, True),
        ("images", False, False),
    ],
)
def test_what_is_not_named_file_by_file_is_read_apart(
    predictor, save_scan, tmp_path, monkeypatch, given, isolated, apart
):
    save_scan("a.nii")
    read = []
    monkeypatch.setattr(Reader, "read", lambda self, call, path: read.append(path) or call())
    predict_files(predictor, [tmp_path / given], tmp_path / "out", progress=False, isolated=isolated)
    assert bool(read) == apart


def test_a_full_disk_loses_no_word_of_what_failed(predictor, save_scan, tmp_path, monkeypatch):
    save_scan("a.nii.gz")
    (tmp_path / "images" / "b.nii.gz").write_bytes(b"x" * 400)

    def full(*words):
        raise OSError(28, "No space left on device", str(tmp_path / "out" / "statistics.csv"))

    monkeypatch.setattr("mamba_unet.inference.outputs.OutputFolder.merge", full)
    done = predict_files(predictor, [tmp_path / "images"], tmp_path / "out", progress=False)
    assert list(done.written) == ["a"] and len(done.failures) == 2
    assert json.loads((tmp_path / "out" / "failures.json").read_text()) == done.failures
    write = pipeline.write_json

    def full_too(path, value):
        full() if path.name == "failures.json" else write(path, value)

    monkeypatch.setattr(pipeline, "write_json", full_too)
    done = predict_files(predictor, [tmp_path / "images"], tmp_path / "out", progress=False)
    assert "No space left" in done.failures[str(tmp_path / "out" / "failures.json")] and len(done.failures) == 3


def test_names_with_control_characters_or_without_text_are_shown_escaped(predictor, save_scan, tmp_path):
    save_scan("a.nii.gz")
    for name in (b"b\x1b[2J.nii.gz", b"c\xff.nii.gz", b"d\n.nii.gz"):
        with open(os.fsencode(tmp_path / "images") + b"/" + name, "wb") as file:
            file.write(b"x" * 400)
    os.link(tmp_path / "images" / "a.nii.gz", os.fsencode(tmp_path / "images") + b"/\xfe.nii.gz")
    done = predict_files(predictor, [tmp_path / "images"], tmp_path / "out", progress=False)
    assert len(done.written) == 2 and len(done.failures) == 3
    assert all(text.isprintable() for pair in done.failures.items() for text in pair)
    assert "b\\x1b[2J" in "".join(done.failures)
    again = predict_files(predictor, [tmp_path / "images"], tmp_path / "out", progress=False)
    assert len(again.skipped) == 2


def test_an_interruption_keeps_what_is_finished_and_stops(checkpoint, save_scan, tmp_path, monkeypatch):
    predictor = Predictor(checkpoint, batch_size=5)
    for number in range(8):
        save_scan(f"{number}.nii.gz")
    run, calls = scores._run, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        run(*arguments)

    monkeypatch.setattr(scores, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor, [tmp_path / "images"], tmp_path / "out")
    finished = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert finished == {"0.nii.gz"} and not list((tmp_path / "out").glob(".*"))
    monkeypatch.setattr(scores, "_run", run)
    done = predict_files(predictor, [tmp_path / "images"], tmp_path / "out")
    assert {f"{case}.nii.gz" for case in done.skipped} == finished and len(done.written) == 8 - len(finished)


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """Two runs of a small Mamba-UNet with random weights."""
    folder = tmp_path_factory.mktemp("runs")
    config = {"in_channels": 1, "num_classes": 4, **resolve_config("nano", {})}
    names = ["background", "right ventricle", "myocardium", "left ventricle"]
    for seed in (0, 1):
        torch.manual_seed(seed)
        preprocessing = Preprocessing((MINMAX,), "SPL", Slices((32, 32))).to_json()
        metadata = CheckpointMetadata("mamba_unet", config, names, preprocessing)
        save_checkpoint(folder / str(seed) / "best.safetensors", build_model("mamba_unet", **config), metadata)
    return folder


def test_the_command_writes_all_that_can_be_asked_for_at_once(nano, save_scan, tmp_path, capsys):
    for number in range(3):
        save_scan(f"patient001_frame0{number}.nii.gz", np.random.default_rng(number).random((24, 20, 4)))
    out = tmp_path / "out"
    words = ["predict", str(nano / "0"), str(tmp_path / "images" / "*.nii.gz"), "--out", str(out)]
    words += ["--ensemble", str(nano / "1"), "--tta", "--slice-axis", "z", "--batch-size", "8", "--probabilities"]
    words += ["--uncertainty"]
    words += ["--preview", "--statistics", "--report", str(out / "run.json"), "--output-type", "nifti"]
    assert main([*words, "--part", "2/3"]) == 0
    assert capsys.readouterr().out == f"1 segmentation in {out}\n"
    assert main(words) == 0
    assert capsys.readouterr().out == f"2 segmentations in {out} (1 case finished before)\n"
    endings = (".nii.gz", "_preview.png", "_probabilities.nii.gz", "_uncertainty.nii.gz", "_statistics.json")
    expected = {f"patient001_frame0{number}{ending}" for number in range(3) for ending in endings}
    assert {path.name for path in out.iterdir()} == {*expected, "cases", "predict.json", "run.json", "statistics.csv"}
    probabilities = labels(out / "patient001_frame00_probabilities.nii.gz")
    assert np.array_equal(probabilities.argmax(axis=-1), labels(out / "patient001_frame00.nii.gz"))
    assert json.loads((out / "predict.json").read_text()).keys() == {"checkpoints", "tta", "slice_axis"}


def test_the_command_fails_by_its_exit_code_and_names_each_bad_case(nano, save_scan, tmp_path, capsys):
    save_scan("good.nii.gz")
    save_scan("bad.nii.gz").write_bytes(b"nothing")
    assert main(["predict", str(nano / "0"), str(tmp_path / "images"), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("1 segmentation in") and f"failed: {tmp_path}/images/bad.nii.gz: " in said.err
    assert main(["predict", str(nano / "1"), str(tmp_path / "images"), "--out", str(tmp_path / "out")]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["3", "0/8", "9/8", "a/b", "1/", "-1/8"])
def test_a_part_that_is_none_is_refused(nano, tmp_path, capsys, word):
    with pytest.raises(SystemExit):
        main(["predict", str(nano / "0"), str(tmp_path), "--out", str(tmp_path / "out"), f"--part={word}"])
    assert "such as 3/8" in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_go_on(nano, save_scan, tmp_path, capsys, monkeypatch):
    save_scan("a.nii.gz")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scores, "_run", interrupted)
    assert main(["predict", str(nano / "0"), str(tmp_path / "images"), "--out", str(tmp_path / "out")]) == 130
    assert "the same command" in capsys.readouterr().err


def test_a_second_network_among_the_images_is_no_image(save_threshold, save_scan, tmp_path, capsys):
    scan, (one, two) = save_scan("a.nii.gz"), (save_threshold(name) for name in "ab")
    for given in (two, two / "best.safetensors"):
        assert main(["predict", str(one), str(given), str(scan), "--out", str(tmp_path / "out")]) == 2
        assert f"{given} is a network, not an image; several make an ensemble: --ensemble" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
