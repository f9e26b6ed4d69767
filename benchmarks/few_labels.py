"""Train, compare and write down all rows of docs/few_labels.md on ACDC: few labels, and scribbles.

    python benchmarks/few_labels.py --source path/to/WSL4MIS/ACDC --out few --seeds 0,1,2 --iterations 3000

prepares the data in OUT/data, trains every row under the same number of iterations in OUT/comparison (what is complete
is not trained again, what was stopped goes on), chooses every checkpoint on the 10 validation patients, measures it on
the 20 test patients, and writes benchmarks/results/few_labels_<hardware>_<date>.md and .json. The hardware is the one
that trained where it was one for all rows. Further words override all recipes. --rows takes some rows; what a missing
row would be compared with is left out. --only-finished trains nothing and takes what is complete; --keep FOLDER as in
benchmarks/comparison.py. --part K/N trains every N-th training from the K-th on, in data that are prepared already: all
parts at once keep a GPU busy. The same call without it then writes the table.
"""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kept import keep, restore
from mamba_unet.commands.options import part, seeds
from mamba_unet.comparison.entry import Entry
from mamba_unet.comparison.paired import matched, p_text
from mamba_unet.comparison.run import compare
from mamba_unet.data import PreparedDataset
from mamba_unet.evaluation.significance import holm, paired_test
from mamba_unet.evaluation.summary import Evaluation
from mamba_unet.inference.evaluate import evaluate_checkpoint
from mamba_unet.runs import RunFolder
from mamba_unet.tables import number
from mamba_unet.training.recipe import Recipe, load_recipe
from measuring import run, table, write_result

UNET = {"name": "unet", "size": None}
SEVEN = load_recipe("acdc_few").labelled
PATIENTS = {3: SEVEN[:3], 7: SEVEN, 70: None}
SEMI = {
    "mean teacher": ("acdc_few_mean_teacher", []),
    "cps": ("acdc_few_cps", [UNET]),
    "semi-mamba-unet": ("acdc_few_semi_mamba_unet", [UNET]),
}
SCRIBBLE = {
    "partial ce": ("acdc_few_scribble", []),
    "mixed": ("acdc_few_mixed", None),  # of two decoders
    "weak-mamba-unet": ("acdc_few_weak_mamba_unet", [UNET, UNET]),
}
NO_MARGIN = ", no margin"  # pseudo labels of scribbles as published: the background has no lead at first
DIFFERS = "224 x 224 resized, 30,000 iterations, Mamba and Swin from ImageNet weights, one training, checkpoint not \
chosen on patients apart from the test"
PUBLISHED = [  # row, Dice, what differs from ours; rows of the same name in two papers are not mixed
    ("semi-mamba-unet, 7", 0.9114, "arXiv 2402.07245", f"batch of 16; {DIFFERS}"),
    ("U-Net + Swin-Unet in its place, 7", 0.9105, "arXiv 2402.07245", f"batch of 16; {DIFFERS}"),
    ("weak-mamba-unet", 0.9171, "arXiv 2402.10887", f"batch of 12; {DIFFERS}"),
]


def rows() -> dict[str, tuple[str, dict[str, Any]]]:
    """Row -> recipe, and the keys that differ from it. "U-Net" in a row's name: each of its networks is one."""
    named: dict[str, tuple[str, dict[str, Any]]] = {}
    for kind, model in (("", {}), ("U-Net, ", {"model": UNET})):
        for count, patients in PATIENTS.items():
            named[f"{kind}supervised, {count}"] = ("acdc_few", {"labelled": patients, **model})
        for count in (3, 7):
            for method, (recipe, partners) in SEMI.items():
                keys = {"labelled": PATIENTS[count], **model}
                named[f"{kind}{method}, {count}"] = (recipe, keys | _partners(model, partners))
        for method, (recipe, partners) in SCRIBBLE.items():
            named[f"{kind}{method}"] = (recipe, model | _partners(model, partners))
            if load_recipe(recipe).objective == "mixed":
                keys = model | _partners(model, partners, background=0)
                named[f"{kind}{method}{NO_MARGIN}"] = (recipe, keys)
    return named


