"""Comparisons of two networks: paired over the same patients (Wilcoxon's signed-rank test, its effect size), unpaired
over their trainings (rank sums), and Holm's correction for several tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from mamba_unet.evaluation.summary import BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED, INTERVAL_PERCENTILES

EXACT_UP_TO = 200  # differences; the exact distribution takes time that grows with the third power of their number
MOST_ASSIGNMENTS = 20_000  # of values to two groups that are enumerated
DECIMALS = 12  # differences closer than this are ties: sums of the same numbers in another order differ by less


@dataclass(frozen=True)
class PairedTest:
    """One network against the reference, over patients.

    Attributes:
        patients: compared.
        ties: of those, without a difference; they count in the median, not in the test.
        left_out: patients not compared: a value is undefined, or both are infinite.
        median_difference: of network - reference; None without patients.
        interval: 95 % percentile bootstrap of it over patients; None with fewer than two.
        effect: matched-pairs rank-biserial correlation, from -1 to 1, positive where the network is the better one;
            None where there are only ties.
        p: two-sided; 1 where there are only ties, None without patients.
        exact: whether p counts every assignment of signs; the normal approximation beyond `EXACT_UP_TO` differences.
    """

    patients: int
    ties: int
    left_out: int
    median_difference: float | None
    interval: tuple[float, float] | None
    effect: float | None
    p: float | None
    exact: bool


def paired_test(network: Sequence[float], reference: Sequence[float], *, higher_is_better: bool) -> PairedTest:
    """Compare two networks by one value per patient.

    Args:
        network, reference: values of the same patients in the same order; NaN is undefined. An infinite one is worse
            or better than every finite one, so it takes part with the largest rank.
        higher_is_better: Dice, not a distance.
    """
    with np.errstate(invalid="ignore"):  # inf - inf
        differences = np.asarray(network, float) - np.asarray(reference, float)
    compared = differences[~np.isnan(differences)].round(DECIMALS)
    ranks, positive = signed_ranks(compared)
    effect = None
    if ranks.size:
        effect = float((ranks[positive].sum() - ranks[~positive].sum()) / ranks.sum()) * (1 if higher_is_better else -1)
    interval = None
    if compared.size > 1:
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        drawn = rng.choice(compared, size=(BOOTSTRAP_SAMPLES, compared.size))
        low, high = np.percentile(_median(drawn), INTERVAL_PERCENTILES, method="inverted_cdf")  # no sums of infinities
        interval = float(low), float(high)
    return PairedTest(
        patients=compared.size,
        ties=int((compared == 0).sum()),
        left_out=differences.size - compared.size,
        median_difference=float(_median(compared)) if compared.size else None,
        interval=interval,
        effect=effect,
        p=wilcoxon(compared) if compared.size else None,
        exact=ranks.size <= EXACT_UP_TO,
    )


def _median(values: np.ndarray) -> np.ndarray:
    """Over the last axis; 0 half-way between minus and plus infinity."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.median(values, axis=-1), nan=0.0, posinf=np.inf, neginf=-np.inf)


def signed_ranks(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the absolute differences that are not 0, ties sharing their mean rank, and which are positive."""
    from scipy.stats import rankdata

    differences = differences[differences != 0]
    return rankdata(np.abs(differences)), differences > 0


def wilcoxon(differences: np.ndarray) -> float:
    """Two-sided p value of Wilcoxon's signed-rank test, with ties.

    Differences of 0 are left out, as Wilcoxon did. Under the null hypothesis the sign of every difference is a toss of
    a coin. Up to `EXACT_UP_TO` differences the distribution of the sum of the positive ranks is built up rank by rank,
    in halves of a rank, so that the mean ranks of ties are whole numbers. Beyond that the sum is taken as normal with
    the same mean and variance, as `scipy.stats.wilcoxon(method="asymptotic")` does.

    Source: F. Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1 (1945).
    """
    ranks, positive = signed_ranks(np.asarray(differences, float))
    if ranks.size > EXACT_UP_TO:
        from scipy.stats import norm

        deviation = ranks[positive].sum() - ranks.sum() / 2
        return float(2 * norm.sf(abs(deviation) / np.sqrt((ranks**2).sum() / 4)))
    doubled = np.rint(2 * ranks).astype(int)
    probability = np.zeros(doubled.sum() + 1)
    probability[0] = 1
    for rank in doubled:
        probability[rank:] = (probability[rank:] + probability[: probability.size - rank]) / 2
        probability[:rank] /= 2
    observed = doubled[positive].sum()
    return float(min(1.0, 2 * min(probability[: observed + 1].sum(), probability[observed:].sum())))


def rank_sum(network: Sequence[float], reference: Sequence[float]) -> float | None:
    """Two-sided p value of the Wilcoxon-Mann-Whitney test: do the trainings of two networks differ?

    Every assignment of the values to the two groups is counted, ties sharing their mean rank; where there are too many
    assignments, the normal approximation is taken. Three values against three cannot give less than 0.1.

    Args:
        network, reference: one value per training, not paired; infinite ones are the largest.

    Returns:
        None with fewer than two defined values on either side.

    Source: H. B. Mann and D. R. Whitney, On a test of whether one of two random variables is stochastically larger than
    the other, Annals of Mathematical Statistics 18 (1947).
    """
    from scipy.stats import mannwhitneyu, rankdata

    groups = [values[~np.isnan(values)].round(DECIMALS) for values in (np.array(network), np.array(reference))]
    size, total = len(groups[0]), sum(map(len, groups))
    if min(map(len, groups)) < 2:
        return None
    if comb(total, size) > MOST_ASSIGNMENTS:
        return float(mannwhitneyu(*groups, method="asymptotic").pvalue)
    ranks = rankdata(np.concatenate(groups))
    sums = np.array([ranks[list(chosen)].sum() for chosen in combinations(range(total), size)])
    deviations = np.abs(sums - size * (total + 1) / 2)  # the first assignment is the observed one
    return float((deviations >= deviations[0]).mean())


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number by Holm's step-down rule; None, a test that was not made, does not count.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6
    (1979).
    """
    order = sorted((i for i, p in enumerate(p_values) if p is not None), key=lambda i: p_values[i])
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for position, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - position) * p_values[i]))
        corrected[i] = largest
    return corrected
