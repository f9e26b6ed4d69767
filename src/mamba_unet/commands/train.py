"""`mamba-unet train`."""

import argparse
from contextlib import nullcontext

from mamba_unet.commands import options
from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "train",
        "train a network by a recipe",
        run,
        takes_keys=True,
        usage="%(prog)s RECIPE [--resume | --requeue] [--data DIR] [--out DIR] [--cache-dir DIR] [--KEY VALUE]",
    )
    parser.add_argument(
        "recipe", help="name of a shipped recipe, or YAML file; its keys can be overridden: --optimizer.lr 0.001"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, or begin it")
    options.cluster(parser)


def run(args: argparse.Namespace) -> int:
    if args.words[0].startswith("-") and args.words[0] not in ("--resume", "--requeue"):
        raise ValueError("train takes the recipe first: mamba-unet train RECIPE --data DIR --out DIR")
    from mamba_unet.training.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.overrides)
    from mamba_unet.training.signals import requeued
    from mamba_unet.training.train import train

    with requeued() if args.requeue else nullcontext():
        train(recipe, resume=args.resume or args.requeue, cache_dir=args.cache_dir)
    return 0
