"""`mamba-unet prepare`."""

import argparse
from pathlib import Path

from mamba_unet.commands.options import Commands, command, layout_and_split, memory, source, source_options


def add(commands: Commands) -> None:
    parser = command(commands, "prepare", "check a data set, split it by patient and store it for training", run)
    source(parser)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--skip-bad", action="store_true", help="leave out the cases with errors, and name them")
    intensity = "as nnU-Net: CT between percentiles of its foreground, else z-scores (default: the data set's own rule)"
    parser.add_argument("--intensity", choices=("nnunet",), help=intensity)
    layout_and_split(parser)
    memory(parser)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.data import prepare
    from mamba_unet.words import counted

    how = {"skip_bad": args.skip_bad, "intensity": args.intensity}
    prepared = prepare(args.source, args.out, **how, **source_options(args), report=lambda found: print(found.table()))
    print(f"every file by name: {args.out / 'check.txt'}\n")
    cases, patients = counted(len(prepared.identifiers), "case"), counted(len(prepared.patients), "patient")
    print(f"{prepared.name}: {cases} of {patients} in {args.out}")
    print("classes: " + ", ".join(f"{index} {name}" for index, name in enumerate(prepared.class_names)))
    print("split:   " + ", ".join(f"{name} {counted(len(cases), 'case')}" for name, cases in prepared.splits.items()))
    return 0
