"""`mamba-unet scribble`."""

import argparse
import shlex
from pathlib import Path

from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(commands, "scribble", "make scribbles from dense labels, to learn what they would be worth", run)
    parser.add_argument("data", type=Path, help="folder that `prepare` wrote")
    parser.add_argument("out", type=Path, help="new folder, in nnU-Net's layout with scribblesTr")
    parser.add_argument("--seed", type=int, default=0, help="of where strokes begin (default: %(default)s)")
    share = "of each class's middle line that is kept, up to 1 (default: 0.6)"
    parser.add_argument("--share", type=float, help=share)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.data import PreparedDataset, write_scribbles

    chosen = {} if args.share is None else {"share": args.share}
    for note in write_scribbles(PreparedDataset(args.data), args.out, seed=args.seed, **chosen):
        print(f"note: {note}")
    out = shlex.quote(str(args.out))
    print(f"next: mamba-unet prepare {out} PREPARED --split {out}/splits.json, and recipes with annotation: scribble")
    return 0
