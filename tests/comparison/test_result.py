"""What a comparison says of measurements made up by hand."""

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from mamba_unet.comparison.entry import Entry
from mamba_unet.comparison.result import Comparison
from mamba_unet.evaluation.metrics import OVERLAP_METRICS, Conventions
from mamba_unet.evaluation.summary import Evaluation
from mamba_unet.training.recipe import FewLabelsRecipe, ModelRecipe, OptimizerRecipe, Recipe
from mamba_unet.views.patches import Patches

INF, NAN = float("inf"), float("nan")
PREPARED = SimpleNamespace(name="hearts", description="", fingerprint="f", class_names=["background", "a", "b"])


def evaluation(dice, hd95, frames=1, units=("mm",)) -> Evaluation:
    """Patients p0, p1, ..., each with as many cases of its own values: (patients, 2 classes) Dice and HD95."""
    rows = []
    for patient, (patient_dice, patient_hd95) in enumerate(zip(dice, hd95, strict=True)):
        for frame in range(frames):
            for index, (d, h) in enumerate(zip(patient_dice, patient_hd95, strict=True), start=1):
                where = {"case": f"p{patient}_frame{frame}", "patient": f"p{patient}", "class": index}
                names = {"class_name": PREPARED.class_names[index], "distance_unit": units[patient % len(units)]}
                rows.append(where | names | dict.fromkeys(OVERLAP_METRICS, d) | {"hd95": h, "asd": h})
    return Evaluation(tuple(PREPARED.class_names), Conventions(), rows, [])


def entry(name, *evaluations, recipe=None, seeds=(0, 1)) -> Entry:
    runs = [
        {"hours": hours, "peak_gpu_memory_mib": memory, "machine": "abacus", "seed": seed}
        for hours, memory, seed in [(1.0, 1024.0, seeds[0]), (3.0, 2048.0, seeds[-1])][: len(evaluations)]
        if recipe
    ]
    return Entry(name, evaluations, lambda case: case.label, recipe, runs, 1234 if recipe else None)


def comparison(*entries, reference=None, seeds=(0, 1)) -> Comparison:
    named = {e.name: e for e in entries}
    return Comparison(PREPARED, named, reference or entries[0].name, seeds)


def squeezed(table) -> str:
    """Its Markdown without the spaces that align it."""
    return re.sub(" +", " ", table.markdown())


FLAT = [[3.0, 3.0]] * 3


def test_millimetres_and_voxels_are_not_tested_together():
    one, two = (evaluation([[dice, 0.5]] * 3, FLAT, units=("mm", "voxels")) for dice in (0.6, 0.7))
    said = comparison(entry("a", one), entry("b", two))
    assert said.evaluation.distance_unit == "mixed" and {test["metric"] for test in said.tests} == {"dice"}
    assert not {"hd95", "asd"} & set(said.to_json()["networks"]["a"]["patients"]), "mm and voxels have no mean"


def test_the_table_averages_seeds_of_means_of_classes():
    mamba = entry(
        "mamba", evaluation([[0.8, 0.6]] * 3, FLAT), evaluation([[1.0, 0.8]] * 3, FLAT), recipe=Recipe()
    )  # 0.7 and 0.9
    unet = entry("unet", evaluation([[0.7, 0.7]] * 3, FLAT), evaluation([[0.7, 0.7]] * 3, FLAT), recipe=Recipe())
    said = comparison(mamba, unet)
    assert said.statistics["mamba"]["dice"].values == pytest.approx((0.7, 0.9))
    row = squeezed(said.results()).splitlines()[2]
    assert row.startswith("| mamba | **0.8000 ± 0.1414** |")
    assert squeezed(said.classes()).splitlines()[2:] == [
        "| mamba | **0.9000 ± 0.1414** | **0.7000 ± 0.1414** |",
        "| unet | <ins>0.7000 ± 0.0000</ins> | **0.7000 ± 0.0000** |",
    ]


