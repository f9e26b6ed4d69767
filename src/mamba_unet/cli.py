"""The command `mamba-unet`. Each command imports what it needs when it runs, so that `--help` is instant."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from mamba_unet import __version__
from mamba_unet.commands import COMMANDS

SPINS = "1000"  # some microseconds


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mamba-unet", description="Mamba-UNet for medical image segmentation.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    0, 1 for bad data, 2 for wrong words or input, 130 at Ctrl-C, 141 where the reader of the output has closed it.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without "±" shows "?" for it, after hours of work as before
            stream.reconfigure(errors="replace")
    # How long torch's threads wait awake for each other; read when torch is loaded. By default they keep a core busy
    # for longer, and where other programs want it too, a training takes many times as long: benchmarks/waiting.py.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    for before, word in pairwise([parser.prog, *words]):
        if not word or (word.startswith("--") and word.find("=") == len(word) - 1):
            parser.error(f"an empty word after {word or before}; was a shell variable not set?")
    args, rest = parser.parse_known_args(words)
    if rest and not args.takes_keys:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    args.overrides, args.words = rest, words[1:]
    log = logging.getLogger("mamba_unet")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()]
    try:
        if getattr(args, "max_memory", None) is not None:
            from mamba_unet.volumes.limits import set_limit

            set_limit(args.max_memory)
        code = args.run(args)
        print(end="", flush=True)  # here, where a reader that is gone is told, and not as the interpreter ends
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed as the interpreter ends
        return 141
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"mamba-unet: {_file_for_folder(error) or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mamba-unet: interrupted", file=sys.stderr)
        return 130


def _file_for_folder(error: Exception) -> str | None:
    """What to say where a file stands in a folder's place: the system may name only what was to be below it."""
    if isinstance(error, NotADirectoryError | FileExistsError) and isinstance(error.filename, str | Path):
        path = Path(error.filename)
        for place in (path, *path.parents):
            if place.exists() and not place.is_dir():
                return f"{place} is a file, and a folder was expected; choose another name"
    return None
