"""`mamba-unet evaluate`."""

import argparse
import sys
from pathlib import Path

from mamba_unet.commands import options
from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(commands, "evaluate", "measure a trained network on a split of a prepared data set", run)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("checkpoint", type=Path, nargs="?", help="run folder or checkpoint")
    what.add_argument(
        "--predictions", type=Path, help="measure another program's predictions: a folder of files named by case"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    parser.add_argument("--split", default="test", help="which cases (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, help="folder to write (default: evaluation_SPLIT in the run, evaluation in --predictions)"
    )
    options.conventions(parser)
    options.device(parser)
    options.memory(parser)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.api import evaluate
    from mamba_unet.data import PreparedDataset
    from mamba_unet.inference.evaluate import evaluation_folder
    from mamba_unet.models.checkpoint import find_checkpoint, read_metadata

    out, prepared = args.out, PreparedDataset(args.data)
    if out is None:
        inside = args.predictions is not None
        out = args.predictions / "evaluation" if inside else evaluation_folder(args.checkpoint, args.split, prepared)
    evaluation = evaluate(
        args.checkpoint,
        prepared,
        args.split,
        out,
        predictions=args.predictions,
        conventions=options.chosen_conventions(args),
        device=args.device,
        progress=sys.stderr.isatty(),
    )
    print(evaluation.text())
    metadata = None if args.checkpoint is None else read_metadata(find_checkpoint(args.checkpoint))
    if metadata is not None and metadata.learned_from:
        print(f"{metadata.model} learned from {metadata.learned_from}.")
    print(f"written to {out}")
    return 0
