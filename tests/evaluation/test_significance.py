"""Paired tests: numbers that a person can compute."""

import numpy as np
import pytest
from scipy import stats

from mamba_unet.evaluation.significance import EXACT_UP_TO, holm, paired_test, rank_sum, wilcoxon

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5], 2 / 32),  # all signs alike: one of 2^5 on either side
        ([-1, -2, -3, -4, -5], 2 / 32),
        ([1, -2, 3], 6 / 8),  # positive ranks 1 + 3; of the sums 0 1 2 3 3 4 5 6 three are at least 4
        ([1, 1, -1], 1.0),  # three ranks of 2
        ([1, 1, 1, 1], 2 / 16),
        ([0, 0, 1, 2, 3, 4, 5], 2 / 32),  # zeros do not enter
        ([0, 0], 1.0),
        ([INF, INF, 1], 2 / 8),
        ([-1, -1, 2, 3], 10 / 16),  # ranks 1.5 1.5 3 4: 3 + 4 is as much as 1.5 + 1.5 + 4
        ([-1, -1, -2, 3], 12 / 16),  # at most 4: 0, 1.5 twice, 3 twice and 4
    ],
)
def test_p_is_counted_over_all_signs(differences, p):
    assert wilcoxon(np.array(differences)) == p


@pytest.mark.parametrize("patients", [6, 20, 49])
def test_p_agrees_with_scipys_exact_one(patients):
    differences = np.random.default_rng(patients).normal(0.3, 1, patients)
    assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, rel=1e-12)


def test_p_agrees_with_scipys_permutations_where_ranks_are_tied():
    differences = np.array([-1.0, 0.9, 0.9, 1.6, -0.5, 2.0, 1.9, -0.1, -0.4, 0.5, 1.3])
    every_sign = stats.PermutationMethod(n_resamples=2**11)
    assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences, method=every_sign).pvalue, rel=1e-12)


def test_many_patients_are_tested_by_the_normal_approximation_with_ties():
    rng = np.random.default_rng(0)
    for differences in (rng.normal(0.05, 1, 2000), rng.integers(-5, 7, 2000).astype(float)):
        expected = stats.wilcoxon(differences, zero_method="wilcox", correction=False, method="approx").pvalue
        assert wilcoxon(differences) == pytest.approx(expected, rel=1e-9)
        assert wilcoxon(-differences) == pytest.approx(expected, rel=1e-9)
        assert not paired_test(differences, np.zeros(2000), higher_is_better=True).exact
    for patients, exact in ((2, True), (200, True), (201, False)):
        assert paired_test(np.arange(patients) + 1.0, np.zeros(patients), higher_is_better=True).exact == exact


def test_both_forms_agree_where_one_takes_over_from_the_other(monkeypatch):
    differences = np.random.default_rng(1).normal(0.1, 1, EXACT_UP_TO)
    exact = wilcoxon(differences)
    monkeypatch.setattr("mamba_unet.evaluation.significance.EXACT_UP_TO", EXACT_UP_TO - 1)
    assert 0 < abs(wilcoxon(differences) - exact) < 0.002


@pytest.mark.parametrize(
    ("network", "reference", "p"),
    [
        ([4, 5, 6], [1, 2, 3], 2 / 20),  # the two extremes of 20 assignments
        ([1, 2, 3], [4, 5, 6], 2 / 20),
        ([3, 5, 6], [1, 2, 4], 4 / 20),  # one pair of nine the other way
        ([1, 2], [1, 2], 1.0),
        ([INF, 3], [1, 2], 2 / 6),
        ([3, 4, 5], [1, 2], 2 / 10),
        ([NAN, 4, 5, 6], [1, 2, 3], 2 / 20),
        ([1, NAN], [1, 2], None),
        ([1], [2, 3], None),
    ],
)
def test_p_over_trainings_counts_every_assignment(network, reference, p):
    assert rank_sum(network, reference) == p


def test_p_over_trainings_agrees_with_scipy():
    rng = np.random.default_rng(0)
    few, many = (rng.normal(0, 1, (2, size)) for size in (5, 40))
    assert rank_sum(*few) == pytest.approx(stats.mannwhitneyu(*few, method="exact").pvalue)
    assert rank_sum(*many) == pytest.approx(stats.mannwhitneyu(*many, method="asymptotic").pvalue)


def test_the_effect_is_positive_where_the_network_is_better():
    better = paired_test([0.9, 0.8, 0.7], [0.8, 0.6, 0.4], higher_is_better=True)
    assert (better.effect, better.p, better.patients, better.ties) == (1, 0.25, 3, 0)
    assert better.median_difference == pytest.approx(0.2)
    worse = paired_test([5, 6, 7], [4, 4, 4], higher_is_better=False)
    assert (worse.effect, worse.median_difference) == (-1, 2)
    mixed = paired_test([2, 2, 7], [1, 4, 4], higher_is_better=True)  # +1, -2, +3: (4 - 2) / 6
    assert mixed.effect == pytest.approx(1 / 3)


def test_ties_and_what_is_left_out_are_counted():
    test = paired_test([1, 2, INF, INF, NAN, 5], [1, 1, 1, INF, 2, NAN], higher_is_better=False)
    assert (test.patients, test.ties, test.left_out) == (3, 1, 3)
    assert test.median_difference == 1 and test.effect == -1 and test.p == 0.5
    assert test.interval == (0, INF)


def test_one_patient_has_no_interval_and_opposite_infinities_have_their_middle():
    assert paired_test([1.0], [0.5], higher_is_better=True).interval is None
    assert paired_test([1.0, 1.0], [0.5, 0.25], higher_is_better=True).interval == (0.5, 0.75)
    assert paired_test([INF, 1], [1, INF], higher_is_better=False).median_difference == 0
    assert paired_test([1, 1, 1], [INF] * 3, higher_is_better=False).median_difference == -INF


def test_differences_that_only_rounding_makes_are_ties():
    assert paired_test([0.1 + 0.2], [0.3], higher_is_better=True).ties == 1


def test_nothing_to_compare_gives_no_numbers():
    test = paired_test([NAN], [1.0], higher_is_better=True)
    assert (test.patients, test.left_out) == (0, 1)
    assert test.p is test.effect is test.median_difference is test.interval is None
    assert paired_test([1.0], [1.0], higher_is_better=True).p == 1


def test_the_interval_holds_the_median_and_shrinks_with_patients():
    rng = np.random.default_rng(0)
    widths = []
    for patients in (10, 200):
        values = rng.normal(1, 1, patients)
        test = paired_test(values, np.zeros(patients), higher_is_better=True)
        assert test.interval[0] <= test.median_difference <= test.interval[1]
        widths.append(test.interval[1] - test.interval[0])
    assert widths[1] < widths[0] / 2


def test_the_interval_is_the_middle_95_percent():
    """The median of draws from 0, 1, ..., 1000: at most k of 1001 drawn below it, a binomial probability."""
    count = 1001  # 2.5 and 3.75 % are three values apart
    low, high = paired_test(np.arange(float(count)), np.zeros(count), higher_is_better=True).interval
    at_most = stats.binom(count, np.arange(1, count + 1) / count).sf(count // 2)  # P(median <= value)
    assert low == pytest.approx(np.searchsorted(at_most, 0.025), abs=1.5)
    assert high == pytest.approx(np.searchsorted(at_most, 0.975), abs=1.5)


def test_holm_multiplies_step_by_step_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == holm([0.8, 0.9]) == [1, 1]
    assert holm([]) == []


def test_holm_does_not_count_a_test_that_was_not_made():
    assert holm([None, 0.02, 0.01]) == [None, 0.02, 0.02]
