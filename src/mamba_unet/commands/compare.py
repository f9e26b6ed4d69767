"""`mamba-unet compare`."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from mamba_unet.commands import options
from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "compare",
        "train several networks alike, measure and test them",
        run,
        takes_keys=True,
        usage="%(prog)s RECIPE... --data DIR --out DIR [--seeds 0,1,2] [--folds K] [--external NAME=DIR] [--part K/N] "
        "[--KEY VALUE]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "recipes",
        type=options.named_recipe,
        nargs="*",
        metavar="recipe",
        help="name of a shipped recipe, YAML file, or NAME=FILE",
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that `prepare` wrote")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; what is complete in it is not done again"
    )
    parser.add_argument(
        "--seeds", type=options.seeds, default=[0], help="train every network once with each of them (default: 0)"
    )
    parser.add_argument("--folds", type=int, help="cross-validation over the folds of the data (`prepare --folds`)")
    parser.add_argument("--reference", metavar="NAME", help="row that the others are tested against (default: first)")
    parser.add_argument(
        "--external",
        type=options.named_folder,
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a row of another program's predictions, with files named by case; may be given several times",
    )
    parser.add_argument(
        "--only-finished",
        action="store_true",
        help="train nothing: compare the trainings that are complete, and say which are left out",
    )
    part = "train and measure every N-th training from the K-th on; without it, the last call writes the tables"
    parser.add_argument("--part", type=options.part, default=(1, 1), metavar="K/N", help=part)
    options.cluster(parser)
    options.ray(parser)
    options.conventions(parser)
    options.device(parser)
    options.memory(parser)


def run(args: argparse.Namespace) -> int:
    for word in args.overrides:
        if word.split("=")[0] in ("--seed", "--fold"):
            raise ValueError(f"{word} cannot be set in a comparison; give all of them: --seeds 0,1,2, --folds 5")
    keys = iter(args.overrides)
    for key in keys:
        if not key.startswith("--") or ("=" not in key and next(keys, None) is None):
            raise ValueError(
                f"{key} is out of place: recipes come first, then keys with one value each: "
                "mamba-unet compare demo acdc_unet --iterations 2 --data DIR --out DIR"
            )
    cluster = options.chosen_cluster(args)
    if cluster is not None and args.requeue:
        raise ValueError("--requeue is for a job that trains by itself; with --cluster start the same command again")
    from mamba_unet.training.recipe import load_recipe

    recipes = {}
    for name, path in args.recipes:
        if name in recipes:
            raise ValueError(f"two recipes are called {name!r}; give one another name: NAME={path}")
        recipes[name] = load_recipe(path, args.overrides)
    from mamba_unet.comparison.run import compare
    from mamba_unet.training.signals import requeued

    with requeued() if args.requeue else nullcontext():
        comparison = compare(
            recipes,
            args.data,
            args.out,
            seeds=args.seeds,
            folds=args.folds,
            external=args.external,
            reference=args.reference,
            conventions=options.chosen_conventions(args),
            device=args.device,
            progress=sys.stderr.isatty(),
            only_finished=args.only_finished,
            part=args.part,
            cache_dir=args.cache_dir,
            cluster=cluster,
        )
    if comparison is None:
        print(f"part {args.part[0]} of {args.part[1]} is done; the same command without --part writes the tables")
        return 0
    print((args.out / "table.md").read_text(encoding="utf-8"))
    if comparison.tests:
        print((args.out / "significance.md").read_text(encoding="utf-8"))
    print(f"written to {args.out}; to look at: {args.out / 'comparison.html'}")
    return 0
