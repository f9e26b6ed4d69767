"""Options that several commands share, and the kinds of words they accept."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mamba_unet.cluster import Cluster
    from mamba_unet.evaluation.metrics import Conventions

Commands = argparse._SubParsersAction
Run = Callable[[argparse.Namespace], int]


def command(commands: Commands, name: str, text: str, run: Run, *, takes_keys: bool = False, **kwargs):
    """The parser of one command.

    Args:
        text: what the command does, for the list of commands and its own help.
        run: called with the parsed words; returns the exit code.
        takes_keys: words that are no options are keys of a recipe, in `args.overrides`.
    """
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", **kwargs)
    parser.set_defaults(run=run, takes_keys=takes_keys)
    return parser


def device(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, mps, ...")


def ray(parser: argparse._ActionsContainer) -> None:
    """Who shares the work, and what each worker gets."""
    text = "share the work by Ray: auto (the cluster of this machine), ray://HOST:10001 or local (this machine alone)"
    parser.add_argument("--cluster", metavar="ADDRESS", help=text)
    actors = "workers, each with a network of its own (default: as many as there is room for)"
    parser.add_argument("--actors", type=positive, metavar="N", help=actors)
    gpus = "what each worker gets, such as 0.5 (default: 1 where there are any)"
    parser.add_argument("--gpus-per-actor", type=share, metavar="N", help=gpus)
    cpus = "CPU cores that each worker gets (default: 1 beside a GPU, else up to 4)"
    parser.add_argument("--cpus-per-actor", type=share, metavar="N", help=cpus)


def chosen_cluster(args: argparse.Namespace) -> "Cluster | None":
    """Raises ValueError where workers are asked for and no cluster."""
    shares = {name: getattr(args, name) for name in ("actors", "gpus_per_actor", "cpus_per_actor")}
    if args.cluster is None:
        if given := [f"--{name.replace('_', '-')}" for name, value in shares.items() if value is not None]:
            raise ValueError(f"{', '.join(given)} needs --cluster: auto, ray://HOST:10001 or local")
        return None
    from mamba_unet.cluster import Cluster

    return Cluster(args.cluster, **shares)


def memory(parser: argparse._ActionsContainer) -> None:
    text = "most memory that one input may take (default: 8 GiB, or half of the machine's where that is less)"
    parser.add_argument("--max-memory", type=gib, metavar="GIB", help=text)


def spacing_mm(word: str) -> tuple[float, ...]:
    """ "8,1.5,1.5": of slices, rows and columns."""
    try:
        sizes = tuple(float(part) for part in word.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or not all(0 < size < 1e4 for size in sizes):
        raise argparse.ArgumentTypeError(f"expected three sizes in mm, such as 8,1.5,1.5, got {word!r}")
    return sizes


def gib(word: str) -> float:
    try:
        size = float(word)
    except ValueError:
        size = 0
    if not 0 < size < 1e6:
        raise argparse.ArgumentTypeError(f"expected a size in GiB, such as 16, got {word!r}")
    return size


def cluster(parser: argparse.ArgumentParser) -> None:
    """What a training under a scheduler needs."""
    requeue = "under SLURM, put the job back into the queue when SIGUSR1 announces the end of its time"
    parser.add_argument("--requeue", action="store_true", help=requeue)
    copy = "folder on a disk of this machine: copy the prepared data there, once, and read them from there"
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help=copy)


def positive(word: str) -> int:
    if not (word.isdecimal() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {word!r}")
    return int(word)


def minutes(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = 0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected minutes, more than 0, such as 60, got {word!r}")
    return number


def share(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = -1
    if not 0 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, such as 0.5, got {word!r}")
    return number


def conventions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hd95", metavar="NAME", help="how HD95 is defined, see docs/metrics.md")
    parser.add_argument("--asd", metavar="NAME", help="how the average surface distance is defined")


def chosen_conventions(args: argparse.Namespace) -> "Conventions":
    from mamba_unet.evaluation.metrics import Conventions

    return Conventions(**{name: value for name in ("hd95", "asd") if (value := getattr(args, name)) is not None})


def source(parser: argparse.ArgumentParser) -> None:
    """A data set as downloaded, and how it is split."""
    parser.add_argument("source", type=Path, help="folder of the data set as downloaded; its layout is detected")


def layout_and_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", help="name of the data set, if the layout does not tell it")
    parser.add_argument("--layout", help="name of the layout, if several fit")
    parser.add_argument("--split", type=Path, help="JSON file with the patients of each split (default: published one)")
    parser.add_argument("--folds", type=int, help="also split the patients into this number of folds")
    parser.add_argument("--seed", type=int, default=0, help="of a split that is drawn at random (default: %(default)s)")
    patient = (
        "how a patient shows in a case's name: the first group, or the whole match (default: by folders and names)"
    )
    parser.add_argument("--patient-regex", metavar="REGEX", help=patient)
    names = "of the values in the masks, in ascending order, without the background"
    parser.add_argument("--class-names", nargs="+", metavar="NAME", help=names)
    binary = "one class: all values from this one on (default: the middle, 128 of 255); for masks with grey levels"
    parser.add_argument(
        "--binary-masks", nargs="?", type=float, const=True, default=False, metavar="THRESHOLD", help=binary
    )
    ignore = "value in the masks that marks pixels without ground truth"
    parser.add_argument("--ignore-label", type=int, metavar="VALUE", help=ignore)


def source_options(args: argparse.Namespace) -> dict[str, object]:
    """What `layout_and_split` parsed, as `data.check` and `data.prepare` take it."""
    words = ("dataset", "layout", "folds", "seed", "patient_regex", "class_names", "binary_masks", "ignore_label")
    return {"splits": args.split, **{word: getattr(args, word) for word in words}}


def named_recipe(word: str) -> tuple[str, str]:
    name, sign, recipe = word.rpartition("=")
    return (name, recipe) if sign else (Path(word).stem, word)


def named_folder(word: str) -> tuple[str, Path]:
    name, sign, folder = word.partition("=")
    if not (name and sign and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {word!r}")
    return name, Path(folder)


def seeds(word: str) -> list[int]:
    try:
        return [int(seed) for seed in word.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 0,1,2, got {word!r}") from error


def part(word: str) -> tuple[int, int]:
    number, _, count = word.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected K/N with K from 1 to N, such as 3/8, got {word!r}")
    return int(number), int(count)
