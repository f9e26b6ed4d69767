"""`mamba-unet measure`."""

import argparse
import sys
from pathlib import Path

from mamba_unet.commands.options import Commands, command, memory

MOST_SHOWN = 20  # cases whose table is printed


def add(commands: Commands) -> None:
    parser = command(commands, "measure", "measure segmentations: volumes, intensities, and the heart's function", run)
    labels = "label maps as NIfTI, MHA, NRRD or HDF5 (`label`); folders and patterns of these"
    parser.add_argument("labels", nargs="+", metavar="label", help=labels)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the tables to")
    images = "images of the same names, files or folders, for mean intensities"
    parser.add_argument("--images", nargs="+", default=[], metavar="IMAGE", help=images)
    spacing = "voxel size in mm, in place of what files say; the distance between slices first: 10 1.5 1.5"
    parser.add_argument("--spacing", type=float, nargs=3, metavar=("D", "H", "W"), help=spacing)
    parser.add_argument("--cardiac", action="store_true", help="also volumes and ejection fraction between ED and ES")
    group = parser.add_mutually_exclusive_group()
    names = "of the label values 1, 2, ... (default: what the files say)"
    group.add_argument("--class-names", nargs="+", metavar="NAME", help=names)
    group.add_argument("--dataset", help="take the class names of this data set: acdc or synapse")
    memory(parser)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.api import measure
    from mamba_unet.measures.cardiac import cardiac_table
    from mamba_unet.measures.statistics import statistics_table
    from mamba_unet.words import counted

    measured = measure(
        args.labels,
        args.out,
        images=args.images,
        class_names=args.class_names,
        dataset=args.dataset,
        spacing_mm=args.spacing,
        cardiac=args.cardiac,
        progress=sys.stderr.isatty(),
    )
    if 0 < len(measured.cases) <= MOST_SHOWN:
        print(statistics_table(measured.cases))
    if measured.hearts:
        print(cardiac_table(measured.hearts))
    print(f"{counted(len(measured.cases), 'case')} measured in {args.out}")
    for name, error in measured.failures.items():
        print(f"failed: {name}: {error}", file=sys.stderr)
    return 1 if measured.failures else 0
