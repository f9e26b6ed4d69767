"""Overfit a 3D network to one CT with 8 organs: does anything get lost from file to file? No claim of accuracy.

    python benchmarks/overfit_ct.py --source ../shared/data/ct --out runs/overfit_ct

The CT is prepared three times, for training, for validation and as a test case; the copies carry a noise of 2 HU,
because a data set refuses one image in two splits. A small network is trained on them with patches on a grid of their
own and no augmentation, and the Dice is taken at the end, from the original file to the written segmentation: read,
scaled, resampled, cut into patches, put together, resampled back, written. Above 0.9 everything is where it belongs.
Further words override keys of the recipe. Writes benchmarks/results/overfit_ct_<hardware>_<date>.md and .json.
"""

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np

from mamba_unet.data import PreparedDataset
from mamba_unet.data.planning import plan_volumes
from mamba_unet.data.registry import DATASETS
from mamba_unet.evaluation.metrics import segmentation_metrics
from mamba_unet.files import write_json
from mamba_unet.runs import RunFolder
from mamba_unet.training.recipe import experiment, load_recipe
from measuring import run, table, write_result

WANTED = 0.9
SPACING_MM = (2.6, 2.8, 2.8)  # not the file's 3 mm, so that resampling is part of the check
KEYS = {
    "--model.size": "nano",
    "--view.size": "[24,48,48]",
    "--view.spacing_mm": f"[{','.join(map(str, SPACING_MM))}]",
    "--view.foreground": "0.7",
    "--augment": "none",
    "--batch_size": "2",
    "--iterations": "1500",
    "--validate_every": "500",
    "--optimizer.lr": "0.003",
    "--optimizer.ema": "0.99",
    "--optimizer.warmup": "50",
}


def write_raw(source: Path, folder: Path) -> None:
    """nnU-Net's layout: the CT, and two copies with noise; and a split of them."""
    image, label = nib.load(source / "ct.nii.gz"), nib.load(source / "organs.nii.gz")
    for number, name in enumerate(("train", "val", "test")):
        noise = np.random.default_rng(number).normal(0, 2, image.shape) * (number > 0)
        array = (np.asarray(image.dataobj) + noise).round().astype(np.int16)
        for part, file, values in (("imagesTr", f"ct{name}_0000", array), ("labelsTr", f"ct{name}", label.get_fdata())):
            (folder / part).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values.astype(np.int16), image.affine), folder / part / f"{file}.nii.gz")
    names = DATASETS["synapse"].class_names
    labels = {name: index for index, name in enumerate(names)}
    write_json(folder / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels, "name": "one CT"})
    write_json(folder.parent / "split.json", {name: [f"ct{name}"] for name in ("train", "val", "test")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with ct.nii.gz and organs.nii.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder to write data and run to")
    args, overrides = parser.parse_known_args()
    data, folder = args.out / "data", args.out / "run"
    if not (data / "dataset.json").is_file():
        write_raw(args.source, args.out / "raw")
        run("prepare", args.out / "raw", data, "--split", args.out / "split.json", "--intensity", "nnunet")
    run("plan", data)
    words = [word for pair in KEYS.items() for word in pair]
    run("train", "scratch_3d", "--data", data, "--out", folder, "--resume", *words, *overrides)
    run("predict", folder, args.source / "ct.nii.gz", "--out", args.out / "predicted", "--overwrite")

    truth = np.asarray(nib.load(args.source / "organs.nii.gz").dataobj)
    found = np.asarray(nib.load(args.out / "predicted" / "ct.nii.gz").dataobj)
    prepared, recipe = PreparedDataset(data), load_recipe(RunFolder(folder).recipe)
    measured = segmentation_metrics(found, truth, num_classes=prepared.num_classes, distances=False)
    dice = {prepared.class_names[index]: values["dice"] for index, values in measured.items()}
    mean, progress = float(np.mean(list(dice.values()))), RunFolder(folder).read_progress()
    verdict = "reached" if mean > WANTED else "NOT REACHED"
    lines = [
        f"Mean foreground Dice on the training image: **{mean:.4f}**; more than {WANTED} is wanted: {verdict}. "
        "This checks the way from file to file; it says nothing of other patients.",
        "",
        table(["organ", "Dice"], [[name, f"{value:.4f}"] for name, value in dice.items()]),
        "",
        f"- network: {recipe.model.name}, {recipe.model.size}; patches of {' x '.join(map(str, recipe.view.size))} "
        f"voxels of {' x '.join(map(str, recipe.view.spacing_mm))} mm, the file's are 3 mm; no augmentation",
        f"- training: {progress['iteration']} iterations of {recipe.batch_size}, seed {recipe.seed}",
        f"- command: `python benchmarks/overfit_ct.py --source path/to/ct --out runs/overfit_ct {' '.join(overrides)}`",
        "",
        "What planning would have chosen:",
        "",
        "```",
        plan_volumes(prepared).table().rstrip(),
        "```",
    ]
    values = {"dice": dice, "mean": mean, "training": progress, "recipe": experiment(recipe)}
    write_result("overfit_ct", "A 3D network overfitted to one CT", lines, values)


if __name__ == "__main__":
    main()