def test_a_patients_value_is_over_its_classes_cases_and_seeds():
    first = evaluation([[0.8, 0.6], [NAN, 0.5], [NAN, NAN]], [[1, 3], [NAN, 2], [NAN, NAN]], frames=2)
    second = evaluation([[0.4, 0.2], [NAN, 0.7], [NAN, NAN]], [[5, 7], [INF, 2], [NAN, NAN]], frames=2)
    e = entry("mamba", first, second)
    assert e.per_patient("dice") == pytest.approx({"p0": 0.5, "p1": 0.6, "p2": NAN}, nan_ok=True)
    assert e.per_patient("hd95") == pytest.approx({"p0": 4, "p1": INF, "p2": NAN}, nan_ok=True)


def test_a_patients_value_weighs_its_trainings_alike_whatever_each_of_them_defines():
    """A class is absent from label and prediction in one training and invented in the other."""
    first, second = evaluation([[0.8, NAN]], [[1, NAN]]), evaluation([[0.4, 0.0]], [[2, 6]])
    e = entry("mamba", first, second)
    assert e.per_patient("dice")["p0"] == pytest.approx((0.8 + 0.2) / 2)  # 0.4 if all values were pooled
    assert e.per_patient("hd95")["p0"] == pytest.approx((1 + 4) / 2)  # 3 if all values were pooled


def test_tests_are_per_patient_against_the_reference_and_corrected_together():
    patients = np.arange(1, 7)
    base = np.repeat(patients[:, None] / 100, 2, axis=1) + 0.5
    gain = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])[:, None]
    far = np.full((6, 2), 4.0)
    said = comparison(
        entry("unet", evaluation(base, far)),
        entry("mamba", evaluation(base + gain, far - 100 * gain / 2)),
        entry("copy", evaluation(base, far)),
        seeds=(0,),
    )
    tests = {(test["network"], test["metric"]): test for test in said.tests}
    better = tests["mamba", "dice"]
    assert (better["patients"], better["effect"], better["p"]) == (6, 1, 2 / 64)
    assert better["median_difference"] == pytest.approx(0.035)
    assert better["p_holm"] == 4 * 2 / 64  # the smallest of four
    closer = tests["mamba", "hd95"]
    assert (closer["median_difference"], closer["effect"]) == (pytest.approx(-1.75), 1)
    assert (tests["copy", "dice"]["ties"], tests["copy", "dice"]["p"], tests["copy", "dice"]["effect"]) == (6, 1, None)
    table = squeezed(said.significance())
    assert "| mamba | Dice | 6 | 0 | 0 | +0.0350 |" in table and "| +1.00 | 0.031 | 0.125 |" in table
    assert any("With 6 patients no p below 0.031" in note for note in said.significance_notes())


def test_over_patients_either_side_counts_with_as_many_trainings_of_the_same_seeds():
    """Each training misses a structure in one patient; the mean of two has two such patients."""
    near, far = [5.0, 5.0], [5.0, INF]
    first, second = ([far if patient == missed else near for patient in range(6)] for missed in (0, 1))
    good, made = [[0.9, 0.9]] * 6, Recipe()
    twice = entry("twice", evaluation(good, first), evaluation(good, second), recipe=made)
    for once in (
        entry("once", evaluation(good, second), recipe=made, seeds=(1,)),
        entry("once", evaluation(good, first)),
    ):
        said = comparison(twice, once)
        (test,) = [test for test in said.tests if test["metric"] == "hd95"]
        assert (test["trainings"], test["ties"], test["left_out"], test["pairs_of_trainings"]) == (1, 5, 1, 2)
        assert any("equally many trainings" in note and "once with 1." in note for note in said.significance_notes())
    assert not any("equally many" in note for note in comparison(twice, twice).significance_notes())


