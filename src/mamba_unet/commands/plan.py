"""`mamba-unet plan`."""

import argparse
from pathlib import Path

from mamba_unet.commands.options import Commands, command, gib, spacing_mm


def add(commands: Commands) -> None:
    parser = command(commands, "plan", "choose voxel size, patch and batch of 3D networks for a prepared data set", run)
    parser.add_argument("data", type=Path, help="folder that `mamba-unet prepare` wrote; plan.json is written there")
    memory = "memory in GiB of the device that trains (default: 8)"
    parser.add_argument("--memory", type=gib, default=8.0, metavar="GIB", help=memory)
    spacing = "voxel size in mm for the network, of slices, rows and columns (default: planned), such as 8,1.5,1.5"
    parser.add_argument("--spacing", type=spacing_mm, metavar="D,H,W", help=spacing)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.data import plan

    print(plan(args.data, args.memory, args.spacing).table(), end="")
    print(f"written to {args.data / 'plan.json'}")
    return 0
