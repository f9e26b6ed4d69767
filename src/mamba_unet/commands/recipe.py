"""`mamba-unet recipe`."""

import argparse

from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(commands, "recipe", "print a recipe, to change it: mamba-unet recipe NAME > my.yaml", run)
    parser.add_argument("name", help="one of those that `mamba-unet recipes` lists")


def run(args: argparse.Namespace) -> int:
    from mamba_unet.training.recipe import recipe_text

    print(recipe_text(args.name), end="")
    return 0
