"""The command `mamba-unet`. Each command imports what it needs when it runs, so that `--help` is instant."""

import argparse
import logging
import sys
from collections.abc import Sequence

from mamba_unet import __version__
from mamba_unet.commands import COMMANDS


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mamba-unet", description="Mamba-UNet for medical image segmentation.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for bad data, 2 for wrong words or input, 130 at Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without "±" shows "?" for it, after hours of work as before
            stream.reconfigure(errors="replace")
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    args, rest = parser.parse_known_args(words)
    if rest and not args.takes_keys:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    args.overrides, args.words = rest, words[1:]
    log = logging.getLogger("mamba_unet")
    log.setLevel(logging.INFO)
    log.handlers = [logging.StreamHandler()]
    try:
        return args.run(args)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"mamba-unet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mamba-unet: interrupted", file=sys.stderr)
        return 130
