"""Scribbles made from dense labels, by a rule that a person can follow."""

import numpy as np
import pytest
from scipy import ndimage

from mamba_unet.cli import main
from mamba_unet.data import PreparedDataset, prepare
from mamba_unet.data.scribble import NEIGHBOURS, draw_scribble, skeleton, stroke
from mamba_unet.views.labels import IGNORE


def test_the_skeleton_of_a_bar_is_its_middle_line_and_no_square_is_thinned_away():
    bar = np.zeros((9, 30), bool)
    bar[2:7, 3:27] = True
    line = skeleton(bar)
    assert line.any(axis=1).tolist() == [row == 4 for row in range(9)]
    assert 18 <= line.sum() <= 22 and not (line & ~bar).any()
    for side, most in ((1, 1), (2, 4), (3, 1), (8, 2)):  # two pixels square have no middle and stay
        square = np.zeros((12, 12), bool)
        square[1 : 1 + side, 2 : 2 + side] = True
        assert 1 <= skeleton(square).sum() <= most
    assert not skeleton(np.zeros((4, 4), bool)).any()


def test_a_ring_stays_a_ring():
    rows, columns = np.mgrid[:40, :40] - 19.5
    distance = np.hypot(rows, columns)
    line = skeleton((distance > 10) & (distance < 16))
    assert ndimage.label(line, NEIGHBOURS)[1] == 1 and ndimage.label(~line)[1] == 2
    assert 11 < distance[line].min() and distance[line].max() < 15


def test_a_stroke_is_a_connected_part_of_its_line():
    line = np.zeros((5, 40), bool)
    line[2, 5:35] = True
    for seed in range(5):
        part = stroke(line, 0.5, np.random.default_rng(seed))
        assert part.sum() == 15 and not (part & ~line).any() and ndimage.label(part, NEIGHBOURS)[1] == 1
    assert (stroke(line, 1.0, np.random.default_rng(0)) == line).all()


@pytest.fixture
def label() -> np.ndarray:
    """(2, 60, 60): a disc in a ring, and pixels without ground truth; then nothing."""
    rows, columns = np.mgrid[:60, :60] - 29.5
    distance = np.hypot(rows, columns)
    plane = np.where(distance < 8, 2, np.where(distance < 14, 1, 0)).astype(np.uint8)
    plane[:3] = IGNORE
    return np.stack([plane, np.zeros_like(plane)])


def test_every_class_is_marked_by_itself_and_by_few_pixels(label):
    drawn = draw_scribble(label, "a")
    marked = drawn != IGNORE
    assert (drawn[marked] == label[marked]).all() and marked.mean() < 0.05
    assert set(np.unique(drawn[0])) == {0, 1, 2, IGNORE} and set(np.unique(drawn[1])) == {0, IGNORE}
    disc = drawn[0] == 2  # a line of 0.6 of the diameter of 16
    assert 7 <= disc.sum() <= 14 and ndimage.label(disc, NEIGHBOURS)[1] == 1
    np.testing.assert_array_equal(drawn, draw_scribble(label, "a"))
    for name, seed in (("b", 0), ("a", 1)):
        assert (draw_scribble(label, name, seed) != drawn).any()


def test_the_command_writes_a_data_set_that_prepare_reads_with_the_same_split(nnunet, tmp_path, capsys):
    before = prepare(nnunet(count=12), tmp_path / "before", patient_regex=r"s\d", progress=False)
    assert before.patients["s1"] == ["s1", "s10", "s11"]
    assert main(["scribble", str(before.folder), str(tmp_path / "out"), "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "% of the training cases' voxels are marked" in said
    words = [
        "prepare",
        str(tmp_path / "out"),
        str(tmp_path / "after"),
        "--split",
        str(tmp_path / "out" / "splits.json"),
    ]
    assert " ".join(words[:2]) in said and main(words) == 0
    after = PreparedDataset(tmp_path / "after")
    assert after.splits == before.splits and after.class_names == before.class_names
    assert after.patients == before.patients
    assert [after.image_hash(case) for case in before.identifiers] == list(map(before.image_hash, before.identifiers))
    assert after.annotated(after.identifiers, "scribble") == after.splits["train"]
    for case in after.splits["train"]:
        np.testing.assert_array_equal(after.case(case).label, before.case(case).label)
        expected = draw_scribble(np.asarray(before.case(case).label), case, seed=3)
        np.testing.assert_array_equal(after.annotation(case, "scribble"), expected)
    with pytest.raises(SystemExit, match="2"):
        main(["scribble", str(before.folder)])
    assert main(["scribble", str(before.folder), str(tmp_path / "more"), "--share", "2"]) == 2
