"""Compare networks on a real data set and write the table down.

    python benchmarks/comparison.py acdc_cpu acdc_cpu_unet --source path/to/ACDC --out comparison --iterations 400 ...

prepares the data in OUT/data, runs `mamba-unet compare` in OUT/comparison with the words given (what is trained already
is not trained again), and writes benchmarks/results/comparison_<data>_<hardware>_<date>.md and .json (--name comes
before the hardware). Recipes that benchmarks/rates.py wrote give all networks the same time; the result names the file
they come from. With --only-finished nothing is trained, and what is complete is compared. --keep FOLDER counts the
trainings that an earlier call kept there as done, and keeps what is done in the end: so a table grows over days and
machines.
"""

import argparse
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from kept import keep, restore
from mamba_unet.data import PreparedDataset
from mamba_unet.training.recipe import PLACE_KEYS, RENAMED, find_recipe, load_recipe, recipe_fields
from measuring import axes, run, write_result

RATES = re.compile(r"benchmarks/results/rates_\S+\.md")
MINUTES = re.compile(r"as fit in (\S+) minutes, by")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--source", type=Path, required=True, help="the data set as downloaded")
    parser.add_argument("--split", type=Path, help="a split file of `prepare`")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--name", help="into the result's file name, where one day has several tables")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="trainings of this table, done before and now")
    args, words = parser.parse_known_args()

    data, folder = args.out / "data", args.out / "comparison"
    run("prepare", args.source, data, *(["--split", args.split] if args.split else []))
    if args.keep:
        restore(args.keep, folder / "runs")
    run("compare", *args.recipes, "--data", data, "--out", folder, *words)
    if args.keep:
        keep(folder / "runs", args.keep)

    prepared = PreparedDataset(data)
    files = [find_recipe(recipe.rpartition("=")[2]) for recipe in args.recipes]
    texts = [path.read_text(encoding="utf-8") for path in files]
    rates = sorted({name for text in texts for name in RATES.findall(text)})
    given = ["/".join(Path(recipe).parts[-3:]) for recipe in args.recipes]  # without the folders of this machine
    given += ["--source", args.source.name, "--out", args.out.name]
    for word in ("split", "keep"):
        given += [f"--{word}", getattr(args, word).name] if getattr(args, word) else []
    given += [*(["--name", args.name] if args.name else []), *words]
    command = "python benchmarks/comparison.py " + shlex.join(given)
    lines = [f"Command: `{command}`"]
    lines += ["", said_of_time(dict(zip(args.recipes, texts, strict=True)), words)] if rates else []
    lines += ["", (folder / "table.md").read_text(encoding="utf-8")]
    comparison = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    if comparison["tests"]:
        lines += ["", (folder / "significance.md").read_text(encoding="utf-8")]
    values = {"command": command, "fingerprint": prepared.fingerprint, "rates": rates}
    values |= {"comparison": comparison}
    write_result(
        f"comparison_{prepared.name}{axes(map(load_recipe, files))}{f'_{args.name}' if args.name else ''}",
        f"Networks on {prepared.name}",
        lines,
        values,
    )


def said_of_time(texts: Mapping[str, str], words: Sequence[str]) -> str:
    """Whether the trainings had equal time, where at least one recipe comes from rates.py.

    Args:
        texts: of the recipes, by their names.
        words: further ones of the command.
    """
    rates = " and ".join(sorted({name for text in texts.values() for name in RATES.findall(text)}))
    minutes = sorted({name for text in texts.values() for name in MINUTES.findall(text)})
    others = [Path(name).name for name, text in texts.items() if not RATES.search(text)]
    keys = [word.removeprefix("--").partition("=")[0] for word in words if word.startswith("--")]
    known = {key.partition(".")[0] for key in {key for key, _ in recipe_fields()} - PLACE_KEYS} | {"view", *RENAMED}
    changed = [key for key in keys if key not in PLACE_KEYS and key.partition(".")[0] in known]
    if others:
        return f"Times are not equal: {', '.join(others)} was not given as many iterations as fit by {rates}."
    if changed:
        return (
            f"The command changes {', '.join(changed)} of the recipes, whose iterations are as many as fit by {rates}."
        )
    if len(minutes) > 1:
        return f"Unequal times, {' and '.join(minutes)} minutes: as many iterations as fit by {rates}."
    return f"Equal time for each training: as many iterations as fit by {rates}."


if __name__ == "__main__":
    main()
