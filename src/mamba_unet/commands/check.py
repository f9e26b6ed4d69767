"""`mamba-unet check`."""

import argparse

from mamba_unet.commands.options import Commands, command, layout_and_split, source, source_options


def add(commands: Commands) -> None:
    parser = command(commands, "check", "list every problem of a data set, without writing anything", run)
    source(parser)
    layout_and_split(parser)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.data import check

    report = check(args.source, **source_options(args))
    print(report.table())
    return 1 if report.errors else 0
