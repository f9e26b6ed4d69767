"""The command `mamba-unet`. Each command imports what it needs when it runs, so that `--help` is instant."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mamba_unet import __version__


def phantom(args: argparse.Namespace) -> int:
    from mamba_unet.data import write_phantom

    write_phantom(args.out, cases=args.cases, seed=args.seed)
    print(f"{args.cases} synthetic cases in {args.out}")
    return 0


def check(args: argparse.Namespace) -> int:
    from mamba_unet.data import check as check_source

    report = check_source(
        args.source, dataset=args.dataset, layout=args.layout, splits=args.split, folds=args.folds, seed=args.seed
    )
    print(report.table())
    return 1 if report.errors else 0


def prepare(args: argparse.Namespace) -> int:
    from mamba_unet.data import prepare as prepare_source

    prepared = prepare_source(
        args.source,
        args.out,
        dataset=args.dataset,
        layout=args.layout,
        splits=args.split,
        folds=args.folds,
        seed=args.seed,
        skip_bad=args.skip_bad,
    )
    print((args.out / "check.txt").read_text(encoding="utf-8"))
    print(f"{prepared.name}: {len(prepared.identifiers)} cases of {len(prepared.patients)} patients in {args.out}")
    print("classes: " + ", ".join(f"{index} {name}" for index, name in enumerate(prepared.class_names)))
    print("split:   " + ", ".join(f"{name} {len(cases)} cases" for name, cases in prepared.splits.items()))
    return 0


def export(args: argparse.Namespace) -> int:
    from mamba_unet.data import PreparedDataset
    from mamba_unet.data import export as export_prepared

    for note in export_prepared(PreparedDataset(args.prepared), args.out, args.layout):
        print(f"note: {note}")
    print(f"{args.layout} in {args.out}")
    return 0


def train(args: argparse.Namespace) -> int:
    from mamba_unet.training.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    from mamba_unet.training.train import train as train_recipe

    train_recipe(recipe, resume=args.resume)
    return 0


def compare(args: argparse.Namespace) -> int:
    from mamba_unet.training.recipe import load_recipe

    for word in args.overrides:
        if word.split("=")[0] in ("--seed", "--fold"):
            raise ValueError(f"{word} is not overridden in a comparison; give all of them: --seeds 0,1,2, --folds 5")
    recipes = {}
    for name, path in args.recipes:
        if name in recipes:
            raise ValueError(f"two recipes are called {name!r}; give one another name: NAME={path}")
        recipes[name] = load_recipe(path, args.overrides)
    from mamba_unet.comparison.run import compare as compare_networks

    comparison = compare_networks(
        recipes,
        args.data,
        args.out,
        seeds=args.seeds,
        folds=args.folds,
        external=args.external,
        reference=args.reference,
        hd95=args.hd95,
        asd=args.asd,
        device=args.device,
        progress=sys.stderr.isatty(),
    )
    print((args.out / "table.md").read_text(encoding="utf-8"))
    if comparison.tests:
        print((args.out / "significance.md").read_text(encoding="utf-8"))
    print(f"written to {args.out}; to look at: {args.out / 'comparison.html'}")
    return 0


def _named_recipe(word: str) -> tuple[str, Path]:
    name, sign, path = word.rpartition("=")
    return (name, Path(path)) if sign else (Path(word).stem, Path(word))


def _named_folder(word: str) -> tuple[str, Path]:
    name, sign, folder = word.partition("=")
    if not (name and sign and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {word!r}")
    return name, Path(folder)


def _seeds(word: str) -> list[int]:
    try:
        return [int(seed) for seed in word.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers as 0,1,2, got {word!r}") from error


def evaluate(args: argparse.Namespace) -> int:
    from mamba_unet.data import PreparedDataset
    from mamba_unet.inference.evaluate import evaluate_checkpoint, evaluate_predictions, evaluation_folder

    prepared = PreparedDataset(args.data)
    how = {"hd95": args.hd95, "asd": args.asd, "progress": sys.stderr.isatty()}
    if args.predictions is not None:
        out = args.out or args.predictions / "evaluation"
        evaluation = evaluate_predictions(args.predictions, prepared, args.split, out, **how)
    else:
        out = args.out or evaluation_folder(args.checkpoint, args.split)
        evaluation = evaluate_checkpoint(args.checkpoint, prepared, args.split, out, device=args.device, **how)
    print(evaluation.table())
    print(f"written to {out}")
    return 0


def predict(args: argparse.Namespace) -> int:
    if args.data is None and not args.inputs:
        raise ValueError("nothing to predict: give image files, folders of them, or --data PREPARED [--split test]")
    from mamba_unet.inference import Predictor, predict_files

    prepared, identifiers = None, []
    if args.data is not None:
        from mamba_unet.data import PreparedDataset

        prepared = PreparedDataset(args.data)
        identifiers = prepared.split(args.split)
    predictor = Predictor([args.checkpoint, *args.ensemble], args.device, args.batch_size, args.tta)
    try:
        done = predict_files(
            predictor,
            args.inputs,
            args.out,
            prepared,
            identifiers,
            progress=sys.stderr.isatty(),
            outputs={*args.output_type, *args.also},
            cardiac=args.cardiac,
            slice_axis=args.slice_axis,
            part=args.part,
            overwrite=args.overwrite,
            report=args.report,
        )
    except KeyboardInterrupt:
        print(f"interrupted; finished cases stay in {args.out}, the same command does the rest", file=sys.stderr)
        return 130
    before = f" ({len(done.skipped)} were finished before)" if done.skipped else ""
    print(f"{len(done.written)} segmentations in {args.out}{before}")
    if args.cardiac and (args.out / "cardiac.md").is_file():
        print((args.out / "cardiac.md").read_text(encoding="utf-8"))
    for path, error in done.failures.items():
        print(f"failed: {path}: {error}", file=sys.stderr)
    return 1 if done.failures else 0


def _part(word: str) -> tuple[int, int]:
    part, _, parts = word.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, such as 3/8, got {word!r}")
    return int(part), int(parts)


def measure(args: argparse.Namespace) -> int:
    from mamba_unet.data.registry import DATASETS
    from mamba_unet.measures.cardiac import cardiac_cases, cardiac_table, write_cardiac
    from mamba_unet.measures.run import measure_files
    from mamba_unet.measures.statistics import statistics_table, write_statistics

    class_names = args.class_names
    if args.dataset is not None:
        if args.dataset not in DATASETS:
            raise ValueError(f"no data set is known as {args.dataset!r}; expected one of {', '.join(DATASETS)}")
        class_names = DATASETS[args.dataset].class_names
    cases, failures = measure_files(args.labels, args.images, class_names, args.spacing, sys.stderr.isatty())
    if cases:
        if len(cases) <= 20:
            print(statistics_table(cases))
        for kind in ("csv", "json"):
            write_statistics(args.out / f"statistics.{kind}", cases)
    if args.cardiac:
        hearts, unmeasured = cardiac_cases(cases)
        failures |= unmeasured
        if hearts:
            print(cardiac_table(hearts))
            write_cardiac(args.out, hearts)
    print(f"{len(cases)} cases measured in {args.out}")
    for name, error in failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 1 if failures else 0


def report(args: argparse.Namespace) -> int:
    from mamba_unet.evaluation.cases import Evaluation
    from mamba_unet.report import write_report

    page = write_report(args.run)
    for folder in sorted(args.run.glob("evaluation_*")):
        print(f"{folder.name.removeprefix('evaluation_')}:\n{Evaluation.read(folder).table()}")
    print(f"report: {page}")
    return 0


def serve(args: argparse.Namespace) -> int:
    from mamba_unet.serve import viewer

    if args.install_viewer:
        viewer.install()
        print(f"NiiVue {viewer.NIIVUE.version} in {viewer.FOLDER}")
        return 0
    from mamba_unet.serve.run import named_checkpoints
    from mamba_unet.serve.run import serve as serve_predictors

    checkpoints = named_checkpoints(args.checkpoint)
    from mamba_unet.inference import Predictor

    serve_predictors(
        {name: Predictor(place, args.device) for name, place in checkpoints.items()},
        args.host,
        args.port,
        max_upload_mb=args.max_upload_mb,
        max_disk_mb=args.max_disk_mb,
        keep_minutes=args.keep_minutes,
        open_browser=args.open,
    )
    return 0


def info(args: argparse.Namespace) -> int:
    from mamba_unet.environment import describe_environment
    from mamba_unet.inference import choose_device
    from mamba_unet.ops import backend_status

    for name, value in describe_environment().items():
        print(f"{name:<12}{value}")
    device = choose_device(args.device)
    print(f"\nscan backends on {device}:")
    for status in backend_status(device):
        print(f"  {status.name:<11}{status.reason if status.available else 'not here: ' + status.reason}")
    if args.models:
        from mamba_unet.models import list_models
        from mamba_unet.models.cost import measure_cost_apart

        height, width = args.size
        print(f"\nforward pass of {args.batch} x 1 x {height} x {width} on {device}:")
        print(f"  {'network':<20}{'parameters':>13}{'GFLOP':>9}{'ms':>9}{'memory, MiB':>13}")
        for name in list_models():
            cost = measure_cost_apart(name, (height, width), args.batch, str(device))
            memory = "unknown" if cost.peak_mib is None else f"{cost.peak_mib:.0f}"
            print(f"  {name:<20}{cost.parameters:>13,}{cost.gflops:>9.1f}{cost.latency_ms:>9.0f}{memory:>13}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mamba-unet", description="Mamba-UNet for medical image segmentation.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(function: Callable[[argparse.Namespace], int], text: str, **kwargs) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=text, description=text[0].upper() + text[1:] + ".", **kwargs)
        sub.set_defaults(function=function)
        return sub

    def device(sub: argparse._ActionsContainer) -> None:
        sub.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps, ...")

    def conventions(sub: argparse.ArgumentParser) -> None:
        hd95, asd = "hd95_max_of_directed_percentiles", "assd_pooled"
        sub.add_argument("--hd95", default=hd95, help="convention of HD95, see docs/metrics.md")
        sub.add_argument("--asd", default=asd, help="convention of the average surface distance")

    sub = command(phantom, "write a synthetic short-axis cardiac data set")
    sub.add_argument("out", type=Path)
    sub.add_argument("--cases", type=int, default=20)
    sub.add_argument("--seed", type=int, default=0)

    for function, text in ((check, "check a data set without writing"), (prepare, "check a data set and cache it")):
        sub = command(function, text)
        sub.add_argument("source", type=Path, help="folder as downloaded; its layout is detected")
        if function is prepare:
            sub.add_argument("out", type=Path, help="folder to write")
            sub.add_argument("--skip-bad", action="store_true", help="leave cases with errors out, naming them")
        sub.add_argument("--dataset", help="name of the data set, where the layout does not tell")
        sub.add_argument("--layout", help="name of the layout, where several fit")
        sub.add_argument("--split", type=Path, help="JSON file with patients per split (default: the published split)")
        sub.add_argument("--folds", type=int, help="also split into so many folds")
        sub.add_argument("--seed", type=int, default=0, help="of a drawn split")

    sub = command(export, "write a prepared data set in another program's layout")
    sub.add_argument("prepared", type=Path, help="folder that `prepare` wrote")
    sub.add_argument("out", type=Path, help="new folder")
    sub.add_argument("--layout", required=True, help="synapse-transunet or nnunet")

    sub = command(train, "train by a recipe", usage="%(prog)s RECIPE [--resume] [--data DIR] [--out DIR] [--KEY VALUE]")
    sub.add_argument("recipe", type=Path, help="YAML file; each of its keys can be overridden: --optimizer.lr 0.001")
    sub.add_argument("--resume", action="store_true", help="go on with the run in --out")

    usage = "%(prog)s RECIPE... --data DIR --out DIR [--seeds 0,1,2] [--folds K] [--external NAME=DIR] [--KEY VALUE]"
    sub = command(compare, "train several networks alike, measure and test them", usage=usage, allow_abbrev=False)
    sub.add_argument("recipes", type=_named_recipe, nargs="*", metavar="recipe", help="YAML file, or NAME=FILE")
    sub.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    sub.add_argument("--out", type=Path, required=True, help="folder to write; what is in it already is not redone")
    sub.add_argument("--seeds", type=_seeds, default=[0], help="one training of every network by each (default: 0)")
    sub.add_argument("--folds", type=int, help="cross-validation over the folds of the data (`prepare --folds`)")
    sub.add_argument("--reference", help="row that the others are tested against (default: the first)")
    external = "row of another program's predictions, named by case; may be given several times"
    sub.add_argument("--external", type=_named_folder, action="append", default=[], metavar="NAME=DIR", help=external)
    conventions(sub)
    device(sub)

    sub = command(evaluate, "measure a trained network on a split of a prepared data set")
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("checkpoint", type=Path, nargs="?", help="run folder or checkpoint")
    what.add_argument("--predictions", type=Path, help="a folder of another program's predictions, named by case")
    sub.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    sub.add_argument("--split", default="test")
    sub.add_argument("--out", type=Path, help="folder to write (default: evaluation... in the run or in --predictions)")
    conventions(sub)
    device(sub)

    usage = "%(prog)s CHECKPOINT INPUT... --out DIR [options]"
    sub = command(predict, "segment scans into files of the same geometry", usage=usage)
    hub = "run folder, checkpoint, or a hub id (owner/name)"
    sub.add_argument("checkpoint", help=hub)
    inputs = "NIfTI, MHA, NRRD, DICOM (folder or zip), PNG, JPEG, TIFF, HDF5; folders and globs of these"
    sub.add_argument("inputs", nargs="*", metavar="input", help=inputs)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write DIR/<case>.nii.gz ... to")
    group = sub.add_argument_group("more inputs")
    group.add_argument("--data", type=Path, metavar="PREPARED", help="also the cases of a prepared data set's split")
    group.add_argument("--split", default="test", help="which split of --data (default: %(default)s)")
    group = sub.add_argument_group("network")
    ensemble = "further checkpoints, whose probabilities are averaged with the first one's"
    group.add_argument("--ensemble", nargs="+", action="extend", default=[], metavar="CHECKPOINT", help=ensemble)
    tta = "average over eight mirrors and quarter turns; takes eight times as long"
    group.add_argument("--tta", action="store_true", help=tta)
    slicing = "cut slices across this axis, as NIfTI counts them (default: the acquisition's through-plane axis)"
    group.add_argument("--slice-axis", choices="xyz", help=slicing)
    group.add_argument("--batch-size", type=int, metavar="N", help="slices at a time (default: 16, on a CPU 4)")
    device(group)
    group = sub.add_argument_group("what is written of a case")
    kinds = "the labels as nifti (default), dicom-seg, which needs DICOM inputs, or both"
    group.add_argument("--output-type", nargs="+", choices=("nifti", "dicom-seg"), default=["nifti"], help=kinds)
    for word, text in (
        ("probabilities", "of every class: DIR/<case>_probabilities.nii.gz"),
        ("preview", "picture of the slices with the segmentation over them: DIR/<case>_preview.png"),
        ("statistics", "volume, mean intensity, areas: DIR/<case>_statistics.json, of all cases DIR/statistics.csv"),
    ):
        group.add_argument(f"--{word}", dest="also", action="append_const", const=word, default=[], help=text)
    cardiac = "ejection fraction, volumes and mass of cine scans and of pairs of frames: DIR/cardiac.csv and .md"
    group.add_argument("--cardiac", action="store_true", help=cardiac)
    report_of_run = "machine-readable report of this run: inputs, hashes, versions, device, times"
    group.add_argument("--report", type=Path, metavar="run.json", help=report_of_run)
    group = sub.add_argument_group("many cases")
    group.add_argument("--overwrite", action="store_true", help="redo cases that are finished in --out already")
    part = "only every N-th case from the K-th on, to share a list between machines"
    group.add_argument("--part", type=_part, default=(1, 1), metavar="K/N", help=part)

    sub = command(measure, "measure segmentations: volumes, intensities, and the heart's function")
    labels = "label maps as NIfTI, MHA, NRRD or HDF5 (`label`); folders and globs of these"
    sub.add_argument("labels", nargs="+", metavar="label", help=labels)
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the tables to")
    images = "images of the same names, files or folders, for mean intensities"
    sub.add_argument("--images", nargs="+", default=[], metavar="IMAGE", help=images)
    spacing = "voxel size in mm, in place of what files say; the distance between slices first: 10 1.5 1.5"
    sub.add_argument("--spacing", type=float, nargs=3, metavar=("D", "H", "W"), help=spacing)
    sub.add_argument("--cardiac", action="store_true", help="also volumes and ejection fraction between ED and ES")
    group = sub.add_mutually_exclusive_group()
    names = "of the label values 1, 2, ... (default: what the files say)"
    group.add_argument("--class-names", nargs="+", metavar="NAME", help=names)
    group.add_argument("--dataset", help="take the class names of this data set: acdc or synapse")

    sub = command(report, "write a run's report, one HTML page")
    sub.add_argument("run", type=Path, help="run folder")

    sub = command(serve, "show volumes and their segmentations on a local web page")
    checkpoint = "run folder, checkpoint or hub id; may be given several times (default: the runs in runs/)"
    sub.add_argument("--checkpoint", action="append", default=[], metavar="[NAME=]CHECKPOINT", help=checkpoint)
    sub.add_argument("--host", default="127.0.0.1", help="to listen on; any but this machine's own demands a token")
    sub.add_argument("--port", type=int, default=8765)
    sub.add_argument("--max-upload-mb", type=int, default=2048, help="size of one upload (default: %(default)s MiB)")
    disk = "size of all uploads and results together (default: %(default)s MiB)"
    sub.add_argument("--max-disk-mb", type=int, default=20480, help=disk)
    keep = "how long a volume and its result stay after the last request for them (default: %(default)s minutes)"
    sub.add_argument("--keep-minutes", type=float, default=60, help=keep)
    sub.add_argument("--open", action="store_true", help="show the page in the browser")
    sub.add_argument("--install-viewer", action="store_true", help="only fetch the viewer that a build left out")
    device(sub)

    sub = command(info, "show versions, devices and the scan backend in force")
    sub.add_argument("--models", action="store_true", help="also measure what each network costs")
    sub.add_argument("--size", type=int, nargs=2, default=(224, 224), metavar=("HEIGHT", "WIDTH"), help="for --models")
    sub.add_argument("--batch", type=int, default=1, help="for --models")
    device(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for bad data, 2 for wrong words or input, 130 at Ctrl-C."""
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args(words)
    if args.function is train and words[1].startswith("-") and words[1] != "--resume":
        parser.error("train takes the recipe first: mamba-unet train RECIPE --data DIR --out DIR")
    if rest and args.function not in (train, compare):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    args.overrides = rest
    log = logging.getLogger("mamba_unet")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()]
    try:
        return args.function(args)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"mamba-unet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mamba-unet: interrupted", file=sys.stderr)
        return 130
