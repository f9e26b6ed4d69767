"""Write into a checkpoint's header what was measured of it, and its terms: for one whose file does not tell them.

    python benchmarks/tell.py checkpoints/acdc_mamba_unet_fine.safetensors \\
        benchmarks/results/training_acdc_scratch_nvidia-h100-80gb-hbm3_2026-11-26.json \\
        --license "non-commercial research only, as the ACDC data" --channel "cine MRI" --patients train=70 val=10

takes the evaluation of the test patients from a result of benchmarks/training.py of the same training. The weights stay
as they are, bit for bit.
"""

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

from mamba_unet.models.checkpoint import read_metadata, write_metadata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("result", type=Path, help=".json of benchmarks/training.py")
    parser.add_argument("--license", required=True, help="of the weights")
    parser.add_argument("--channel", action="append", default=[], help="name of a channel, in order")
    parser.add_argument("--patients", nargs="*", default=[], metavar="SPLIT=COUNT", help="trained and chosen on")
    args = parser.parse_args()

    metadata = read_metadata(args.checkpoint)
    result = json.loads(args.result.read_text(encoding="utf-8"))
    for what, ours, theirs in (
        ("prepared data", metadata.fingerprint, result["data"]["fingerprint"]),
        ("Dice on the validation patients", metadata.validation["dice"], result["selected"]["dice"]),
        ("classes", list(metadata.class_names), result["test"]["class_names"]),
    ):
        if ours != theirs:
            sys.exit(f"{args.result} is of another training than {args.checkpoint}: {what} {theirs}, not {ours}")
    told = replace(
        metadata,
        license=args.license,
        channel_names=args.channel,
        patients={split: int(count) for split, _, count in (one.partition("=") for one in args.patients)},
        evaluations={"test": result["test"]},
    )
    write_metadata(args.checkpoint, told)
    print(f"{args.checkpoint}: sha256 {hashlib.sha256(args.checkpoint.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
