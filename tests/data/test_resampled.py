import nibabel as nib
import numpy as np

from mamba_unet.data import Samples, prepare
from mamba_unet.data.resampled import CasesOnGrid
from mamba_unet.views.patches import Patches
from mamba_unet.views.slices import Slices


def test_cases_are_resampled_once_and_those_on_the_grid_not_at_all(nnunet, tmp_path):
    prepared = prepare(nnunet(), tmp_path / "data", progress=False)  # (3, 16, 12) of 9 x 1.4 x 1.5 mm
    view = Patches((4, 8, 8), (9.0, 0.7, 3.0))
    cases = CasesOnGrid(prepared, view)
    cases.write(["s0", "s1"])
    files = sorted((prepared.folder / "resampled" / "9x0.7x3mm_v2").iterdir())
    assert [file.name[:2] for file in files] == ["s0", "s0", "s1", "s1"]
    case, regrid = cases.case("s1"), view.grid((3, 16, 12), (9, 1.4, 1.5))
    assert cases.shape("s1") == case.label.shape == (3, 32, 6) and np.allclose(case.spacing_mm, (9, 0.7, 3))
    assert np.array_equal(case.image, regrid.image(prepared.case("s1").image))
    assert np.array_equal(case.label, regrid.label(prepared.case("s1").label))
    before = [file.stat().st_mtime_ns for file in files]
    cases.write(["s0", "s1"])
    assert [file.stat().st_mtime_ns for file in files] == before

    samples = Samples(cases, ["s0", "s1"], view, "nnunet")
    assert len(samples) == 2 and samples[1, 7]["image"].shape == (1, 4, 8, 8) and samples[1, 7]["name"] == "s1/0"
    same = CasesOnGrid(prepared, Patches((4, 8, 8), (9.0, 1.4, 1.5)))
    same.write(prepared.identifiers)
    assert not same.folder.exists() and same.case("s0").image.shape == (1, 3, 16, 12)

    prepare(tmp_path / "nnunet", tmp_path / "data", progress=False)
    assert all(file.is_file() for file in files)
    for file in (tmp_path / "nnunet").rglob("s*.nii.gz"):
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine * [[2], [2], [2], [1]]), file)
    again = prepare(tmp_path / "nnunet", tmp_path / "data", progress=False)
    assert again.fingerprint == prepared.fingerprint and again.identity != prepared.identity
    assert not (prepared.folder / "resampled").exists()  # of voxel sizes that are not these any more
    CasesOnGrid(again, view).write(["s0"])
    prepare(tmp_path / "nnunet", tmp_path / "data", progress=False, intensity="nnunet")
    assert not (prepared.folder / "resampled").exists()  # of images that are not these any more


def test_slices_are_resampled_within_and_their_number_stays(nnunet, tmp_path):
    prepared = prepare(nnunet(), tmp_path / "data", progress=False)
    view = Slices((16, 16), fit="crop", spacing_mm=(2.8, 3.0))
    cases = CasesOnGrid(prepared, view)
    cases.write(["s0"])
    assert cases.case("s0").image.shape == (1, 3, 8, 6) and len(Samples(cases, ["s0"], view, "none")) == 3
