"""What an exported network costs: the size of the ONNX file and its time in onnxruntime beside our kernel.

    python benchmarks/export.py [--size mini] [--threads 1]

Writes results/export_<machine>_<date>.md and .json.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from mamba_unet import build_model, export_model
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint
from mamba_unet.models.loading import load
from mamba_unet.models.registry import SIZES
from mamba_unet.views.intensity import MINMAX, intensity_rules
from mamba_unet.views.preprocessing import Preprocessing
from measuring import median_ms, table, write_result

BATCHES = (1, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="tiny", choices=sorted(SIZES))
    parser.add_argument("--image", type=int, default=224)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    args = parser.parse_args()
    config = {"in_channels": 1, "num_classes": 4, **SIZES[args.size]}
    preprocessing = Preprocessing(intensity_rules(MINMAX), "SPL").to_json()
    names = ["background", "one", "two", "three"]
    rows, values = [], {"size": args.size, "image": args.image, "runs": []}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, file = Path(folder) / "network.safetensors", Path(folder) / "network.onnx"
        metadata = CheckpointMetadata("mamba_unet", config, names, preprocessing)
        save_checkpoint(checkpoint, build_model(**config).eval(), metadata)
        done = export_model(checkpoint, file)
        for threads in args.threads:
            torch.set_num_threads(threads)
            ours, theirs = load(checkpoint), load(file)
            for batch in BATCHES:
                image = torch.rand(batch, 1, args.image, args.image)
                with torch.inference_mode():
                    kernel, runtime = (median_ms(lambda n=n, x=image: n(x), seconds=5) for n in (ours, theirs))
                values["runs"].append(
                    {"threads": threads, "batch": batch, "kernel_ms": kernel, "onnxruntime_ms": runtime}
                )
                rows.append([threads, batch, f"{kernel:.0f}", f"{runtime:.0f}", f"{runtime / kernel:.2f}"])
    values |= {"bytes": done.bytes, "largest_difference": max(one.largest for one in done.differences)}
    lines = [
        f"Mamba-UNet, size `{args.size}`, {args.image} x {args.image}, float32: a file of {done.bytes / 1e6:.1f} MB, "
        f"whose logits differ by {values['largest_difference']:.1e} at the most.",
        "",
        table(["threads", "batch", "our kernel, ms", "onnxruntime, ms", "ratio"], rows),
    ]
    print("\n".join(lines))
    print(write_result("export", "An exported network", lines, values))


if __name__ == "__main__":
    main()
