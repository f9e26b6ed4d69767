"""Which training patients are learned from with their labels, and which images without."""

from collections.abc import Sequence

from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.splits import UNLABELLED, shuffled, split_name
from mamba_unet.words import counted, some


def learned_from(labelled: int, unlabelled: int, annotation: str, marked: float) -> str:
    """As "7 patients and 63 without labels", "70 patients' scribbles (1.1 %)".

    Args:
        labelled, unlabelled: how many patients.
        annotation: "label" or "scribble".
        marked: share of the voxels of the labelled ones that have a label.
    """
    text = counted(labelled, "patient")
    if annotation == "scribble":
        text += f"{chr(39) if labelled != 1 else chr(39) + 's'} scribbles ({100 * marked:.2g} %)"
    elif marked < 1:
        text += f", {100 * marked:.2g} % of the pixels labelled"
    return text + (f" and {unlabelled} without labels" if unlabelled else "")


def choose_labelled(
    prepared: PreparedDataset, fold: int | None, labelled: int | Sequence[str] | None, annotation: str, seed: int
) -> tuple[list[str], list[str]]:
    """The training cases that are used with their labels, and the cases that are used without.

    A patient counts as a whole. Without labels are: the other training patients, those of `labelled` whose cases have
    none, and the images that the data set has without labels, but for those of patients whom another split of the fold
    holds: images of a patient to be tested are not learned from.

    Args:
        prepared: the data.
        fold: whose training split; None for the split itself.
        labelled: a number of patients, drawn by `seed` so that fewer are a part of more; or their names; None for all.
        annotation: "label" or "scribble".
        seed: of the drawing.

    Raises:
        ValueError: no case has such an annotation, there are fewer patients, or names that are no training patients.
    """
    split = split_name("train", fold)
    held_out = _held_out(prepared, fold)
    images = {prepared.image_hash(case) for case in held_out}  # the same image may be there under another name
    without = prepared.splits.get(UNLABELLED, ())
    patients_held = {prepared.patient(case) for case in held_out}
    patients_held |= {prepared.patient(case) for case in without if prepared.image_hash(case) in images}
    training = [*prepared.splits[split], *(case for case in without if prepared.patient(case) not in patients_held)]
    annotated = prepared.annotated(training, annotation)
    if not annotated:
        raise ValueError(
            f"{prepared.folder} has no {annotation}s in the split {split!r}; prepare data that has some (a "
            "folder scribbles/, in nnU-Net's layout scribblesTr/; docs/few_labels.md), or train with annotation: label"
        )
    patients = sorted({prepared.patient(case) for case in annotated})
    chosen = patients if labelled is None else _chosen(prepared, patients, labelled, annotation, seed, split)
    with_labels = [case for case in annotated if prepared.patient(case) in chosen]
    return with_labels, [case for case in training if case not in set(with_labels)]


def _chosen(
    prepared: PreparedDataset,
    patients: Sequence[str],
    labelled: int | Sequence[str],
    annotation: str,
    seed: int,
    split: str,
) -> set[str]:
    if isinstance(labelled, int):
        if labelled > len(patients):
            raise ValueError(
                f"labelled is {labelled}, but {prepared.folder} has {len(patients)} patients with {annotation}s in "
                f"the split {split!r}; it counts patients, not images"
            )
        return set(shuffled(patients, seed)[:labelled])
    if unknown := sorted(set(labelled) - set(patients)):
        raise ValueError(
            f"labelled names {some(unknown)}, expected patients with {annotation}s in the split {split!r} of "
            f"{prepared.folder}: {some(patients)}; --labelled N draws N of them"
        )
    return set(labelled)


def _held_out(prepared: PreparedDataset, fold: int | None) -> set[str]:
    """Cases of the fold's splits other than the training split."""
    prefix = split_name("", fold)
    kept = {split_name("train", fold), UNLABELLED}
    return {
        case
        for name, cases in prepared.splits.items()
        if name not in kept and name.startswith(prefix) and "/" not in name.removeprefix(prefix)
        for case in cases
    }
