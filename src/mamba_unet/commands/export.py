"""`mamba-unet export`."""

import argparse
from pathlib import Path

from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(commands, "export", "write a prepared data set in another program's layout", run)
    parser.add_argument("prepared", type=Path, help="folder that `prepare` wrote")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--layout", required=True, help="synapse-transunet or nnunet")


def run(args: argparse.Namespace) -> int:
    from mamba_unet.data import PreparedDataset, export

    for note in export(PreparedDataset(args.prepared), args.out, args.layout):
        print(f"note: {note}")
    print(f"{args.layout} in {args.out}")
    return 0
