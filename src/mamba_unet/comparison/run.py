"""From recipes and predictions to a comparison: train what is missing, measure all by one function."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mamba_unet.cluster import Cluster
from mamba_unet.cluster.train import train_on
from mamba_unet.comparison.entry import Entry
from mamba_unet.comparison.output import write_comparison
from mamba_unet.comparison.result import Comparison
from mamba_unet.data.case import Case
from mamba_unet.data.local_copy import local_copy
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.splits import split_name
from mamba_unet.drawing.figures import read_curves
from mamba_unet.evaluation.metrics import DEFAULT_CONVENTIONS, Conventions
from mamba_unet.evaluation.predictions import evaluate_predictions, find_predictions, picture_values, read_prediction
from mamba_unet.evaluation.summary import MADE_BY, Evaluation
from mamba_unet.files import read_record, sha256
from mamba_unet.inference.evaluate import data_of, evaluate_checkpoint, evaluation_folder, made_by
from mamba_unet.models.checkpoint import CheckpointError, find_checkpoint, read_metadata
from mamba_unet.models.loading import load_checkpoint
from mamba_unet.runs import RunFolder
from mamba_unet.training.progress import Progress
from mamba_unet.training.recipe import Recipe, RecipeError
from mamba_unet.training.train import check_resumable, train, with_plan

log = logging.getLogger(__name__)


class WholeProgress(Progress):
    """One bar over all the trainings of a comparison, with the time that is left for all; few lines in a log file."""

    def __init__(self, runs: Sequence[Recipe]) -> None:
        every = 0.1 if sys.stderr.isatty() else 60
        self.bar = tqdm(total=sum(run.iterations for run in runs), unit="it", mininterval=every, dynamic_ncols=True)

    def start(self, step: int, iterations: int, seconds: float | None = None) -> None:
        self.bar.update(step)  # the iterations that a resumed run has done before
        self.left = iterations - step

    def step(self, step: int, loss: float) -> None:
        self.bar.update()
        self.left -= 1

    def close(self) -> None:
        self.bar.total -= self.left  # of a training that ended by its minutes

    def validated(self, step: int, dice: float, best: float) -> None:
        self.bar.set_postfix_str(f"validation Dice {dice:.3f}")


def compare(
    recipes: Mapping[str, Recipe],
    data: str | Path,
    out: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    folds: int | None = None,
    external: Sequence[tuple[str, str | Path]] = (),
    reference: str | None = None,
    conventions: Conventions = DEFAULT_CONVENTIONS,
    device: str = "auto",
    progress: bool = False,
    only_finished: bool = False,
    part: tuple[int, int] = (1, 1),
    cache_dir: str | Path | None = None,
    cluster: Cluster | None = None,
) -> Comparison | None:
    """Train what has not been trained, measure everything on the test cases and write `out` (see `output`).

    A complete run is left as it is, an incomplete one is continued. Every network is trained by the first seed, then
    every one by the second. Runs may also have been trained by
    `mamba-unet train` into the same folders, on several machines for example. Of a run that is complete and measured
    the weights and predictions may be gone: what was measured counts, and figures of single cases leave the row out.

    Args:
        recipes: name -> recipe; its data, out, seed and fold are set here.
        data: folder that `mamba-unet prepare` wrote.
        out: folder to write.
        seeds: one training of each network by each.
        folds: train on each fold of the data, which must have so many, and pool the test cases; None uses the split.
        external: (name, folder of predictions), as `evaluate_predictions` takes it; several of one name count as
            several trainings.
        reference: name that the others are tested against; None is the first.
        conventions: which HD95 and ASD, see docs/metrics.md.
        device: to predict on; recipes say where to train.
        progress: show bars.
        only_finished: train nothing, and leave out what is not complete; the tables say what that is.
        part: (K, N) trains and measures every N-th training from the K-th on, writes no tables and returns None. Once
            all parts are done, a call without it writes them. Parts may run at the same time.
        cache_dir: as `train` takes it.
        cluster: train and measure there; None does so in this process.

    Raises:
        ValueError: before anything is trained: names that clash or are unknown, no such folds, predictions that are
            missing, a folder that holds a run of another recipe, other data or another split, or one without weights
            that was not measured on these data; with `only_finished`, nothing is complete.
    """
    prepared, out = PreparedDataset(data if cache_dir is None else local_copy(data, cache_dir)), Path(out)
    recipes = {name: with_plan(recipe, prepared) for name, recipe in recipes.items()}
    names = [*recipes, *dict.fromkeys(name for name, _ in external)]
    if not names:
        raise ValueError("nothing to compare: give recipes, external predictions, or both")
    if wrong := [name for name in names if name in ("", ".", "..") or {*name} & {"/", "\\", "\0"}]:
        raise ValueError(f"{wrong[0]!r} names a network, and is to be the name of a folder too; leave / and \\ out")
    if clash := {name for name, _ in external} & set(recipes):
        raise ValueError(f"{', '.join(sorted(clash))} is the name of a recipe and of external predictions; rename one")
    if reference is not None and reference not in names:
        raise ValueError(f"the reference {reference!r} is not among {', '.join(names)}")
    if isinstance(seeds, str) or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds must be given and differ, got {', '.join(map(str, seeds)) or 'none'}")
    if not 1 <= part[0] <= part[1]:
        raise ValueError(f"part {part[0]}/{part[1]}: expected K/N with K from 1 to N")
    splits = _test_splits(prepared, folds)
    tested = [identifier for split in splits for identifier in prepared.split(split)]
    for _, folder in external:
        find_predictions(folder, tested)
    plan = {
        name: _plan(name, replace(recipe, data=str(Path(data))), out, seeds, folds) for name, recipe in recipes.items()
    }
    for run in (run for runs in plan.values() for run in runs):
        check_resumable(RunFolder(run.out), run, prepared)
    for name, recipe in recipes.items():
        _refuse_pretrained_leak(name, recipe, prepared, tested)

    def measured(run: Recipe) -> Evaluation | None:
        return _read_evaluation(run.out, prepared, split_name("test", run.fold), conventions)

    def is_done(run: Recipe) -> bool:
        return RunFolder(run.out).is_complete and (cluster is None or measured(run) is not None)

    ours = [(name, run) for name, runs in plan.items() for run in runs]
    for _, run in ours:
        if RunFolder(run.out).is_complete and not RunFolder(run.out).best.is_file() and measured(run) is None:
            raise ValueError(
                f"{run.out} has no weights, and was not measured on these data with these conventions; put its "
                "best.safetensors there, or remove the folder to train again"
            )
    ours.sort(key=lambda one: seeds.index(one[1].seed))  # what is finished can be compared at any time
    ours = ours[part[0] - 1 :: part[1]]
    waiting = [(name, run) for name, run in ours if not is_done(run)]
    if waiting and not only_finished and cluster is not None:
        train_on(cluster, [run for _, run in waiting], out, conventions, device, cache_dir)
    elif waiting and not only_finished:
        whole = WholeProgress([run for _, run in waiting])
        with whole.bar, logging_redirect_tqdm([logging.getLogger("mamba_unet")]):
            for number, (name, run) in enumerate(waiting, start=1):
                fold = "" if run.fold is None else f", fold {run.fold}"
                whole.bar.set_description(f"training {number} of {len(waiting)}: {name}, seed {run.seed}{fold}")
                train(run, resume=True, cache_dir=cache_dir, progress=whole)

    def measure(run: Recipe) -> Evaluation:
        how = {"conventions": conventions, "device": device, "progress": progress}
        return measured(run) or evaluate_checkpoint(run.out, prepared, split_name("test", run.fold), **how)

    if part != (1, 1):
        for _, run in ours:
            if RunFolder(run.out).is_complete:
                measure(run)
        return None

    entries, unfinished = {}, []
    for name, runs in plan.items():
        by_seed = {seed: [run for run in runs if run.seed == seed] for seed in seeds}
        missing = [
            seed for seed, theirs in by_seed.items() if not all(RunFolder(run.out).is_complete for run in theirs)
        ]
        by_seed = {seed: theirs for seed, theirs in by_seed.items() if seed not in missing}
        unfinished += [f"{name} seed {seed}" for seed in missing]
        if not by_seed:
            continue
        runs = [run for theirs in by_seed.values() for run in theirs]
        entries[name] = Entry(
            name=name,
            evaluations=[Evaluation.merge([measure(run) for run in theirs]) for theirs in by_seed.values()],
            labels=_stored_labels(next(iter(by_seed.values())), prepared),
            recipe=recipes[name],
            runs=[_describe(run, out) for run in runs],
            parameters=_parameters(runs[0].out),
            curves=list(filter(None, (read_curves(RunFolder(run.out).metrics).get("val/dice") for run in runs))),
        )
    for name in names[len(recipes) :]:
        folders = [folder for other, folder in external if other == name]
        evaluations = []
        for number, folder in enumerate(folders):
            how = {"conventions": conventions, "progress": progress}
            evaluation = Evaluation.merge([evaluate_predictions(folder, prepared, split, **how) for split in splits])
            evaluation.write(out / "external" / name / str(number))
            evaluations.append(evaluation)
        files = find_predictions(folders[0], tested)
        values = picture_values(files.values(), prepared.label_values)
        entries[name] = Entry(name, evaluations, _labels_from(files, values))
    if not entries:
        raise ValueError(f"none of the {len(unfinished)} trainings in {out} is finished yet")
    reference = reference or names[0]
    if reference not in entries:
        log.warning("no training of %s is finished; the others are tested against %s", reference, next(iter(entries)))
        reference = next(iter(entries))
    comparison = Comparison(prepared, entries, reference, seeds, folds, unfinished)
    write_comparison(comparison, out)
    return comparison


def _refuse_pretrained_leak(name: str, recipe: Recipe, prepared: PreparedDataset, tested: Sequence[str]) -> None:
    """Before anything is trained: a network may not start from one that has seen the test cases."""
    if recipe.pretrained is None:
        return
    try:
        metadata = read_metadata(find_checkpoint(recipe.pretrained))
    except (FileNotFoundError, CheckpointError):  # a public checkpoint, or none: training says so
        return
    if leaked := prepared.seen_by(metadata.lineage if metadata else (), tested):
        raise ValueError(
            f"{name} starts from {recipe.pretrained}, which was trained or chosen on {len(leaked)} of the test cases "
            f"({', '.join(leaked[:5])}{', ...' if len(leaked) > 5 else ''}); start from one that has not seen them"
        )


def _test_splits(prepared: PreparedDataset, folds: int | None) -> list[str]:
    """The splits whose cases are measured."""
    if folds is None:
        return ["test"]
    there = sum(name.startswith("fold") and name.endswith("/test") for name in prepared.splits)
    if there != folds:
        raise ValueError(
            f"{prepared.folder} has {there or 'no'} folds, asked for {folds}; "
            f"`mamba-unet prepare SOURCE {prepared.folder} --folds {folds}` makes them"
        )
    return [split_name("test", fold) for fold in range(folds)]


def _plan(name: str, recipe: Recipe, out: Path, seeds: Sequence[int], folds: int | None) -> list[Recipe]:
    """The runs of one network, each with its folder, seed and fold."""
    trainer = recipe.trainer
    if trainer.devices not in (1, "1", "auto") or trainer.num_nodes != 1:
        raise RecipeError(
            f"{name}: a comparison trains on one device, the recipe asks for {trainer.devices} on {trainer.num_nodes} "
            f"machines; train by `mamba-unet train ... --seed S --out {out / 'runs' / name / 'seedS'}` as you like and "
            "compare then: complete runs are taken as they are"
        )
    return [
        replace(
            recipe,
            out=str(out / "runs" / name / (f"seed{seed}" if fold is None else f"seed{seed}_fold{fold}")),
            seed=seed,
            fold=fold,
            trainer=replace(trainer, devices=1),
        )
        for seed in seeds
        for fold in ([None] if folds is None else range(folds))
    ]


def _read_evaluation(run: str, prepared: PreparedDataset, split: str, conventions: Conventions) -> Evaluation | None:
    """The run's evaluation of a split where it is there, of this very checkpoint, these data and these conventions."""
    has_weights = RunFolder(run).best.is_file()
    folder = evaluation_folder(run, split, prepared) if has_weights else RunFolder(run).evaluation(split)
    made = read_record(folder / MADE_BY)
    expected = made_by(sha256([find_checkpoint(run)]), prepared) if has_weights else made | data_of(prepared)
    if not made or {"voxel_sizes": None, **made} != expected:  # earlier versions wrote none
        return None
    evaluation, identifiers = Evaluation.read(folder), prepared.split(split)
    patients = {identifier: prepared.patient(identifier) for identifier in identifiers}  # they may be grouped anew
    same = evaluation.conventions == conventions and list(evaluation.cases.items()) == list(patients.items())
    kept = not has_weights or all(
        (folder / "predictions" / f"{identifier}.npz").is_file() for identifier in identifiers
    )
    return evaluation if same and kept else None


