"""`mamba-unet phantom`."""

import argparse
from pathlib import Path

from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(commands, "phantom", "write a synthetic data set of short-axis heart images", run)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--cases", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random shapes (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from mamba_unet.data import write_phantom

    write_phantom(args.out, cases=args.cases, seed=args.seed)
    print(f"{args.cases} synthetic cases in {args.out}")
    return 0
