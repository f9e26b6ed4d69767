"""What each part of a recipe is good for: train it complete, and once without each part.

    python benchmarks/ablations.py acdc_scratch --source path/to/ACDC --out OUT --seeds 0,1,2 --iterations 800

Every training has the same number of iterations. Only validation patients are looked at, never those of the test: what
is compared is the best mean foreground Dice of each training's validations. What is trained already is not trained
again, and a training that was stopped goes on; the seeds come one after the other, so that `--only-finished` has a
table of what is complete at any time. Further words override the recipe. A part that the recipe does not have is not
left out. Results for the better and for the worse are all in the table.

Writes benchmarks/results/ablations_<recipe>_<data>_<hardware>_<date>.md and .json.
"""

import argparse
import json
import shlex
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mamba_unet.commands import options
from mamba_unet.data import PreparedDataset
from mamba_unet.models.checkpoint import read_metadata
from mamba_unet.runs import RunFolder
from mamba_unet.training.recipe import Recipe, experiment, load_recipe
from mamba_unet.training.train import check_resumable, train
from measuring import run, table, write_result

COMPLETE = "complete"
PARTS = {  # name of a run -> what is left out, and the keys that do so
    "augment": ("nnU-Net's augmentation: the paper's instead", {"augment": "paper"}),
    "ema": ("the average of the weights", {"optimizer.ema": 0.0}),
    "decay": ("no weight decay on biases, norms, A and D: on all instead", {"optimizer.decay_all": True}),
    "foreground": ("windows around the foreground", {"view.foreground": 0.0}),
    "crop": ("windows at native resolution: slices resized instead", {"view.fit": "resize"}),
    "clip": ("the limit of the gradient's norm", {"optimizer.clip_norm": None}),
    "deep": ("the losses of coarser decoder stages", {"deep_supervision": False}),
    "warmup": ("the warm-up of the learning rate", {"optimizer.warmup": 0}),
    "stem": (
        "the convolutional stem and its start: its first form instead",
        {"model.arguments": {"stem": "conv_group"}},
    ),
}


def variants(recipe: Recipe) -> dict[str, tuple[str, Recipe]]:
    """Name -> what is left out, and the recipe without it; the complete one first."""
    found = {COMPLETE: (COMPLETE, recipe)}
    for name, (text, keys) in PARTS.items():
        without = load_recipe(recipe, keys)
        has = {"foreground": recipe.view.fit == "crop", "stem": recipe.model.name.startswith("mamba_unet_fine")}
        means_something = has.get(name, True)
        if means_something and experiment(without) != experiment(recipe):
            words = " ".join(
                f"--{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in keys.items()
            )
            found[name] = f"{text} (`{words}`)", without
    return found


def rows(dice: dict[str, dict[int, float]], texts: dict[str, str]) -> list[list[object]]:
    """The table: mean over trainings, and the mean difference to the complete recipe over the seeds that both have."""
    lines = []
    for name, by_seed in dice.items():
        values, both = list(by_seed.values()), [seed for seed in by_seed if seed in dice[COMPLETE]]
        differences = [by_seed[seed] - dice[COMPLETE][seed] for seed in both]
        line: list[object] = [texts[name], len(values), f"{fmean(values):.4f}" if values else "-"]
        line[2] += f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        if name != COMPLETE and differences:
            line += [f"{fmean(differences):+.4f}", f"{sum(d < 0 for d in differences)} of {len(differences)}"]
        lines.append(line + ["-"] * (5 - len(line)))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--source", type=Path, required=True, help="the data set as downloaded")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--seeds", type=options.seeds, default=[0], help="a training of each by each (default: 0)")
    parser.add_argument("--only-finished", action="store_true", help="train nothing, write down what is complete")
    args, words = parser.parse_known_args()

    recipe, data = load_recipe(args.recipe, words), args.out / "data"
    run("prepare", args.source, data)
    prepared, found = PreparedDataset(data), variants(recipe)
    runs = {
        (name, seed): load_recipe(one, {"out": str(args.out / "ablations" / name / f"seed{seed}"), "seed": seed})
        for seed in args.seeds
        for name, (_, one) in found.items()
    }
    for one in runs.values():
        check_resumable(RunFolder(one.out), one, prepared)
    dice: dict[str, dict[int, float]] = {name: {} for name in found}
    trainings: dict[str, dict[int, Any]] = {name: {} for name in found}
    for (name, seed), one in runs.items():
        folder = RunFolder(one.out)
        if not folder.is_complete:
            if args.only_finished:
                continue
            print(f"{name}, seed {seed}", flush=True)
            train(one, data, resume=True)
        validation = read_metadata(folder.best).validation
        dice[name][seed] = validation["mean_foreground_dice"]
        trainings[name][seed] = {"best": validation, **folder.read_progress()}

    given = [args.recipe.stem, "--source", args.source.name, "--out", args.out.name]
    given += ["--seeds", ",".join(map(str, args.seeds)), *["--only-finished"] * args.only_finished, *words]
    command = "python benchmarks/ablations.py " + shlex.join(given)
    missing = len(runs) - sum(map(len, dice.values()))
    patients = [patient for patient, cases in prepared.patients.items() if {*cases} & {*prepared.split("val")}]
    lines = [
        f"Command: `{command}`",
        "",
        f"{recipe.iterations:,} iterations of {recipe.batch_size} slices each, {recipe.model.name} "
        f"({recipe.model.size or 'default size'}). Best mean foreground Dice on the {len(patients)} validation "
        "patients, mean ± standard deviation over trainings; test patients were not looked at. The difference is the "
        "mean over pairs of trainings of one seed: negative where the part helps.",
        "",
        *([f"{missing} trainings are not complete and left out.", ""] if missing else []),
        table(
            ["left out", "trainings", "validation Dice", "difference to complete", "seeds in which it is worse"],
            rows(dice, {name: text for name, (text, _) in found.items()}),
        ),
    ]
    values = {
        "command": command,
        "data": {"name": prepared.name, "fingerprint": prepared.fingerprint},
        "recipe": experiment(recipe),
        "left_out": {name: PARTS[name][1] for name in found if name != COMPLETE},
        "trainings": trainings,
    }
    what = f"ablations_{args.recipe.stem}_{prepared.name}"
    write_result(what, f"{args.recipe.stem} on {prepared.name}, without one part at a time", lines, values)


if __name__ == "__main__":
    main()
