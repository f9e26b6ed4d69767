"""How often a network's warnings of images that do not fit are false, and whether they come where they should.

    python benchmarks/fit.py checkpoints/acdc_mamba_unet_fine.safetensors ct.nii.gz --source path/to/ACDC --out OUT

segments the validation patients of the data set that the network was trained on, and images that it was not made for,
and writes benchmarks/results/fit_<checkpoint>_<hardware>_<date>.md and .json. With --describe, the checkpoint is given
the description of its training cases first (`CheckpointMetadata.seen`), for one that was trained before there was any;
its weights stay as they are, bit for bit.
"""

import argparse
import hashlib
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from mamba_unet.data import PreparedDataset
from mamba_unet.inference import Predictor
from mamba_unet.inference.fit import describe_training
from mamba_unet.models.checkpoint import read_metadata, write_metadata
from mamba_unet.volumes.volume import Volume
from measuring import run, table, write_result


def describe(checkpoint: Path, prepared: PreparedDataset) -> None:
    """Write the description of the training cases into the checkpoint's header."""
    metadata, cases = read_metadata(checkpoint), prepared.split("train")
    if len(prepared.seen_by(metadata.lineage, cases)) < len(cases):
        sys.exit(f"{checkpoint} was not trained on all of the training cases of {prepared.folder}")
    seen = describe_training(prepared, cases)
    write_metadata(checkpoint, replace(metadata, seen=seen))
    print(f"{checkpoint}: sha256 {hashlib.sha256(checkpoint.read_bytes()).hexdigest()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("foreign", type=Path, nargs="*", help="images that the network was not made for")
    parser.add_argument("--source", type=Path, required=True, help="the data set as downloaded")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--describe", action="store_true", help="write the description into the checkpoint first")
    args = parser.parse_args()

    run("prepare", args.source, args.out / "data")
    prepared = PreparedDataset(args.out / "data")
    if args.describe:
        describe(args.checkpoint, prepared)
    predictor, found = Predictor(args.checkpoint), {}
    for identifier in prepared.split("val"):
        case = prepared.case(identifier)
        volume = Volume(identifier, case.image[None], case.affine, case.spacing_mm, slices_along=0)
        found[identifier] = list(predictor(volume).misfits)
    foreign = {path.name: list(predictor(path).misfits) for path in args.foreign}

    patients = {prepared.case(identifier).patient for identifier in found}
    warned = [identifier for identifier, misfits in found.items() if misfits]
    given = [args.checkpoint.name, *(path.name for path in args.foreign)]
    given += ["--source", args.source.name, "--out", args.out.name, *["--describe"] * args.describe]
    lines = [
        f"Command: `python benchmarks/fit.py {shlex.join(given)}`",
        "",
        f"False alarms: {len(warned)} of the {len(found)} volumes of the {len(patients)} validation patients of "
        f"{prepared.name} were warned of. The limits come from the {predictor.metadata.seen.get('cases', 0)} training "
        "volumes alone.",
        "",
        table(["image", "warning"], [[name, "; ".join(misfits) or "none"] for name, misfits in foreign.items()]),
    ]
    lines += [f"- {identifier}: {'; '.join(found[identifier])}" for identifier in warned]
    values = {"seen": predictor.metadata.seen, "validation": found, "foreign": foreign}
    write_result(f"fit_{args.checkpoint.stem}", "Warnings of images that do not fit", lines, values)


if __name__ == "__main__":
    main()
