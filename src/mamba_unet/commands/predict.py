"""`mamba-unet predict`."""

import argparse
import sys
from pathlib import Path

from mamba_unet.commands import options
from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "predict",
        "segment images into files of the same geometry",
        run,
        usage="%(prog)s CHECKPOINT INPUT... --out DIR [options]",
    )
    networks = "run folder, checkpoint, hub id (hf:owner/name), or acdc: the network that comes along"
    parser.add_argument("checkpoint", help=networks)
    inputs = "NIfTI, MHA, NRRD, DICOM (folder or zip), PNG, JPEG, TIFF, HDF5; folders and patterns of these"
    parser.add_argument("inputs", nargs="*", metavar="input", help=inputs)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder to write DIR/<case>.nii.gz ... to"
    )
    group = parser.add_argument_group("more inputs")
    group.add_argument("--data", type=Path, metavar="PREPARED", help="also the cases of a prepared data set's split")
    group.add_argument("--split", default="test", help="which split of --data (default: %(default)s)")
    group = parser.add_argument_group("network")
    ensemble = "further checkpoints, whose probabilities are averaged with the first one's"
    group.add_argument("--ensemble", nargs="+", action="extend", default=[], metavar="CHECKPOINT", help=ensemble)
    tta = "average over eight mirrors and turns of each slice, or mirrors of each patch; takes eight times as long"
    group.add_argument("--tta", action="store_true", help=tta)
    slicing = "cut slices across this axis, as NIfTI counts them (default: the acquisition's through-plane axis)"
    group.add_argument("--slice-axis", choices="xyz", help=slicing)
    group.add_argument(
        "--batch-size", type=int, metavar="N", help="tiles at a time (default: 16 slices or 2 patches, on a CPU 4 or 1)"
    )
    options.device(group)
    group = parser.add_argument_group("what is written of a case")
    kinds = (
        "the labels as auto (default: a picture for a picture, NIfTI for all else), nifti, picture or dicom-seg, which "
        "needs DICOM inputs. Several may be given"
    )
    words = ("auto", "nifti", "picture", "dicom-seg")
    group.add_argument("--output-type", nargs="+", choices=words, default=["auto"], help=kinds)
    for word, text in (
        ("probabilities", "of every class: DIR/<case>_probabilities.nii.gz"),
        (
            "uncertainty",
            "of every voxel, 0 to 1: DIR/<case>_uncertainty.nii.gz; with --statistics of every structure too",
        ),
        ("preview", "picture of the slices with the segmentation over them: DIR/<case>_preview.png"),
        ("statistics", "volume, mean intensity, areas: DIR/<case>_statistics.json, of all cases DIR/statistics.csv"),
    ):
        group.add_argument(f"--{word}", dest="also", action="append_const", const=word, default=[], help=text)
    cardiac = "ejection fraction, volumes and mass of cine images and of pairs of frames: DIR/cardiac.csv and .md"
    group.add_argument("--cardiac", action="store_true", help=cardiac)
    report = "write a machine-readable report: inputs, hashes, versions, device, times"
    group.add_argument("--report", type=Path, metavar="run.json", help=report)
    group = parser.add_argument_group("many cases")
    group.add_argument("--overwrite", action="store_true", help="predict again the cases that are finished in --out")
    part = "only every N-th case from the K-th on, to share a list between machines"
    group.add_argument("--part", type=options.part, default=(1, 1), metavar="K/N", help=part)
    options.ray(group)
    group = parser.add_argument_group("images that others sent")
    options.memory(group)
    isolated = (
        "read in a process of its own, so that a file at which a library crashes or hangs is one failed case (default: "
        "unless all inputs are single files)"
    )
    group.add_argument("--isolated", action=argparse.BooleanOptionalAction, help=isolated)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.api import predict
    from mamba_unet.models.checkpoint import FILE_NAMES
    from mamba_unet.words import counted

    for given in args.inputs:
        if Path(given).suffix == ".safetensors" or any((Path(given) / name).is_file() for name in FILE_NAMES):
            raise ValueError(f"{given} is a network, not an image; several make an ensemble: --ensemble {given}")
    cluster = options.chosen_cluster(args)
    try:
        done = predict(
            [args.checkpoint, *args.ensemble],
            args.inputs,
            args.out,
            data=args.data,
            split=args.split,
            tta=args.tta,
            slice_axis=args.slice_axis,
            batch_size=args.batch_size,
            device=args.device,
            outputs=[*args.output_type, *args.also],
            cardiac=args.cardiac,
            overwrite=args.overwrite,
            part=args.part,
            report=args.report,
            isolated=args.isolated,
            cluster=cluster,
            progress=sys.stderr.isatty() or cluster is not None,
        )
    except KeyboardInterrupt:
        again = "the same command without --overwrite" if args.overwrite else "the same command"
        print(f"interrupted; finished cases stay in {args.out}, {again} does the rest", file=sys.stderr)
        return 130
    before = f" ({counted(len(done.skipped), 'case')} finished before)" if done.skipped else ""
    print(f"{counted(len(done.written), 'segmentation')} in {args.out}{before}")
    if cluster and (done.written or done.failures) and (args.out / "cluster.md").is_file():
        print((args.out / "cluster.md").read_text(encoding="utf-8"))
    if args.cardiac and (args.out / "cardiac.md").is_file():
        print((args.out / "cardiac.md").read_text(encoding="utf-8"))
    for path, error in done.failures.items():
        print(f"failed: {path}: {error}", file=sys.stderr)
    return 1 if done.failures else 0
