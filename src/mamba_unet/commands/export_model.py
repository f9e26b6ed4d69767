"""`mamba-unet export-model`."""

import argparse
from pathlib import Path

from mamba_unet.commands.options import Commands, command


def add(commands: Commands) -> None:
    parser = command(commands, "export-model", "write a trained network as ONNX, for torch.export or MONAI", run)
    parser.add_argument("checkpoint", help="run folder, checkpoint, hub id (hf:owner/name) or acdc")
    parser.add_argument("out", type=Path, help="new file (.onnx, .pt2), or new folder for a MONAI bundle")
    formats = ("onnx", "torch-export", "monai-bundle")
    parser.add_argument("--format", choices=formats, default="onnx", help="(default: %(default)s)")
    precision = "of the weights (default: %(default)s); images and logits are float32 in any case"
    parser.add_argument("--precision", choices=("float32", "float16"), default="float32", help=precision)
    image = "compare the two on this image too, not on random ones alone"
    parser.add_argument("--check-image", type=Path, metavar="FILE", help=image)


def run(args: argparse.Namespace) -> int:
    from mamba_unet.api import export_model

    done = export_model(
        args.checkpoint, args.out, args.format, precision=args.precision, check_image=args.check_image
    )  # fmt: skip
    for difference in done.differences:
        print(difference)
    print(f"{done.path}: {done.bytes / 1e6:.1f} MB")
    return 0
