"""A recipe without one part at a time."""

import json

import pytest

from mamba_unet.comparison import run as comparison
from mamba_unet.inference import evaluate

TINY = ("--iterations", 2, "--minutes", "null", "--augment", "nnunet", "--optimizer.ema", 0.9)


def test_a_recipe_is_trained_without_each_part_it_has_and_never_tested(
    run_benchmark, source, recipes, tmp_path, monkeypatch
):
    for module in (comparison, evaluate):
        monkeypatch.setattr(module, "evaluate_checkpoint", lambda *_, **__: pytest.fail("evaluated"))
    words = ["ablations", recipes[0], "--source", source, "--out", tmp_path / "out", *TINY]
    page = run_benchmark(*words)
    lines = [line for line in page.splitlines() if line.startswith("|")][2:]
    left_out = ["complete", "--augment paper", "--optimizer.ema 0.0", "--optimizer.warmup 0"]
    assert all(text in line for text, line in zip(left_out, lines, strict=True)), "it has no other part"
    values = json.loads(next((tmp_path / "results").glob("ablations_mamba_phantom_*.json")).read_text())
    assert "test patients were not looked at" in page
    runs = tmp_path / "out" / "ablations"
    assert sorted(path.name for path in runs.iterdir()) == sorted(values["trainings"])
    for by_seed in values["trainings"].values():
        assert by_seed["0"]["iteration"] == 2 and 0 <= by_seed["0"]["best"]["mean_foreground_dice"] <= 1

    monkeypatch.setattr("ablations.train", lambda *_, **__: pytest.fail("trained"))
    page = run_benchmark(*words, "--seeds", "0,1", "--only-finished")
    assert f"{len(lines)} trainings are not complete" in page


def test_the_difference_is_between_trainings_of_one_seed(benchmark):
    dice = {"complete": {0: 0.8, 1: 0.9}, "ema": {0: 0.7, 1: 0.9, 2: 0.1}, "clip": {}}
    texts = {name: name for name in dice}
    assert benchmark("ablations").rows(dice, texts) == [
        ["complete", 2, "0.8500 ± 0.0707", "-", "-"],
        ["ema", 3, "0.5667 ± 0.4163", "-0.0500", "1 of 2"],
        ["clip", 0, "-", "-", "-"],
    ]
