"""The commands as functions: `import mamba_unet as mu; mu.evaluate("runs/acdc", "data/acdc")`.

Each does what the command of its name does, with the same defaults and the same files, and returns what the command
prints. `prepare`, `check`, `train` and `load` stand in the modules that do the work; docs/python.md shows all of them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mamba_unet.evaluation.metrics import DEFAULT_CONVENTIONS, Conventions
from mamba_unet.evaluation.summary import Evaluation

if TYPE_CHECKING:
    from mamba_unet.cluster import Cluster
    from mamba_unet.comparison.result import Comparison
    from mamba_unet.data.prepared import PreparedDataset
    from mamba_unet.exporting import Exported
    from mamba_unet.inference.pipeline import Predicted
    from mamba_unet.measures.cardiac import CardiacCase
    from mamba_unet.measures.statistics import CaseStatistics
    from mamba_unet.training.recipe import Recipe

Paths = str | Path | Sequence[str | Path]


def evaluate(
    checkpoint: str | Path | None,
    data: "str | Path | PreparedDataset",
    split: str = "test",
    out: str | Path | None = None,
    *,
    predictions: str | Path | None = None,
    conventions: Conventions = DEFAULT_CONVENTIONS,
    device: str = "auto",
    progress: bool = False,
) -> Evaluation:
    """Measure a trained network, or another program's predictions, on a split of a prepared data set.

    Args:
        checkpoint: run folder, checkpoint or hub id; None to measure `predictions`.
        data: folder that `prepare` wrote.
        split: which cases.
        out: folder to write to; None takes `evaluation_<split>` beside the checkpoint, `evaluation` in `predictions`.
        predictions: folder with one file per case, named by case.
        conventions: which HD95 and ASD.
        device: "auto", "cpu", "cuda", ...
        progress: show a bar.

    Raises:
        ValueError: neither or both of `checkpoint` and `predictions` are given, or they do not fit the data.
    """
    if (checkpoint is None) == (predictions is None):
        raise ValueError("give a checkpoint or a folder of predictions, one of the two")
    prepared = _opened(data)
    if predictions is not None:
        from mamba_unet.evaluation.predictions import evaluate_predictions
        from mamba_unet.runs import RunFolder

        if out is not None and RunFolder(out).exists:
            raise ValueError(f"{out} is a run, and these predictions are another program's; give another folder")
        out = Path(predictions) / "evaluation" if out is None else out
        return evaluate_predictions(predictions, prepared, split, out, conventions=conventions, progress=progress)
    from mamba_unet.inference.evaluate import evaluate_checkpoint, evaluation_folder

    out = evaluation_folder(checkpoint, split, prepared) if out is None else out
    return evaluate_checkpoint(
        checkpoint, prepared, split, out, conventions=conventions, device=device, progress=progress
    )


def predict(
    checkpoint: Paths,
    inputs: Paths = (),
    out: str | Path = "predictions",
    *,
    data: "str | Path | PreparedDataset | None" = None,
    split: str = "test",
    tta: bool = False,
    slice_axis: str | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    outputs: Collection[str] = ("auto",),
    cardiac: bool = False,
    overwrite: bool = False,
    part: tuple[int, int] = (1, 1),
    report: str | Path | None = None,
    isolated: bool | None = None,
    cluster: "str | Cluster | None" = None,
    progress: bool = False,
) -> "Predicted":
    """Segment images into files of the same geometry; a bad image does not stop the others.

    Args:
        checkpoint: run folder, checkpoint or hub id; several are an ensemble, whose probabilities are averaged.
        inputs: an image file, a folder or a pattern, or several of them.
        out: folder to write to.
        data: a prepared data set, the cases of whose `split` are predicted too.
        split: of `data`.
        tta: average over eight mirrors and quarter turns of slices, or mirrors of patches.
        slice_axis: "x", "y" or "z": cut slices across this axis; None takes the one of the acquisition.
        batch_size: slices at a time, None takes 16, on a CPU 4; or patches, None takes 2, on a CPU 1.
        device: "auto", "cpu", "cuda", ...
        outputs: of "auto" (a picture for a picture, NIfTI for all else), "nifti", "picture", "dicom-seg",
            "probabilities", "uncertainty", "preview", "statistics".
        cardiac: also volumes and ejection fraction of the heart.
        overwrite: predict again what is finished in `out`.
        part: (k, n) takes every n-th case from the k-th on, to share a list between machines.
        report: JSON file to write what was done to; only an earlier report is replaced.
        isolated: read images in a process of its own, so that a crash at one is one failed case; None does so unless
            all inputs are single files.
        cluster: "auto", "ray://HOST:10001" or "local": share the cases by Ray; a `mamba_unet.cluster.Cluster` also says
            how many workers there are and what each gets.
        progress: show a bar.

    Returns:
        What was written, what was finished before, and for each input that failed the reason.

    Raises:
        ValueError: nothing to predict, or checkpoints that do not fit together.
    """
    inputs = _several(inputs)
    if data is None and not inputs:
        raise ValueError("nothing to predict: give image files, folders of them, or a prepared data set (--data)")
    from mamba_unet.inference import Predictor, predict_files

    prepared = None if data is None else _opened(data)
    workers = None
    if cluster is not None:
        from mamba_unet.cluster.predict import ClusterWorkers

        workers, device = ClusterWorkers(_cluster(cluster), device, batch_size, progress), "cpu"
    return predict_files(
        Predictor(_several(checkpoint), device, batch_size, tta),
        inputs,
        out,
        prepared,
        [] if prepared is None else prepared.split(split),
        progress=progress,
        outputs=set(_several(outputs)),
        cardiac=cardiac,
        slice_axis=slice_axis,
        part=part,
        overwrite=overwrite,
        report=report,
        isolated=isolated,
        workers=workers,
    )


def export_model(
    checkpoint: str | Path,
    out: str | Path,
    format: str = "onnx",
    *,
    precision: str = "float32",
    check_image: str | Path | None = None,
) -> "Exported":
    """Write a trained network as ONNX, for torch.export or as a MONAI bundle; kept only if it gives the same answers.

    Args:
        checkpoint: run folder, checkpoint or hub id.
        out: new file (`.onnx`, `.pt2`), or new folder for a bundle.
        format: "onnx", "torch-export" or "monai-bundle".
        precision: "float32", or "float16" for weights of half the size.
        check_image: an image to compare on, beside random ones.

    Raises:
        ValueError: see `exporting.export_model`.
    """
    from mamba_unet.exporting import export_model as export

    return export(checkpoint, out, format, precision=precision, check_image=check_image)


@dataclass(frozen=True)
class Measured:
    """What `measure` found.

    Attributes:
        cases: sizes and intensities of the structures of each case.
        hearts: volumes and ejection fraction of each heart, where they were asked for.
        failures: file or heart -> why it could not be measured.
    """

    cases: "list[CaseStatistics]"
    hearts: "list[CardiacCase]"
    failures: dict[str, str]


def measure(
    labels: Paths,
    out: str | Path | None = None,
    *,
    images: Paths = (),
    class_names: Sequence[str] | None = None,
    dataset: str | None = None,
    spacing_mm: Sequence[float] | None = None,
    cardiac: bool = False,
    progress: bool = False,
) -> Measured:
    """Measure label files: volumes, mean intensities, and the heart's function; a bad file does not stop the others.

    Args:
        labels: a label file, a folder or a pattern, or several of them.
        out: folder to write statistics.csv, statistics.json, cardiac.csv and cardiac.md to; None writes nothing.
        images: the images of the same names, for mean intensities.
        class_names: of the label values 1, 2, ...; None takes what the files say.
        dataset: take the class names of this data set, "acdc" or "synapse".
        spacing_mm: of D, H, W, in place of what the files say.
        cardiac: also volumes and ejection fraction between end-diastole and end-systole.
        progress: show a bar.

    Raises:
        ValueError: nothing to measure, two inputs of one name, a data set that is not known, or `out` is a folder of
            `predict`, which writes tables of these names itself.
    """
    from mamba_unet.measures.cardiac import CARDIAC_FILES, cardiac_cases, write_cardiac
    from mamba_unet.measures.run import measure_files
    from mamba_unet.measures.statistics import write_statistics

    if dataset is not None:
        if class_names is not None:
            raise ValueError("class_names and dataset both name the classes; give one of the two")
        from mamba_unet.data.registry import DATASETS

        if dataset not in DATASETS:
            raise ValueError(f"no data set is known as {dataset!r}; expected one of {', '.join(DATASETS)}")
        class_names = DATASETS[dataset].class_names
    if out is not None and (Path(out) / "predict.json").is_file():
        raise ValueError(f"{out} holds results of predict, and maybe its tables; give another folder (--out)")
    class_names = None if class_names is None else _several(class_names)
    cases, failures = measure_files(_several(labels), _several(images), class_names, spacing_mm, progress)
    renewed = out is not None and (Path(out) / CARDIAC_FILES[0]).is_file()  # it may be of other labels
    hearts, unmeasured = cardiac_cases(cases) if cardiac or renewed else ([], {})
    if out is not None:
        for kind in ("csv", "json"):
            table = Path(out) / f"statistics.{kind}"
            if cases:
                write_statistics(table, cases)
            else:
                table.unlink(missing_ok=True)  # it would be of other labels
        if cardiac or renewed:
            write_cardiac(out, hearts)
    return Measured(cases, hearts, failures | unmeasured) if cardiac else Measured(cases, [], failures)


def compare(
    recipes: "Mapping[str, str | Path | Recipe] | Sequence[str | Path]",
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
    cluster: "str | Cluster | None" = None,
    **keys: Any,
) -> "Comparison | None":
    """Train several networks alike, measure and test them; what is complete in `out` is not done again.

    Args:
        recipes: recipe files, whose names become the names of the rows; or name of the row -> recipe.
        data: folder that `prepare` wrote.
        out: folder to write tables, tests, figures, page and runs to.
        seeds: one training of every network by each.
        folds: cross-validation over so many folds of the data; None uses its split.
        external: (name, folder of predictions) of other programs; several of one name are several trainings.
        reference: name of the row that the others are tested against; None is the first.
        conventions: which HD95 and ASD.
        device: to predict on; recipes say where to train.
        progress: show bars.
        only_finished: train nothing, and leave out trainings that are not complete.
        part: (K, N) trains and measures every N-th training from the K-th on, and returns None.
        cache_dir: folder on a disk of this machine, where the data are copied to once and read from.
        cluster: train and measure on a Ray cluster, as for `predict`.
        keys: keys of the recipes to override in all of them: `iterations=200`, or `**{"optimizer.lr": 0.01}`.

    Raises:
        ValueError: before anything is trained, see `comparison.run.compare`.
    """
    from mamba_unet.comparison.run import compare as compare_networks
    from mamba_unet.training.recipe import load_recipe

    if wrong := {"seed", "fold"} & keys.keys():
        raise ValueError(f"{wrong.pop()} cannot be set in a comparison; give all of them: seeds=[0, 1, 2], folds=5")
    named = recipes if isinstance(recipes, Mapping) else _named_by_file(_several(recipes))
    return compare_networks(
        {name: load_recipe(recipe, keys) for name, recipe in named.items()},
        data,
        out,
        seeds=seeds,
        folds=folds,
        external=external,
        reference=reference,
        conventions=conventions,
        device=device,
        progress=progress,
        only_finished=only_finished,
        part=part,
        cache_dir=cache_dir,
        cluster=None if cluster is None else _cluster(cluster),
    )


def _named_by_file(recipes: Sequence[str | Path]) -> dict[str, str | Path]:
    named: dict[str, str | Path] = {}
    for path in recipes:
        if (name := Path(path).stem) in named:
            raise ValueError(f"two recipes are called {name!r}; give them as {{name: recipe}}")
        named[name] = path
    return named


def _opened(data: "str | Path | PreparedDataset") -> "PreparedDataset":
    from mamba_unet.data.prepared import PreparedDataset

    return data if isinstance(data, PreparedDataset) else PreparedDataset(data)


def _cluster(cluster: "str | Cluster") -> "Cluster":
    from mamba_unet.cluster import Cluster

    return Cluster(cluster) if isinstance(cluster, str) else cluster


def _several(paths: Paths) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)