def _partners(
    model: Mapping[str, Any], partners: Sequence[Mapping[str, Any]] | None, **keys: float
) -> dict[str, dict[str, Any]]:
    return {"few_labels": ({"partners": list(partners)} if model and partners else {}) | keys}


def baselines(row: str) -> dict[str, str]:
    """What a row is tested against, and what that says."""
    kind, name = ("U-Net, ", row.removeprefix("U-Net, ")) if row.startswith("U-Net, ") else ("", row)
    method, _, count = name.partition(", ")
    against = {}
    if method in SEMI:
        against[f"{kind}supervised, {count}"] = "what images without labels add"
    if method in SCRIBBLE:
        against[f"{kind}supervised, 70"] = "what scribbles cost against dense labels"
        against[f"{kind}{method}{NO_MARGIN}"] = "what the margin of the background adds"
    if not kind:
        against[f"U-Net, {row}"] = "whether Mamba is what helps"
    against.pop(row, None)
    return against


def tests(entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """One for each row and what it is compared with, over patients, corrected together."""
    found = []
    for row, entry in entries.items():
        for other, question in baselines(row).items():
            if other in entries:
                own, theirs = matched(entry, entries[other])
                values, expected = entry.per_patient("dice", own), entries[other].per_patient("dice", theirs)
                test = paired_test([values[p] for p in expected], list(expected.values()), higher_is_better=True)
                asked = {"row": row, "against": other, "question": question, "trainings": len(own)}
                found.append(asked | asdict(test))
    for test, p in zip(found, holm([test["p"] for test in found]), strict=True):
        test["p_holm"] = p
    return found


def reached(entries: Mapping[str, Entry]) -> list[list[str]]:
    """The share of the gap between few and all labels, and of the Dice of dense labels; over the seeds by which all the
    rows were trained that it is about."""
    lines = []
    for row in entries:
        kind = "U-Net, " if row.startswith("U-Net, ") else ""
        method, _, count = row.removeprefix(kind).partition(", ")
        everything, few = f"{kind}supervised, 70", f"{kind}supervised, {count}"
        about = [row, everything, few] if method in SEMI else [row, everything]
        if method not in (*SEMI, *SCRIBBLE) or not set(about) <= entries.keys():
            continue
        seeds = set.intersection(*({run["seed"] for run in entries[name].runs} for name in about))
        if not seeds:
            continue
        own, whole, *less = (_dice(entries[name], seeds) for name in about)
        if method in SCRIBBLE:
            said = f"{100 * own / whole:.1f} % of the Dice of dense labels"
        elif whole > less[0]:
            said = f"{100 * (own - less[0]) / (whole - less[0]):.0f} % of the gap to 70 patients"
        else:
            continue
        lines.append([row, said, str(len(seeds))])
    return lines


def _dice(entry: Entry, seeds: set[int]) -> float:
    """The mean over the trainings by these seeds."""
    values = zip(entry.runs, entry.statistic("dice").values, strict=True)
    found = [value for run, value in values if run["seed"] in seeds]
    return sum(found) / len(found)


def other_networks(entries: Mapping[str, Entry], folder: Path, prepared: PreparedDataset) -> list[list[str]]:
    """Test Dice of the networks beside the chosen one, each by its own best checkpoint on the validation patients."""
    lines = []
    for row, entry in entries.items():
        found: dict[str, list[float]] = {}
        for described in entry.runs:
            run = RunFolder(folder / described["folder"])
            for name in described["validation_dice_of_others"]:
                measured, weights = run.evaluation(f"{name}_test"), run.best_of(name)
                if weights.is_file():  # else the run was kept without them, and what was measured counts
                    evaluate_checkpoint(weights, prepared)
                elif not measured.is_dir():
                    raise SystemExit(
                        f"{run.path}: {name} was not measured on the test patients before the run was kept; write this "
                        "table where its weights are, with --keep, which measures and keeps it"
                    )
                found.setdefault(name, []).append(Evaluation.read(measured).mean_foreground_dice)
        lines += [[row, name, number(sum(values) / len(values), 4)] for name, values in found.items()]
    return lines


def trained_by(entries: Mapping[str, Entry], folder: Path) -> dict[str, Any] | None:
    """The machine that trained, if it was one for all."""
    folders = [folder / run["folder"] for entry in entries.values() for run in entry.runs]
    machines = [RunFolder(path).read_versions() for path in folders]
    return machines[0] if all(machine == machines[0] for machine in machines) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="ACDC as WSL4MIS ships it, with its scribbles")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--seeds", type=seeds, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", metavar="ROW", choices=rows(), help="default: all; quote names")
    parser.add_argument("--only-finished", action="store_true", help="train nothing, write down what is complete")
    parser.add_argument("--part", type=part, default=(1, 1), metavar="K/N", help="train a part, write nothing down")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="trainings of this table, done before and now")
    args, words = parser.parse_known_args()

    data, folder = args.out / "data", args.out / "comparison"
    if args.part == (1, 1):
        run("prepare", args.source, data)
    prepared = PreparedDataset(data)
    chosen = {row: rows()[row] for row in args.rows or rows()}
    recipes: dict[str, Recipe] = {
        row: load_recipe(load_recipe(recipe, keys), words) for row, (recipe, keys) in chosen.items()
    }
    reference = next((row for row in ("supervised, 7", "supervised, 70") if row in recipes), None)
    if args.keep:
        restore(args.keep, folder / "runs")
    how = {"seeds": args.seeds, "reference": reference, "progress": True, "only_finished": args.only_finished}
    comparison = compare(recipes, data, folder, part=args.part, **how)
    if comparison is None:
        return
    found = tests(comparison.entries)
    others = other_networks(comparison.entries, folder, prepared)
    if args.keep:
        keep(folder / "runs", args.keep)
    gaps = reached(comparison.entries)
    given = ["--source", args.source.name, "--out", args.out.name, "--seeds", ",".join(map(str, args.seeds)), *words]
    given += ["--rows", *args.rows] if args.rows else []
    given += ["--only-finished"] if args.only_finished else []
    given += ["--keep", args.keep.name] if args.keep else []
    command = "python benchmarks/few_labels.py " + shlex.join(given)
    lines = [
        f"Command: `{command}`. Every row has the same number of iterations and batch; numbers of patients are those "
        "with labels, of 70.",
        "",
        (folder / "table.md").read_text(encoding="utf-8"),
        "",
        "## Paired tests over the test patients, Dice",
        "",
        table(
            ["row", "against", "says", "trainings", "median difference", "p", "p (Holm)"],
            [
                [
                    *(test["row"], test["against"], test["question"], str(test["trainings"])),
                    number(test["median_difference"], 4, signed=True),
                    *(p_text(test[key]) for key in ("p", "p_holm")),
                ]
                for test in found
            ],
        ),
        "",
        *(["## How far it goes", "", table(["row", "mean Dice", "trainings"], gaps), ""] if gaps else []),
        "## The other networks of each training",
        "",
        "The table above has the network that the recipe says is saved; here each other one, at its own best.",
        "",
        table(["row", "network", "Dice"], others),
        "",
        "## Published",
        "",
        "Rows of one name in two papers are not the same and not mixed: UA-MT at 7 patients is 0.815 in one and "
        "0.8798 in another.",
        "",
        table(["row", "Dice", "source", "what differs"], [[a, f"{b:.4f}", c, d] for a, b, c, d in PUBLISHED]),
    ]
    values = {
        "command": command,
        "fingerprint": prepared.fingerprint,
        "tests": found,
        "other_networks": others,
        "comparison": json.loads((folder / "comparison.json").read_text(encoding="utf-8")),
    }
    elsewhere = trained_by(comparison.entries, folder)
    write_result("few_labels", "Few labels and scribbles on ACDC under one budget", lines, values, elsewhere)


if __name__ == "__main__":
    main()
