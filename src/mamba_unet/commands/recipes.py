"""`mamba-unet recipes`."""

import argparse

from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    command(commands, "recipes", "list the recipes that come with the package", run)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.tables import Table
    from mamba_unet.training.recipe import list_recipes

    print(Table(["recipe", "what it trains"], list(list_recipes().items()), left=(0, 1)).text(rule=True), end="")
    return 0
