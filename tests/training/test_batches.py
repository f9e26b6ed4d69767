import numpy as np
import pytest

from mamba_unet.training.batches import StepSampler, TrainingData
from mamba_unet.views.slices import Slices


def test_every_pass_takes_each_slice_once_in_an_order_of_its_own():
    batches = list(StepSampler(size=10, batch_size=5, iterations=4, seed=0))
    first, second = batches[0] + batches[1], batches[2] + batches[3]
    assert sorted(i for i, _ in first) == sorted(i for i, _ in second) == list(range(10))
    assert [i for i, _ in first] != [i for i, _ in second]


def test_a_sampler_that_starts_later_goes_on_exactly_where_the_first_would_be():
    whole, resumed = (StepSampler(size=7, batch_size=3, iterations=9, seed=1) for _ in range(2))
    resumed.first_step = 4
    assert list(resumed) == list(whole)[4:]


def test_no_two_draws_share_an_augmentation_seed():
    seeds = [seed for batch in StepSampler(5, 4, 20, seed=0) for _, seed in batch]
    assert len(set(seeds)) == len(seeds) == 80
    assert np.random.default_rng(seeds[0]).random() != np.random.default_rng(seeds[1]).random()


def test_processes_share_each_batch_of_the_single_process():
    one = list(StepSampler(9, 4, 6, seed=3))
    parts = [list(StepSampler(9, 4, 6, seed=3, rank=rank, world_size=2)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*parts, strict=True)] == [sorted(batch) for batch in one]


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    with pytest.raises(ValueError, match="batch_size 5 is not a multiple of the 2 processes"):
        StepSampler(9, 5, 6, seed=3, world_size=2)


def test_images_without_labels_are_drawn_in_an_order_of_their_own(phantom, monkeypatch):
    data, seeds = TrainingData(phantom, Slices((16, 16)), seed=7, workers=0, labelled=2), {}

    def record(size, batch_size, iterations, seed, rank, world_size):
        seeds[batch_size] = seed
        return StepSampler(size, batch_size, iterations, seed, rank, world_size)

    monkeypatch.setattr("mamba_unet.training.batches.StepSampler", record)
    next(iter(data.batches({"labelled": 2, "unlabelled": 1}, 0, 1, 0, 1, False)))
    assert seeds[2] == 7 != seeds[1]
