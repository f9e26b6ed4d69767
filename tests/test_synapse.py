"""Synapse by the commands a user runs, on thirty cases made of one real CT in the layout of the raw download."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from mamba_unet.cli import main
from mamba_unet.data import PreparedDataset
from mamba_unet.evaluation.metrics import segmentation_metrics

RECIPE = "synapse_mamba_unet"
NUMBERS = (*range(1, 11), *range(21, 41))  # as the download counts
TEST = [f"case{number:04d}" for number in (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)]
METRICS = ("dice", "iou", "accuracy", "precision", "sensitivity", "specificity", "hd95", "asd")
RAW_OF_CLASS = np.array([0, 8, 4, 3, 2, 6, 11, 1, 7], np.uint8)

# Looked up in the CT by hand, as stored (x, y, z), x to the patient's right: Hounsfield units, raw value, class.
LOOKED_UP = {
    (0, 0, 15): (-1024, 0, "background"),  # air
    (22, 22, 15): (493, 0, "background"),  # rib
    (25, 32, 23): (23, 1, "spleen"),
    (77, 35, 13): (17, 2, "right kidney"),
    (29, 36, 5): (14, 3, "left kidney"),
    (80, 65, 8): (26, 4, "gallbladder"),
    (86, 47, 20): (32, 6, "liver"),
    (40, 53, 27): (16, 7, "stomach"),
    (54, 45, 25): (52, 8, "aorta"),
    (62, 62, 8): (6, 11, "pancreas"),
}
# The organs that are not kept are not labelled in this CT: cubes of 5 voxels in soft tissue stand for them.
STAND_INS = {(49, 17, 14): 5, (61, 36, 14): 9, (65, 56, 14): 10, (74, 18, 14): 12, (42, 12, 14): 13}


def write_case(root, number, image, label, spacing_mm):
    for kind, array in (("img", image), ("label", label)):
        path = root / kind / f"{kind}{number:04d}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.diag([*spacing_mm, 1.0])), path)


@pytest.fixture(scope="module")
def raw(ct_dir, tmp_path_factory):
    """Case 1 is the CT as it is; the others are shifted, every second one prone, and sampled anew, by their number."""
    root = tmp_path_factory.mktemp("synapse") / "RawData" / "Training"
    image = np.asarray(nib.load(ct_dir / "ct.nii.gz").dataobj)
    label = RAW_OF_CLASS[np.asarray(nib.load(ct_dir / "organs.nii.gz").dataobj)]
    for (x, y, z), value in STAND_INS.items():
        label[x - 2 : x + 3, y - 2 : y + 3, z - 2 : z + 3] = value
    write_case(root, 1, image, label, (3.0, 3.0, 3.0))
    for number in NUMBERS[1:]:
        rng = np.random.default_rng([0, number])
        shift, steps = rng.integers(-6, 7, 2), rng.uniform((1.6, 1.6, 1.5), (2.2, 2.2, 2.5)).round(2)
        places = [
            np.arange(rng.uniform(0, step), size, step).astype(int)
            for step, size in zip(steps, image.shape, strict=True)
        ]
        turned = slice(None, None, -1 if number % 2 else 1)
        made = (np.roll(array, shift, axis=(0, 1))[np.ix_(*places)][:, turned] for array in (image, label))
        write_case(root, number, *made, 3 * steps)
    return root.parents[1]


@pytest.fixture(scope="module")
def work(raw):
    """Prepared, trained by the recipe and measured, by commands."""
    work = raw.parent / f"{raw.name}-work"
    assert main(["prepare", str(raw), str(work / "data")]) == 0
    short = "--model.size nano --image_size [48,48] --batch_size 12 --iterations 60 --validate_every 30 --workers 0 "
    short += "--optimizer.name adamw --optimizer.lr 0.01 --trainer.accelerator cpu --augment false"
    run = str(work / "run")
    assert main(["train", RECIPE, "--data", str(work / "data"), "--out", run, *short.split()]) == 0
    assert main(["evaluate", run, "--data", str(work / "data"), "--device", "cpu"]) == 0
    return work


@pytest.fixture(scope="module")
def again(work):
    """Exported to TransUNet's layout and prepared from there."""
    exported = work / "exported" / "Synapse"
    assert main(["export", str(work / "data"), str(exported), "--layout", "synapse-transunet"]) == 0
    assert main(["prepare", str(exported), str(work / "again")]) == 0
    return PreparedDataset(work / "again")


