"""Words of the command line that are more than text."""

import argparse

import pytest

from mamba_unet.cli import build_parser
from mamba_unet.commands import COMMANDS, options


def test_a_recipe_is_named_by_its_file_or_by_hand():
    assert options.named_recipe("recipes/acdc_unet.yaml") == ("acdc_unet", "recipes/acdc_unet.yaml")
    assert options.named_recipe("mine=recipes/acdc_unet.yaml") == ("mine", "recipes/acdc_unet.yaml")


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (options.named_folder, "nnunet"),
        (options.named_folder, "=folder"),
        (options.seeds, "0,a"),
        (options.part, "0/3"),
        (options.part, "4/3"),
        (options.part, "3"),
    ],
)
def test_a_word_that_does_not_fit_is_refused_by_what_was_expected(kind, word):
    with pytest.raises(argparse.ArgumentTypeError, match="expected"):
        kind(word)


def test_words_that_fit():
    assert options.seeds("0,2") == [0, 2] and options.part("3/8") == (3, 8)
    name, folder = options.named_folder("nnunet=a=b")
    assert (name, str(folder)) == ("nnunet", "a=b")


def test_conventions_have_the_defaults_of_the_metrics():
    from mamba_unet.evaluation.metrics import Conventions

    parse = build_parser().parse_args
    words = ["evaluate", "run", "--data", "data"]
    assert options.chosen_conventions(parse(words)) == Conventions()
    assert options.chosen_conventions(parse([*words, "--hd95", "hd"])) == Conventions(hd95="hd")
    with pytest.raises(ValueError, match="unknown asd convention"):
        options.chosen_conventions(parse([*words, "--asd", "hd"]))


@pytest.mark.parametrize("command", [command.__name__.rpartition(".")[2].replace("_", "-") for command in COMMANDS])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as done:
        build_parser().parse_args([command, "--help"])
    assert done.value.code == 0
    assert "usage: mamba-unet " + command in capsys.readouterr().out
