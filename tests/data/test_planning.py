import json

import numpy as np
import pytest

from mamba_unet.cli import main
from mamba_unet.data import PreparedDataset, plan, prepare
from mamba_unet.data.planning import plan_volumes, read_plan


class Described:
    """What a plan asks of a data set: shapes and voxel sizes."""

    intensity, channel_names, channels = ({"method": "minmax"},), [], 1

    def __init__(self, *cases, spacings=None):
        self.cases = dict(enumerate(cases))
        self.spacings = dict(enumerate(spacings or [(8.0, 1.5, 1.5)] * len(cases)))
        self.splits, self.identifiers = {"train": list(self.cases)}, list(self.cases)

    def shape(self, name):
        return self.cases[name]

    def spacing_mm(self, name):
        return self.spacings[name]


def test_few_slices_far_apart_keep_the_smaller_distances_between_them():
    spacings = [(z, 1.5, 1.5) for z in (5.0, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10)]
    made = plan_volumes(Described(*[(10, 256, 216)] * 11, spacings=spacings))
    assert made.median_spacing_mm == (10, 1.5, 1.5) and made.spacing_mm == (10, 1.5, 1.5)
    spacings[1] = (5.0, 1.5, 1.5)
    assert plan_volumes(Described(*[(10, 256, 216)] * 11, spacings=spacings)).spacing_mm == (5, 1.5, 1.5)
    near = plan_volumes(Described(*[(100, 200, 200)] * 3, spacings=[(3.0, 1, 1), (2.0, 1, 1), (1.0, 1, 1)]))
    assert near.spacing_mm == (2, 1, 1)


@pytest.mark.parametrize("shape", [(10, 256, 216), (400, 512, 512), (30, 100, 120), (1000, 64, 64), (7, 20, 20)])
@pytest.mark.parametrize("spacing", [(8.0, 1.5, 1.5), (1.0, 0.8, 0.8), (1.0, 1.0, 1.0)])
def test_two_patches_fit_into_the_memory_and_show_as_much_as_they_can(shape, spacing):
    few, many = (plan_volumes(Described(*[shape] * 40, spacings=[spacing] * 40), gib) for gib in (8, 32))
    for made in (few, many):
        assert 2 <= made.batch_size and np.prod(made.size) * made.batch_size <= made.memory_gib * 2 * 128**3 / 8
        assert all(wanted < 2 * side + 8 for wanted, side in zip(made.size, made.grid_shape, strict=True))
    assert np.prod(many.size) >= np.prod(few.size)
    if np.prod(shape) > 8 * 128**3:
        assert np.prod(few.size) > 0.7 * 128**3


def test_acdc_and_abdominal_ct_are_planned_as_nnunet_users_expect():
    heart = plan_volumes(Described(*[(9, 256, 216)] * 140))
    assert heart.size[0] in range(9, 17) and heart.size[1:] == (256, 224) and heart.batch_size >= 2
    assert any("far apart" in note for note in heart.notes)
    body = plan_volumes(Described(*[(148, 512, 512)] * 18, spacings=[(3.0, 0.76, 0.76)] * 18))
    assert body.batch_size == 2 and 40 <= body.size[0] <= 64 and 160 <= body.size[1] == body.size[2] <= 224


def test_pictures_are_called_what_they_are():
    assert any("scratch_2d" in note for note in plan_volumes(Described((1, 64, 64), (1, 80, 64))).notes)
    assert not any("scratch_2d" in note for note in plan_volumes(Described((1, 64, 64), (2, 80, 64))).notes)


def test_a_spacing_that_no_file_tells_can_be_stated_and_is_never_guessed():
    unknown = Described((10, 256, 216), (8, 200, 200), spacings=[None, None])
    silent, stated = plan_volumes(unknown), plan_volumes(unknown, spacing_mm=(8, 1.5, 1.5))
    assert silent.spacing_mm is None and any("--spacing 8,1.5,1.5" in note for note in silent.notes)
    assert stated.spacing_mm == (8, 1.5, 1.5) and stated.grid_shape == (9, 228, 208)
    assert any("are taken to have the network's" in note for note in stated.notes)
    for wrong in ((1, 2), (0, 1, 1)):
        with pytest.raises(ValueError, match="spacing"):
            plan_volumes(unknown, spacing_mm=wrong)
    with pytest.raises(ValueError, match="memory"):
        plan_volumes(unknown, memory_gib=0)


def test_the_command_prints_the_plan_and_writes_it_beside_the_data(nnunet, tmp_path, capsys):
    prepared = prepare(nnunet(), tmp_path / "data", progress=False)
    assert read_plan(prepared) is None
    assert main(["plan", str(prepared.folder), "--memory", "2", "--spacing", "9,1.4,3"]) == 0
    printed, made = capsys.readouterr().out, read_plan(prepared)
    assert "9 x 1.4 x 3 mm" in printed and "view.spacing_mm" in printed and "each image's minimum" in printed
    assert made.spacing_mm == (9, 1.4, 3) and made.memory_gib == 2 and made == plan(prepared.folder, 2, (9, 1.4, 3))
    said = json.loads((prepared.folder / "plan.json").read_text())
    (prepared.folder / "plan.json").write_text(json.dumps({**said, "data": {**said["data"], "voxel_sizes": "other"}}))
    assert read_plan(prepared) is None  # of other voxel sizes
    (prepared.folder / "plan.json").write_text(json.dumps({**said, "data": {**said["data"], "training": ["s9"]}}))
    assert read_plan(prepared) is None  # of other training cases
    (prepared.folder / "plan.json").write_text(json.dumps({**said, "format": 9}))
    with pytest.raises(ValueError, match="of another version; run `mamba-unet plan"):
        read_plan(PreparedDataset(prepared.folder))
    with pytest.raises(SystemExit):
        main(["plan", str(prepared.folder), "--spacing", "9,1.4"])