def test_missed_structures_are_counted_in_the_cell_and_in_words():
    missed = entry("missed", evaluation([[0.9, 0.0]] * 3, [[2.0, INF]] * 3))
    whole = entry("whole", evaluation([[0.8, 0.8]] * 3, [[5.0, 5.0]] * 3))
    said = comparison(missed, whole)
    rows = squeezed(said.results()).splitlines()
    assert "2.00 (3 inf)" in rows[2] and "**2.00" not in rows[2] and "**5.00**" in rows[3]
    assert any("missed 0 undefined, 3 infinite" in note for note in said.result_notes())
    assert all(test["effect"] == 1 for test in said.tests if test["metric"] == "hd95")


def test_the_networks_table_shows_where_recipes_differ_and_nothing_else():
    base = Recipe(data="here", out="there", workers=3)
    other = dataclasses.replace(
        base,
        model=ModelRecipe("unet"),
        pretrained="weights/imagenet.pth",
        optimizer=OptimizerRecipe(lr=0.05),
        data="elsewhere",
        seed=7,
    )
    flat = evaluation([[0.8, 0.6]] * 3, FLAT)
    said = comparison(
        entry("mamba", flat, flat, recipe=base), entry("unet", flat, flat, recipe=other), entry("nnunet", flat)
    )
    titles, rows = said.networks().titles, said.networks().rows
    assert titles == [
        *("network", "model", "parameters", "learned from", "starts from", "optimizer.lr"),
        *("trainings", "iterations", "time per training", "GPU memory"),
    ]
    start = ["mamba", "mamba_unet", "1,234", "all patients", "random weights", "0.01"]
    assert rows[0] == [*start, "2", "10,000", "2.0 h", "2.0 GiB"]
    assert rows[1][1:6] == ["unet", "1,234", "all patients", "imagenet.pth", "0.05"]
    assert rows[2] == ["nnunet", "external predictions", "-", "-", "-", "-", "1", "-", "-", "-"]


def test_the_table_says_whose_labels_each_network_learned_from():
    flat = evaluation([[0.8, 0.6]] * 3, FLAT)
    few = Recipe(objective="cps", labelled=["a", "b"], few_labels=FewLabelsRecipe([ModelRecipe("unet")]))
    scribbles = Recipe(objective="partial_ce", annotation="scribble")
    learned = [
        (few, {"labelled_patients": 7, "unlabelled_patients": 63, "annotation": "label", "marked": 1.0}),
        (scribbles, {"labelled_patients": 70, "unlabelled_patients": 0, "annotation": "scribble", "marked": 0.0107}),
        (Recipe(), {"labelled_patients": 1, "unlabelled_patients": 0, "annotation": "label", "marked": 0.5}),
    ]
    entries = []
    for number, (recipe, said) in enumerate(learned):
        one = entry(f"row{number}", flat, recipe=recipe)
        entries.append(dataclasses.replace(one, runs=[{**run, **said} for run in one.runs]))
    found = comparison(*entries)
    table = found.networks()
    assert [row[table.titles.index("learned from")] for row in table.rows] == [
        "7 patients and 63 without labels",
        "70 patients' scribbles (1.1 %)",
        "1 patient, 50 % of the pixels labelled",
    ]
    assert table.rows[0][1] == "mamba_unet + unet" and "objective" in table.titles and "labelled" not in table.titles
    assert any("few_labels.validated" in note for note in found.network_notes())
    assert any("dense labels, whatever was learned from" in note for note in found.result_notes())


