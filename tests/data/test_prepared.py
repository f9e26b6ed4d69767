import pickle

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
    with pytest.raises(ValueError, match="not there"):
        PreparedDataset(tmp_path / "nowhere")
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
