"""Time a scan on disk to its segmentation on disk, and say where the time goes: reading, network or writing.

    python benchmarks/predict.py                                                  # drawn scans
    python benchmarks/predict.py --acdc ../shared/data/acdc --ct ../shared/data/ct/ct.nii.gz    # real ones

Volumes as ACDC has them (10 slices of 256 x 216) and CT of 100 slices of 512 x 512, written as .nii.gz into a temporary
folder, through the paper's network at 224 x 224 with random weights. First one volume at a time, in which nothing
overlaps, so that the parts are apart; then all of them by one command. Real scans are brought to these sizes; drawn
ones and every CT carry noise, for noise decides how fast a file unpacks. About four minutes on four cores.
Writes benchmarks/results/predict_<hardware>_<date>.md and .json.
"""

import argparse
import json
import shlex
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from mamba_unet import build_model
from mamba_unet.inference import Predictor, predict_files
from mamba_unet.models.checkpoint import CheckpointMetadata, save_checkpoint, slices_preprocessing
from mamba_unet.models.registry import resolve_config
from mamba_unet.views.intensity import MINMAX, window
from measuring import table, write_result

PARTS = ("reading", "network", "writing")
ACDC_SHAPE, ACDC_MM = (10, 256, 216), (10.0, 1.5625, 1.5625)  # D, H, W
CT_SHAPE, CT_MM = (100, 512, 512), (3.0, 0.8, 0.8)


