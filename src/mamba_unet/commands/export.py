"""`mamba-unet export`."""

import argparse
from pathlib import Path

from mamba_unet.commands.options import Commands, command, spacing_mm


def add(commands: Commands) -> None:
    parser = command(commands, "export", "write a prepared data set in another program's layout", run)
    parser.add_argument("prepared", type=Path, help="folder that `prepare` wrote")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--layout", required=True, help="synapse-transunet or nnunet")
    spacing = "nnunet only: voxel size in mm of slices, rows and columns where a file tells none (default: 1,1,1)"
    parser.add_argument("--spacing", type=spacing_mm, metavar="D,H,W", help=spacing)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.data import PreparedDataset, export

    for note in export(PreparedDataset(args.prepared), args.out, args.layout, spacing_mm=args.spacing):
        print(f"note: {note}")
    print(f"{args.layout} in {args.out}")
    return 0
