"""`mamba-unet report`."""

import argparse
from pathlib import Path

from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(commands, "report", "write the report of a run, one HTML page", run)
    parser.add_argument("run_folder", type=Path, metavar="run", help="run folder")


def run(args: argparse.Namespace) -> int:
    from mamba_unet.evaluation.summary import Evaluation
    from mamba_unet.report import write_report
    from mamba_unet.report.page import OTHER
    from mamba_unet.runs import RunFolder

    page = write_report(args.run_folder)
    run_folder = RunFolder(args.run_folder)
    for split, folder in run_folder.evaluations.items():
        print(f"{split}:\n{Evaluation.read(folder).text()}")
        if not run_folder.is_current(folder):
            print(f"{OTHER}\n")
    print(f"report: {page}")
    return 0