def raw_arrays(raw, identifier):
    """HU and raw label values, (D, H, W), and the spacing in that order."""
    number = identifier.removeprefix("case")
    image, label = (
        nib.load(raw / "RawData" / "Training" / kind / f"{kind}{number}.nii.gz") for kind in ("img", "label")
    )
    return *(np.asarray(file.dataobj).transpose(2, 1, 0) for file in (image, label)), image.header.get_zooms()[::-1]


def rows_of(folder):
    with (folder / "metrics_per_case.csv").open(encoding="utf-8", newline="") as stream:
        return {(row["case"], row["class_name"]): row for row in csv.DictReader(stream)}


def test_voxels_looked_up_by_hand_have_their_class_and_intensity(raw, work):
    prepared = PreparedDataset(work / "data")
    case, (_, stored, _) = prepared.case("case0001"), raw_arrays(raw, "case0001")
    for (x, y, z), (hounsfield, value, organ) in LOOKED_UP.items():
        assert stored[z, y, x] == value
        assert prepared.class_names[case.label[z, y, x]] == organ
        assert case.image[0, z, y, x] == np.float32((min(max(hounsfield, -125), 275) + 125) / 400)
    for (x, y, z), value in STAND_INS.items():
        assert stored[z, y, x] == value and case.label[z, y, x] == 0
    assert {value for _, value, _ in LOOKED_UP.values()} | set(STAND_INS.values()) == set(range(14))


def test_every_voxel_of_every_case_is_mapped_and_windowed(raw, work):
    prepared = PreparedDataset(work / "data")
    assert len(prepared.identifiers) == 30
    for identifier in prepared.identifiers:
        case, (hounsfield, stored, spacing_mm) = prepared.case(identifier), raw_arrays(raw, identifier)
        assert set(np.unique(stored)) == set(range(14))
        for organ, value in enumerate(RAW_OF_CLASS[1:], start=1):
            assert np.array_equal(case.label == organ, stored == value)
        np.testing.assert_allclose(case.image[0], (hounsfield.clip(-125, 275) + 125.0) / 400, rtol=0, atol=1e-7)
        assert case.image.min() == 0 and case.image.max() == 1
        np.testing.assert_allclose(case.spacing_mm, spacing_mm, rtol=1e-6)


def test_validation_comes_out_of_the_eighteen_and_the_twelve_are_only_tested(work):
    splits = PreparedDataset(work / "data").splits
    assert splits["test"] == TEST
    assert splits["val"] == ["case0007", "case0024", "case0027", "case0037"]
    assert len(splits["train"]) == 14
    assert set(splits["train"]).isdisjoint(splits["val"]) and set(TEST).isdisjoint(splits["train"] + splits["val"])
    used = json.loads((work / "run" / "split.json").read_text())
    assert (used["train"], used["val"]) == (splits["train"], splits["val"])


def test_the_eight_metrics_are_of_whole_test_volumes_in_mm(raw, work):
    folder, prepared = work / "run" / "evaluation_test", PreparedDataset(work / "data")
    rows = rows_of(folder)
    assert list(rows) == [(case, organ) for case in TEST for organ in prepared.class_names[1:]]
    assert all(set(METRICS) <= row.keys() and row["distance_unit"] == "mm" for row in rows.values())
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["cases"] == 12 and set(summary["foreground"]) == set(METRICS)

    for case in TEST:  # once more from the download: its labels, the voxel sizes in its headers, the whole volume
        predicted = np.load(folder / "predictions" / f"{case}.npz")["label"]
        _, stored, spacing_mm = raw_arrays(raw, case)
        truth = np.zeros(stored.shape, np.uint8)
        for organ, value in enumerate(RAW_OF_CLASS):
            truth[stored == value] = organ
        measured = segmentation_metrics(predicted, truth, [float(size) for size in spacing_mm], 9)
        for organ, values in measured.items():
            row = rows[case, prepared.class_names[organ]]
            assert [float(row[metric]) for metric in METRICS] == pytest.approx(
                [values[metric] for metric in METRICS], rel=1e-6, nan_ok=True
            )
        assert float(rows[case, "liver"]["dice"]) > 0.3  # enough is learned for the distances to be of something