def resized(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Linearly, to exactly this shape."""
    zoom = [target / source for target, source in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(array.astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest")


def drawn(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """0..1: an elliptic cylinder of smooth tissue in air."""
    tissue = resized(rng.random((6, 16, 16)), shape)
    axes = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij", sparse=True)
    return np.where(axes[1] ** 2 + axes[2] ** 2 < 0.7, 0.3 + 0.6 * tissue, 0).astype(np.float32)


def hearts(folder: Path | None, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Volumes as a scanner writes them, int16 from 0."""
    if folder is None:
        volumes = [drawn(ACDC_SHAPE, rng) + 0.02 * rng.standard_normal(ACDC_SHAPE, np.float32) for _ in range(count)]
    else:
        volumes = []
        for path in sorted(folder.rglob("patient*_frame*.h5"))[:count]:
            with h5py.File(path) as file:
                volumes.append(resized(file["image"][()], ACDC_SHAPE))
        if not volumes:
            raise SystemExit(f"{folder}: no patient*_frame*.h5 below it; give the folder of ACDC's HDF5 volumes")
    return [(600 * volume).clip(0).astype(np.int16) for volume in volumes]


def bodies(file: Path | None, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """CT in Hounsfield units, int16."""
    if file is None:
        volume = 1100 * drawn(CT_SHAPE, rng) - 1000
    else:
        volume = resized(np.asarray(nib.load(file).dataobj).T, CT_SHAPE)
    noise = [15 * rng.standard_normal(CT_SHAPE, np.float32) for _ in range(count)]
    return [(volume + one).astype(np.int16) for one in noise]


def save(volumes: list[np.ndarray], spacing_mm: tuple[float, ...], folder: Path) -> list[Path]:
    folder.mkdir()
    files = [folder / f"case{number:02}.nii.gz" for number in range(len(volumes))]
    for file, volume in zip(files, volumes, strict=True):
        nib.save(nib.Nifti1Image(volume.T, np.diag([*spacing_mm[::-1], 1.0])), file)
    return files


def predictor(folder: Path, classes: int, intensity: dict) -> Predictor:
    torch.manual_seed(0)
    config = {"in_channels": 1, "num_classes": classes, **resolve_config("tiny", {})}
    names = ["background", *(f"structure {index}" for index in range(1, classes))]
    preprocessing = slices_preprocessing([intensity], (224, 224), None)
    metadata = CheckpointMetadata("mamba_unet", config, names, preprocessing)
    save_checkpoint(folder / "best.safetensors", build_model("mamba_unet", **config), metadata)
    return Predictor(folder, "cpu")


def apart(network: Predictor, files: list[Path], out: Path, **arguments) -> dict[str, float]:
    """Median seconds of reading, network and writing, one volume at a time."""
    seconds = []
    for file in files:
        report = out / "run.json"
        done = predict_files(network, [file], out, progress=False, overwrite=True, report=report, **arguments)
        if done.failures:
            raise SystemExit(str(done.failures))
        seconds.append(json.loads(report.read_text(encoding="utf-8"))["cases"][0]["seconds"])
    return {part: statistics.median(one[part] for one in seconds) for part in PARTS}


def together(network: Predictor, files: list[Path], out: Path) -> float:
    """Seconds per volume of all of them by one command."""
    start = time.perf_counter()
    predict_files(network, files, out, progress=False, overwrite=True)
    return (time.perf_counter() - start) / len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--acdc", type=Path, help="folder of ACDC volumes in HDF5")
    parser.add_argument("--ct", type=Path, help="a CT as NIfTI")
    parser.add_argument("--hearts", type=int, default=8, help="how many ACDC volumes")
    parser.add_argument("--bodies", type=int, default=2, help="how many CT volumes")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    kinds = {
        "ACDC volume, 10 x 256 x 216": (hearts(arguments.acdc, arguments.hearts, rng), ACDC_MM, 4, MINMAX),
        "CT, 100 x 512 x 512": (bodies(arguments.ct, arguments.bodies, rng), CT_MM, 9, window(-125, 275)),
    }
    rows, values = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, (kind, (volumes, spacing_mm, classes, intensity)) in enumerate(kinds.items()):
            folder = Path(temporary) / str(number)
            network = predictor(folder, classes, intensity)
            files = save(volumes, spacing_mm, folder / "images")
            apart(network, files[:1], folder / "warm up")
            seconds = apart(network, files, folder / "apart")
            measured = apart(network, files, folder / "measured", outputs=("nifti", "preview", "statistics"))
            each = together(network, files, folder / "together")
            share = seconds["network"] / sum(seconds.values())
            values[kind] = {
                "volumes": len(files),
                "classes": classes,
                "mib": files[0].stat().st_size / 2**20,
                "seconds": seconds,
                "writing_with_preview_and_statistics": measured["writing"],
                "together": each,
                "network_share": share,
            }
            cells = [*(seconds[part] for part in PARTS), measured["writing"], sum(seconds.values()), each]
            rows.append([kind, *(f"{cell:.2f}" for cell in cells), f"{100 * share:.0f} %"])
    header = ["seconds per volume", "reading", "network", "writing", "writing with preview and statistics"]
    header += ["one by one", "several by one command", "network's share"]
    least = min(value["network_share"] for value in values.values())
    verdict = "dominates" if least > 0.5 else "DOES NOT DOMINATE"
    sources = [
        f"{value['volumes']} {what} {'drawn' if path is None else 'real'}"
        for value, what, path in zip(values.values(), ("hearts", "bodies"), (arguments.acdc, arguments.ct), strict=True)
    ]
    given = [
        *(["--acdc", "path/to/ACDC"] if arguments.acdc else []),
        *(["--ct", "path/to/ct.nii.gz"] if arguments.ct else []),
    ]
    given += ["--hearts", str(arguments.hearts), "--bodies", str(arguments.bodies)]
    lines = [
        f"The paper's network at 224 x 224, float32, random weights, {network.batch_size} slices at a time; "
        f"{', '.join(sources)}, medians over them; 4 and 9 classes.",
        "",
        table(header, rows),
        "",
        f"The network {verdict}: it takes at least {100 * least:.0f} % of the time from file to file. By one command "
        "the next scan is read and the last one written while the network works.",
        "",
        f"Command: `python benchmarks/predict.py {shlex.join(given)}`",
    ]
    write_result("predict", "From a scan on disk to its segmentation on disk", lines, values)


if __name__ == "__main__":
    main()