def test_what_two_recipes_hide_behind_the_same_words_gets_a_column():
    flat = evaluation([[0.8, 0.6]] * 3, FLAT)
    said = {"labelled_patients": 2, "unlabelled_patients": 1, "annotation": "label", "marked": 1.0}

    def columns(*recipes):
        made = [entry(f"row{number}", flat, recipe=recipe) for number, recipe in enumerate(recipes)]
        found = comparison(*(dataclasses.replace(one, runs=[{**run, **said} for run in one.runs]) for one in made))
        return {"labelled", "few_labels.partners", "pretrained", "view.kind"} & set(
            found.networks().titles
        ), found.result_notes()

    partners = [FewLabelsRecipe([ModelRecipe("mamba_unet", size)]) for size in ("nano", "micro")]
    few = [Recipe(objective="cps", labelled=labelled, few_labels=partners[0]) for labelled in (["a", "b"], ["c", "d"])]
    assert columns(*few)[0] == {"labelled"} and columns(few[0], few[0])[0] == set()
    assert columns(few[0], dataclasses.replace(few[0], few_labels=partners[1]))[0] == {"few_labels.partners"}
    started = [dataclasses.replace(few[0], pretrained=f"{run}/best.safetensors") for run in "ab"]
    assert columns(*started)[0] == {"pretrained"} and columns(few[0], started[0])[0] == set()
    solid = dataclasses.replace(few[0], view=Patches((8, 32, 32), None), augment="none")
    assert columns(few[0], solid)[0] == {"view.kind"}
    drawn = dataclasses.replace(few[0], labelled=2)
    assert any("each seed drew other patients" in note for note in columns(drawn)[1])
    assert not any("each seed drew other patients" in note for note in columns(few[0])[1])


def test_json_has_every_value_and_no_number_that_json_has_not():
    e = entry("mamba", evaluation([[0.9, NAN]] * 3, [[INF, NAN]] * 3), recipe=Recipe())
    said = json.loads(json.dumps(comparison(e, entry("unet", evaluation([[0.9, 0.8]] * 3, FLAT))).to_json()))
    assert said["networks"]["mamba"]["patients"]["hd95"] == {"p0": "inf", "p1": "inf", "p2": "inf"}
    assert (
        said["networks"]["mamba"]["metrics"]["hd95"] | {"values": [None], "mean": None, "infinite": 3}
        == (said["networks"]["mamba"]["metrics"]["hd95"])
    )
    assert "data" not in said["networks"]["mamba"]["recipe"] and said["networks"]["unet"]["recipe"] is None
    assert said["tests"][1]["median_difference"] == "-inf" and said["tests"][1]["interval"] == ["-inf", "-inf"]


def test_synthetic_data_is_named_so_first():
    e = entry("mamba", evaluation([[0.8, 0.6]] * 3, FLAT))
    assert not comparison(e).synthetic
    synthetic = SimpleNamespace(**{**vars(PREPARED), "description": "synthetic hearts"})
    assert "Synthetic" in dataclasses.replace(comparison(e), prepared=synthetic).result_notes()[0]


def test_better_trainings_are_counted_over_all_pairs_of_seeds():
    mamba = entry("mamba", evaluation([[0.6, 0.6]] * 3, FLAT), evaluation([[0.9, 0.9]] * 3, [[INF, 1.0]] * 3))
    unet = entry("unet", evaluation([[0.5, 0.7]] * 3, FLAT), evaluation([[0.7, 0.9]] * 3, [[1.0, 1.0]] * 3))
    dice, hd95 = comparison(mamba, unet).tests  # unet 0.6, 0.8 against mamba 0.6, 0.9
    assert [dice[key] for key in ("better_pairs", "worse_pairs", "pairs_of_trainings")] == [1, 2, 4]
    assert [hd95[key] for key in ("better_pairs", "worse_pairs", "pairs_of_trainings")] == [3, 0, 4]  # 3, 1; 3, inf
    assert (dice["p_trainings"], hd95["p_trainings"]) == (1.0, pytest.approx(4 / 6))


def test_times_of_different_machines_stand_beside_their_machine():
    flat = evaluation([[0.8, 0.6]] * 3, FLAT)
    one, other = entry("mamba", flat, recipe=Recipe()), entry("unet", flat, recipe=Recipe())
    assert "trained on" not in comparison(one, other).networks().titles
    assert any("Trained on: abacus." in note for note in comparison(one, other).network_notes())
    other.runs[0]["machine"] = "calculator"
    networks = comparison(one, other, entry("nnunet", flat)).networks()
    assert networks.titles[-1] == "trained on"
    assert [row[-1] for row in networks.rows] == ["abacus", "calculator", "-"]
    assert any("cannot be compared" in note for note in comparison(one, other).network_notes())
