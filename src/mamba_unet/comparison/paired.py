"""Each network against the reference: paired tests over patients, and beside them the test over trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from mamba_unet.comparison.columns import Column
from mamba_unet.comparison.entry import Entry
from mamba_unet.evaluation.metrics import DISTANCE_METRICS
from mamba_unet.evaluation.significance import (
    BOOTSTRAP_SAMPLES,
    BOOTSTRAP_SEED,
    EXACT_UP_TO,
    MOST_ASSIGNMENTS,
    holm,
    paired_test,
    rank_sum,
)
from mamba_unet.tables import Table, number
from mamba_unet.words import counted

TRAININGS = ("better trainings", "p over trainings")


def matched(first: Entry, second: Entry) -> tuple[list[int], list[int]]:
    """The trainings by which two rows are compared over patients: equally many, of equal seeds where there are such.

    With more trainings a patient more often has one that missed a structure, which alone would make a difference.

    Returns:
        their places in the rows' `evaluations`.
    """
    common = [seed for seed in first.seeds if seed in second.seeds]
    if common:
        return [first.seeds.index(seed) for seed in common], [second.seeds.index(seed) for seed in common]
    places = list(range(min(len(first.evaluations), len(second.evaluations))))
    return places, places


def paired_tests(entries: Mapping[str, Entry], reference: str, metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One test per metric and network that is not the reference.

    Returns:
        network, metric, `trainings` of either that count over patients, what `paired_test` finds there, p_holm; in how
        many of the pairs of a training of the network and one of the reference the network's mean is the better and
        the worse one, and p of `rank_sum` over trainings.
    """
    tests = []
    for metric in metrics:
        higher = metric not in DISTANCE_METRICS
        for name, entry in entries.items():
            if name == reference:
                continue
            own, other = matched(entry, entries[reference])
            values, expected = entry.per_patient(metric, own), entries[reference].per_patient(metric, other)
            found = paired_test(
                [values[patient] for patient in expected], list(expected.values()), higher_is_better=higher
            )
            ours, theirs = entry.per_training(metric), entries[reference].per_training(metric)
            leads = [one - two if higher else two - one for one, two in product(ours, theirs)]
            trainings = {
                "trainings": len(own),
                "pairs_of_trainings": len(ours) * len(theirs),
                "better_pairs": sum(lead > 0 for lead in leads),
                "worse_pairs": sum(lead < 0 for lead in leads),
                "p_trainings": rank_sum(ours, theirs),
            }
            tests.append({"network": name, "metric": metric, **asdict(found), **trainings})
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = p
    return tests


def tests_table(tests: Sequence[Mapping[str, Any]], columns: Sequence[Column], reference: str) -> Table:
    """The tests, for people."""
    by_key = {column.key: column for column in columns}
    rows = []
    for test in tests:
        column = by_key[test["metric"]]
        interval = test["interval"] or ()
        rows.append(
            [
                test["network"],
                column.title,
                str(test["patients"]),
                str(test["ties"]),
                str(test["left_out"]),
                number(test["median_difference"], column.decimals, signed=True),
                " to ".join(number(x, column.decimals, signed=True) for x in interval) or "-",
                number(test["effect"], 2, signed=True),
                p_text(test["p"]),
                p_text(test["p_holm"]),
                f"{test['better_pairs']} of {differing}" if (differing := _differing(test)) else "-",
                p_text(test["p_trainings"]),
            ]
        )
    titles = [f"against {reference}", "metric", "patients", "ties", "left out", "median difference"]
    return Table([*titles, "95 % interval", "rank-biserial r", "p", "p (Holm)", *TRAININGS], rows, left=(0, 1))


def _differing(test: Mapping[str, Any]) -> int:
    """Pairs of trainings with different means, none of them undefined."""
    return test["better_pairs"] + test["worse_pairs"]


def tests_notes(tests: Sequence[Mapping[str, Any]], reference: str, one_training: Sequence[str]) -> list[str]:
    """What belongs under the table of tests."""
    count = sum(test["p"] is not None for test in tests)
    most = max((test["patients"] - test["ties"] for test in tests), default=0)
    smallest = min(1.0, 2.0 ** (1 - most))
    exact = all(test["exact"] for test in tests)
    how = "exact" if exact else f"exact up to {EXACT_UP_TO} patients, beyond that by the normal approximation"
    lines = [
        f"Each network minus {reference}, one value per patient: the mean over the patient's classes, cases and "
        f"trainings. Wilcoxon's signed-rank test, two-sided, {how}; patients without a difference (ties) do not "
        "enter it.",
        f"p (Holm) is corrected for the {counted(count, 'test')} of this table.",
        "The median is over all patients compared, its interval the percentile bootstrap over patients "
        f"({BOOTSTRAP_SAMPLES:,} samples, seed {BOOTSTRAP_SEED}). r is the matched-pairs rank-biserial correlation: +1 "
        "better in every patient, -1 worse in every patient.",
        "A patient's distance is infinite if one of its structures was missed or invented in any training; it then "
        "has the largest rank. Left out: patients with an undefined value, or infinite for both networks.",
        "p and p (Holm) take patients as the sample: a small p says that more patients like these would show the "
        "difference between these very trainings; a large p does not say that the networks are equally good.",
        "Better trainings: of the pairs of a training of the network and one of the reference, those in which the "
        "network's mean over patients is the better one; pairs of equal means are not among them, and a mean distance "
        "is infinite if one patient's is. p over trainings takes trainings as the sample: the rank-sum "
        f"test of their means, exact up to {MOST_ASSIGNMENTS:,} assignments, not corrected; with three trainings each "
        "it cannot be below 0.1. Where it is large, other seeds may reverse the difference.",
    ]
    unequal = {t["network"]: t["trainings"] for t in tests if t["trainings"] ** 2 < t["pairs_of_trainings"]}
    if unequal:
        lines.append(
            "Over patients either side counts with equally many trainings, of the same seeds where there are such: "
            f"{', '.join(f'{name} with {count}' for name, count in unequal.items())}."
        )
    if most == 0:
        lines.append("No patient differs: too few to find anything.")
    elif count * smallest > 0.05:
        lines.append(
            f"With {counted(most, 'patient')} no p below {smallest:.2g} is possible, and none below "
            f"{min(1.0, count * smallest):.2g} after the correction: too few to find anything at the 5 % level."
        )
    if one_training:
        names = ", ".join(one_training)
        lines.append(f"One training of {names}: how much it varies from seed to seed is not known here.")
    return lines


def p_text(p: float | None) -> str:
    """A p of a test as tables show it."""
    return "<0.001" if p is not None and p < 0.001 else number(p, 3)
