"""Compare networks on a real data set under one budget and write the table down.

    python benchmarks/comparison.py acdc_cpu acdc_cpu_unet --source path/to/ACDC --out comparison --iterations 400 ...

prepares the data in OUT/data, runs `mamba-unet compare` in OUT/comparison with the words given (what is trained already
is not trained again), and writes benchmarks/results/comparison_<data>_<hardware>_<date>.md and .json. Recipes that
benchmarks/rates.py wrote give all networks the same time; the result names the file they come from. With
--only-finished nothing is trained, and what is complete is compared. --keep FOLDER counts the trainings that an earlier
call kept there as done, and keeps what is done in the end: so a table grows over days and machines.
"""

import argparse
import json
import re
import shlex
from pathlib import Path

from kept import keep, restore
from mamba_unet.data import PreparedDataset
from mamba_unet.training.recipe import find_recipe, load_recipe
from measuring import axes, run, write_result

RATES = re.compile(r"benchmarks/results/rates_\S+\.md")
MINUTES = re.compile(r"as fit in (\S+) minutes, by")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--source", type=Path, required=True, help="the data set as downloaded")
    parser.add_argument("--split", type=Path, help="a split file of `prepare`")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
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
    minutes = sorted({name for text in texts for name in MINUTES.findall(text)})
    times = "Equal time for each training" if len(minutes) < 2 else f"Unequal times, {' and '.join(minutes)} minutes"
    given = ["/".join(Path(recipe).parts[-3:]) for recipe in args.recipes]  # without the folders of this machine
    given += ["--source", args.source.name, "--out", args.out.name]
    given += [*(["--split", args.split.name] if args.split else []), *words]
    command = "python benchmarks/comparison.py " + shlex.join(given)
    lines = [f"Command: `{command}`"]
    lines += ["", f"{times}: as many iterations as fit by {' and '.join(rates)}."] if rates else []
    lines += ["", (folder / "table.md").read_text(encoding="utf-8")]
    comparison = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    if comparison["tests"]:
        lines += ["", (folder / "significance.md").read_text(encoding="utf-8")]
    values = {"command": command, "fingerprint": prepared.fingerprint, "rates": rates}
    values |= {"comparison": comparison}
    write_result(
        f"comparison_{prepared.name}{axes(map(load_recipe, files))}",
        f"Networks on {prepared.name} under one budget",
        lines,
        values,
    )


if __name__ == "__main__":
    main()