def test_the_papers_table_2_comes_of_one_command(work, capsys):
    out = work / "comparison"
    for name in ("mamba_unet", "unet"):
        (work / f"{name}.yaml").write_text(
            f"base: {RECIPE}\nmodel: {{name: {name}, size: nano}}\nimage_size: [48, 48]\nbatch_size: 6\niterations: 4\n"
            "validate_every: 4\nworkers: 0\ntrainer: {accelerator: cpu}\n"
        )
    recipes = [str(work / "mamba_unet.yaml"), str(work / "unet.yaml")]
    assert main(["compare", *recipes, "--data", str(work / "data"), "--out", str(out), "--device", "cpu"]) == 0
    table = (out / "table.md").read_text()
    assert {"mamba_unet", "unet"} <= {line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")}
    assert "HD95 (mm)" in table and "12 cases of 12 patients" in table
    assert all(f"{organ} ↑" in table for organ in PreparedDataset(work / "data").class_names[1:])
    tests = [[cell.strip() for cell in line.split("|")] for line in (out / "significance.md").read_text().splitlines()]
    assert ["unet", "Dice", "12"] in [cells[1:4] for cells in tests]


def test_the_exporters_layout_gives_the_same_data_bit_for_bit(work, again):
    first = PreparedDataset(work / "data")
    for identifier in first.identifiers:
        a, b = first.case(identifier), again.case(identifier)
        assert a.image.tobytes() == b.image.tobytes() and a.label.tobytes() == b.label.tobytes()
        assert a.image.shape == b.image.shape
    assert again.fingerprint == first.fingerprint
    assert again.splits == first.splits and again.intensity == first.intensity
    assert again.class_names == first.class_names


def test_without_spacing_the_same_network_is_measured_in_voxels(work, again):
    out = work / "in_voxels"
    assert main(["evaluate", str(work / "run"), "--data", str(again.folder), "--out", str(out), "--device", "cpu"]) == 0
    in_mm, in_voxels = rows_of(work / "run" / "evaluation_test"), rows_of(out)
    assert {row["distance_unit"] for row in in_voxels.values()} == {"voxels"}
    for key, row in in_mm.items():
        assert [row[metric] for metric in METRICS[:6]] == [in_voxels[key][metric] for metric in METRICS[:6]]
    # case 1 has voxels of 3 x 3 x 3 mm
    liver = "case0001", "liver"
    for metric in ("hd95", "asd"):
        assert float(in_mm[liver][metric]) == pytest.approx(3 * float(in_voxels[liver][metric]), rel=1e-6)
        assert 0 < float(in_mm[liver][metric]) < 300


def test_nnunets_layout_keeps_hounsfield_units_and_geometry(raw, work):
    data, exported = work / "data", work / "Dataset502_Synapse"
    assert main(["export", str(data), str(exported), "--layout", "nnunet"]) == 0
    first = PreparedDataset(data)
    for folder, identifier in (("imagesTs", "case0001"), ("imagesTr", "case0005"), ("imagesTr", "case0007")):
        image = nib.load(exported / folder / f"{identifier}_0000.nii.gz")
        assert np.array_equal(
            np.asarray(image.dataobj).transpose(2, 1, 0), raw_arrays(raw, identifier)[0].clip(-125, 275)
        )
        np.testing.assert_allclose(image.affine, first.case(identifier).affine, rtol=1e-6)
    assert main(["prepare", str(exported), str(work / "from_nnunet"), "--split", str(data / "splits.json")]) == 0
    second = PreparedDataset(work / "from_nnunet")
    assert (second.name, second.fingerprint, second.splits) == ("synapse", first.fingerprint, first.splits)
