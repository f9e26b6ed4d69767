"""Store a trained network in half precision, and what that changes.

    python benchmarks/half_precision.py runs/acdc checkpoints/acdc.safetensors --data data/acdc --out runs/half

writes the file where it is not there, measures the run and the file on the test patients where that is not done yet,
and writes benchmarks/results/half_precision_<file>_<hardware>_<date>.md and .json.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np

from mamba_unet.evaluation.cases import Evaluation
from mamba_unet.models.checkpoint import save_checkpoint
from mamba_unet.models.loading import load_checkpoint
from measuring import run, write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("file", type=Path, help=".safetensors to write")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the file's evaluation")
    args = parser.parse_args()

    if not args.file.exists():
        model, metadata = load_checkpoint(args.run)
        save_checkpoint(args.file, model.half(), metadata)
    folders = {args.run: args.run / "evaluation_test", args.file: args.out / "evaluation_test"}
    for network, folder in folders.items():
        if not folder.is_dir():
            run("evaluate", network, "--data", args.data, "--out", folder)
    single, half = map(Evaluation.read, folders.values())
    by_row = [{(row["case"], row["class"]): row["dice"] for row in one.rows} for one in (single, half)]
    cases = max(abs(by_row[0][key] - by_row[1][key]) for key in by_row[0])
    same = [_same_pixels(*(folder / "predictions" / f"{case}.npz" for folder in folders.values()))
            for case in sorted({case for case, _ in by_row[0]})]  # fmt: skip
    values = {
        "bytes": args.file.stat().st_size,
        "sha256": hashlib.sha256(args.file.read_bytes()).hexdigest(),
        "mean_foreground_dice": {"float32": single.mean_foreground_dice, "half": half.mean_foreground_dice},
        "difference": half.mean_foreground_dice - single.mean_foreground_dice,
        "largest_difference_of_a_case_and_class": cases,
        "share_of_pixels_with_another_class": 1 - float(np.mean(same)),
    }
    lines = [
        f"- file: {args.file.name}, {values['bytes']:,} bytes, sha256 {values['sha256']}",
        f"- mean foreground Dice on the test patients: float32 {single.mean_foreground_dice:.6f}, "
        f"half {half.mean_foreground_dice:.6f}, difference {values['difference']:.1e}",
        f"- largest difference of the Dice of one class in one case: {cases:.1e}",
        f"- pixels with another class: {values['share_of_pixels_with_another_class']:.1e} of all",
    ]
    write_result(f"half_precision_{args.file.stem}", "A trained network in half precision", lines, values)


def _same_pixels(one: Path, other: Path) -> float:
    """Share of the pixels that two predictions agree on."""
    return float((np.load(one)["label"] == np.load(other)["label"]).mean())


if __name__ == "__main__":
    main()
