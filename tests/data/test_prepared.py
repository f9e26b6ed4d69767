import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from mamba_unet.data import PreparedDataset, Samples, prepare
from mamba_unet.views.slices import Slices


@pytest.fixture
def prepared(nnunet, tmp_path):
    return prepare(nnunet(), tmp_path / "out", progress=False)


def test_case_is_memory_mapped_and_read_only(prepared, make):
    case = prepared.case("s2")
    assert isinstance(case.image, np.memmap) and isinstance(case.label, np.memmap)
    assert case.image.dtype == np.float32 and case.label.dtype == np.uint8
    assert np.array_equal(case.image[0], make.minmax(make.subject(2).image))
    assert np.array_equal(case.label, make.subject(2).label)
    assert np.allclose(case.affine, make.affine)
    assert (case.identifier, case.patient, case.source.name) == ("s2", "s2", "s2_0000.nii.gz")
    with pytest.raises(ValueError, match="read-only"):
        case.image[0] = 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
def test_an_array_that_does_not_fit_on_the_disk_is_an_error_wherever_the_disk_ends(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from mamba_unet.data.stored import load_array, save_array

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file, array = Path(sys.argv[1]), np.arange(999, dtype=np.float32).reshape(27, 37)
save_array(file, array)
assert np.array_equal(load_array(file, (27, 37), np.float32), array)
whole = file.stat().st_size
for limit in (0, 100, 128, 2000, whole - 500, whole - 1):
    file.unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save_array(file, array)
    except OSError as error:
        assert not file.exists() and file.name in str(error), error
    else:
        raise SystemExit(f"{limit} of {whole} bytes, and nobody said it")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.npy")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_description(prepared):
    assert prepared.num_classes == 4 and prepared.orientation == "SPL" and prepared.intensity == ({"method": "minmax"},)
    assert prepared.patients == {f"s{k}": [f"s{k}"] for k in range(5)}
    assert prepared.shape("s0") == (3, 16, 12)
    assert len(prepared.fingerprint) == 64


def test_unknown_case_and_split_are_named(prepared):
    with pytest.raises(ValueError, match="no case 'x'"):
        prepared.case("x")
    with pytest.raises(ValueError, match="no split 'tset'; expected one of train, val, test"):
        prepared.split("tset")


def test_not_prepared_unfinished_and_of_another_format(tmp_path, prepared):
    for folder, message in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "dataset.json is not there")):
        with pytest.raises(ValueError, match=message):
            PreparedDataset(folder)
    described = prepared.folder / "dataset.json"
    text = described.read_text()
    described.write_text(text.replace('"format": 2', '"format": 0'))
    with pytest.raises(ValueError, match="format 0, this version reads 2"):
        PreparedDataset(prepared.folder)
    described.unlink()
    with pytest.raises(ValueError, match="unfinished"):
        PreparedDataset(prepared.folder)


def test_items_are_the_slices_in_order(prepared, make):
    slices = Samples(prepared, ["s3", "s1"], Slices((16, 12)), augment="none")
    assert len(slices) == 6
    assert [slices[index, 0]["name"] for index in range(6)] == ["s3/0", "s3/1", "s3/2", "s1/0", "s1/1", "s1/2"]
    item = slices[4, 0]
    assert item["image"].shape == (1, 16, 12) and item["image"].dtype == torch.float32
    assert item["label"].shape == (16, 12) and item["label"].dtype == torch.int64
    assert np.array_equal(item["image"][0], make.minmax(make.subject(1).image)[1])
    assert np.array_equal(item["label"], make.subject(1).label[1])
    with pytest.raises(IndexError):
        slices[6, 0]
    assert len(Samples(prepared, [], Slices((16, 12)), augment="paper")) == 0


def test_seed_alone_decides_the_augmentation(prepared):
    slices = Samples(prepared, ["s0"], Slices((20, 20)), augment="paper")
    again = pickle.loads(pickle.dumps(slices))
    for seed in range(8):
        a, b = slices[1, seed], again[1, seed]
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["label"], b["label"])
    assert len({slices[1, (0, seed)]["image"].numpy().tobytes() for seed in range(30)}) > 5


def test_workers_of_a_loader_give_the_same_items(prepared):
    slices = Samples(prepared, prepared.identifiers, Slices((20, 20)), augment="paper")
    draws = [(index, (7, index)) for index in range(len(slices))]
    loader = torch.utils.data.DataLoader(slices, batch_sampler=[draws[:8], draws[8:]], num_workers=1)
    batches = list(loader)
    assert batches[0]["image"].shape == (8, 1, 20, 20) and batches[1]["name"][0] == slices[8, 0]["name"]
    assert torch.equal(batches[1]["label"][2], slices[draws[10]]["label"])