def _parameters(run: str) -> int:
    """Trainable numbers of the run's network."""
    if RunFolder(run).best.is_file():
        return sum(parameter.numel() for parameter in load_checkpoint(run)[0].parameters())
    return RunFolder(run).read_progress()["parameters"]


def _describe(run: Recipe, out: Path) -> dict[str, Any]:
    folder = RunFolder(run.out)
    progress, versions, learned = folder.read_progress(), folder.read_versions(), folder.read_annotation()
    return {
        "folder": folder.path.relative_to(out).as_posix(),
        "seed": run.seed,
        "fold": run.fold,
        "iteration": progress["iteration"],
        "hours": progress["hours"],
        "peak_gpu_memory_mib": progress.get("peak_gpu_memory_mib"),
        "machine": ", ".join(versions["gpus"]) or f"{versions['cpu']}, {versions['threads']} threads",
        "annotation": learned.get("annotation"),
        "marked": learned.get("marked"),
        **{
            name: None if name not in learned else len(learned[name])
            for name in ("labelled_patients", "unlabelled_patients")
        },
        "validation_dice_of_others": progress.get("best_validation_dice_of_others", {}),
    }


def _stored_labels(runs: Sequence[Recipe], prepared: PreparedDataset) -> Callable[[Case], np.ndarray] | None:
    """Case -> the stored prediction of the run that tested it; None where predictions are gone."""
    files = {}
    for run in runs:
        split = split_name("test", run.fold)
        if not RunFolder(run.out).best.is_file():
            return None
        folder = evaluation_folder(run.out, split, prepared) / "predictions"
        files |= {identifier: folder / f"{identifier}.npz" for identifier in prepared.split(split)}
    return _labels_from(files)


def _labels_from(files: Mapping[str, Path], values: Sequence[int] = ()) -> Callable[[Case], np.ndarray]:
    return lambda case: read_prediction(files[case.identifier], case, values)
