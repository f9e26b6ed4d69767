"""Train, evaluate and write down one recipe's result on a real data set.

    python benchmarks/training.py acdc_cpu --source path/to/ACDC --out runs/acdc_cpu

prepares the data in OUT/data, trains in OUT/run (continuing where a killed one stopped), chooses the checkpoint on the
validation patients, measures it once on the test patients, and writes benchmarks/results/training_<recipe>_<hardware>_
<date>.md and .json. The same command serves a CPU and a GPU; further words override the recipe. With --trained, OUT/run
was trained on another machine: it is measured here where that is not done yet, and the result names that machine.
"""

import argparse
import json
import shlex
from pathlib import Path

from mamba_unet.data import PreparedDataset
from mamba_unet.evaluation.cases import Evaluation
from mamba_unet.models.loading import load_checkpoint
from mamba_unet.runs import RunFolder
from mamba_unet.training.recipe import experiment, load_recipe
from measuring import run, write_result

# What the paper reports for Mamba-UNet on the 20 test patients, trained from VMamba-Tiny's ImageNet weights.
PAPER = {"acdc": 0.9281}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--source", type=Path, required=True, help="the data set as downloaded")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--trained", action="store_true", help="OUT/run was trained on another machine")
    args, overrides = parser.parse_known_args()

    data, folder = args.out / "data", args.out / "run"
    run("prepare", args.source, data)
    if not args.trained:
        run("train", args.recipe, "--resume", "--data", data, "--out", folder, *overrides)
    for split in ("val", "test"):
        if not (args.trained and RunFolder(folder).evaluation(split).is_dir()):
            run("evaluate", folder, "--data", data, "--split", split)
    if not args.trained:
        run("report", folder)

    prepared = PreparedDataset(data)
    model, metadata = load_checkpoint(folder)
    progress = RunFolder(folder).read_progress()
    evaluations = {split: Evaluation.read(RunFolder(folder).evaluation(split)) for split in ("val", "test")}
    recipe = load_recipe(RunFolder(folder).recipe)
    parameters = sum(p.numel() for p in model.parameters())
    given = Path(*args.recipe.parts[-3:])  # without the folders of this machine
    words = ["benchmarks/training.py", given, "--source", args.source.name, "--out", args.out.name]
    words += ["--trained"] * args.trained + overrides
    command = "python " + shlex.join(map(str, words))
    dice = f"**{evaluations['test'].mean_foreground_dice:.4f}**"
    if prepared.name in PAPER:
        dice += f"; the paper, from ImageNet weights: {PAPER[prepared.name]:.4f}"
    lines = [
        f"- command: `{command}`",
        f"- network: {metadata.model} {json.dumps(metadata.config)}, {parameters:,} parameters, "
        f"from {recipe.pretrained or 'random weights'}, {recipe.view.to_json()['kind']} of "
        f"{' x '.join(map(str, recipe.view.size))}",
        f"- training: {recipe.trainer.precision}, seed {recipe.seed}, {progress['iteration']} iterations of "
        f"{recipe.batch_size} in {60 * progress['hours']:.1f} minutes, validation included"
        + ("" if recipe.minutes is None else f"; ended by `minutes: {recipe.minutes}`"),
        f"- checkpoint: iteration {metadata.validation['iteration']}, chosen on the validation patients",
        f"- mean foreground Dice on the test patients: {dice}",
    ]
    for split, evaluation in evaluations.items():
        lines += ["", f"## {split}", "", evaluation.markdown()]
    values = {
        "command": command,
        "data": {"name": prepared.name, "fingerprint": prepared.fingerprint},
        "parameters": parameters,
        "training": progress,
        "recipe": experiment(recipe),
        "selected": metadata.validation,
        **{split: evaluation.summary() for split, evaluation in evaluations.items()},
    }
    trained_on = RunFolder(folder).read_versions() if args.trained else None
    write_result(f"training_{args.recipe.stem}", f"{args.recipe.stem} on {prepared.name}", lines, values, trained_on)


if __name__ == "__main__":
    main()
