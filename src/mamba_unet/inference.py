"""From an image volume to its segmentation, and from a file to a file in the same geometry.

D slices, H W rows and columns of the stored image; h w the network's image size.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from mamba_unet.checkpoint import load_checkpoint
from mamba_unet.data.case import Case
from mamba_unet.data.formats import NIFTI, UnreadableError, ending, read_volume, stem
from mamba_unet.data.intensity import normalise_intensity
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.transforms import resample_slice
from mamba_unet.files import atomic_path, write_json

log = logging.getLogger(__name__)


@torch.inference_mode()
def predict_volume(
    model: nn.Module, image: np.ndarray, image_size: tuple[int, int], batch_size: int = 16
) -> np.ndarray:
    """Segment a volume slice by slice.

    Slices are resampled to `image_size` as in training; the logits are brought back bilinearly before the class is
    taken, which keeps contours smoother than enlarging the label map.

    Args:
        model: (B, C, h, w) -> logits (B, K, h, w); used in eval mode, on the device it is on.
        image: (D, H, W) float32, intensities prepared.
        image_size: (h, w).
        batch_size: slices at a time.

    Returns:
        (D, H, W) uint8 class indices.
    """
    weights = next(model.parameters())
    was_training = model.training
    model.eval()
    label = np.empty(image.shape, np.uint8)
    for start in range(0, len(image), batch_size):
        slices = [resample_slice(s, None, image_size)[0] for s in image[start : start + batch_size]]
        logits = model(torch.from_numpy(np.stack(slices)).unsqueeze(1).to(weights))
        logits = F.interpolate(logits.float(), size=image.shape[1:], mode="bilinear", align_corners=False)
        label[start : start + batch_size] = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
    model.train(was_training)
    return label


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmented volume, in the geometry of its image.

    Attributes:
        label: (D, H, W) uint8 class indices, axes as in `data.Case`.
        image: what the network saw before resampling: (D, H, W) float32, 0..1.
        spacing_mm: per array axis, or None where the image's file does not tell.
        class_names: the first is background.
        header: of the NIfTI file the image came from; None for other formats.
        affine: of the stored NIfTI array; None where unknown.
        shape: of the stored NIfTI array, which may have had two or four axes.
    """

    label: np.ndarray
    image: np.ndarray
    spacing_mm: tuple[float, float, float] | None
    class_names: Sequence[str]
    header: Any = None
    affine: np.ndarray | None = None
    shape: tuple[int, ...] | None = None

    def save(self, path: str | Path) -> None:
        """Write `path` (`.nii.gz`) with the input's shape, affine and header; class names go into an extension.

        An image without geometry gets the identity, in voxels.
        """
        import nibabel as nib

        stored = self.label.transpose(2, 1, 0)
        kind = nib.Nifti2Image if isinstance(self.header, nib.Nifti2Header) else nib.Nifti1Image
        output = kind(stored.reshape(self.shape or stored.shape), self.affine, self.header, dtype=np.uint8)
        output.header.set_slope_inter(1, 0)
        output.header["cal_min"] = output.header["cal_max"] = 0
        output.header["descrip"] = b"labels by mamba-unet; names in the extension"
        names = json.dumps({"labels": dict(enumerate(self.class_names))}).encode()
        output.header.extensions.append(nib.nifti1.Nifti1Extension("comment", names))
        with atomic_path(path) as temporary:
            nib.save(output, temporary)


class Predictor:
    """A trained network that takes a new scan and gives its segmentation in the scan's own geometry.

    Everything the network needs to see the image as in training comes from the checkpoint.

    Args:
        checkpoint: file or folder that `mamba-unet train` or `save_pretrained` wrote.
        device: `auto` (a GPU where there is one), or as torch names it.
        batch_size: slices at a time.
    """

    def __init__(self, checkpoint: str | Path, device: str = "auto", batch_size: int = 16) -> None:
        self.model, self.metadata = load_checkpoint(checkpoint)
        self.model.to(choose_device(device))
        self.batch_size = batch_size

    def __call__(self, image: str | Path) -> Segmentation:
        """Segment an image file: NIfTI, or HDF5 or npz with an array `image` (D, H, W).

        Raises:
            UnreadableError: the file is damaged, or no single volume.
        """
        path = Path(image)
        volume = read_volume([path], "image")
        header = shape = None
        if volume.affine is not None:
            import nibabel as nib

            stored = nib.load(path)
            header, shape = stored.header, stored.shape
        try:
            prepared = self._scale(path, volume.array)
        except ValueError as error:
            raise UnreadableError(path, str(error)) from error
        return Segmentation(
            label=self.predict_array(prepared, volume.orientation),
            image=prepared,
            spacing_mm=volume.spacing_mm,
            class_names=self.metadata.class_names,
            header=header,
            affine=volume.affine,
            shape=shape,
        )

    def segment_case(self, case: Case) -> Segmentation:
        """Segment a case of a prepared data set: its NIfTI file, or where there is none its prepared array.

        A source without geometry may be one slice of many, or hold intensities that are scaled already.
        """
        if case.affine is not None:
            return self(case.source)
        return Segmentation(
            label=self.predict_array(case.image, case.orientation),
            image=case.image,
            spacing_mm=case.spacing_mm,
            class_names=self.metadata.class_names,
        )

    def _scale(self, path: Path, image: np.ndarray) -> np.ndarray:
        """Intensities as in training. What a window would make all but constant was scaled before, as TransUNet's."""
        rule = self.metadata.intensity
        if rule["method"] == "window" and rule["high"] - rule["low"] > 10 and 0 <= image.min() < image.max() <= 1.0001:
            log.warning("%s: in 0..1 already and taken as it is, without the window of %s", path, rule)
            return image.astype(np.float32)
        return normalise_intensity(image, rule)

    def predict_array(self, image: np.ndarray, orientation: str | None = None) -> np.ndarray:
        """Segment (D, H, W) intensities that are prepared already: uint8 class indices of the same shape.

        Where `orientation` and that of the training data are known and differ, the axes are turned to the training's
        for the network, and the labels back.
        """
        turn = back = None
        if orientation is not None and self.metadata.orientation is not None:
            from nibabel.orientations import axcodes2ornt, ornt_transform

            here, there = axcodes2ornt(orientation), axcodes2ornt(self.metadata.orientation)
            turn, back = ornt_transform(here, there), ornt_transform(there, here)
        turned = _reorient(image, turn)
        label = predict_volume(self.model, turned, self.metadata.image_size, self.batch_size)
        return _reorient(label, back)


def _reorient(array: np.ndarray, transform: np.ndarray | None) -> np.ndarray:
    from nibabel.orientations import apply_orientation

    return array if transform is None else np.ascontiguousarray(apply_orientation(array, transform))


def choose_device(device: str) -> torch.device:
    """`auto` is the first of CUDA, MPS and CPU that is there; anything else is torch's own name.

    Raises:
        ValueError: no such device here.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {error}; `mamba-unet info` lists what can") from error


def output_name(path: Path) -> str:
    """`case.nii.gz` for an input `case.nii`, `case_0000.nii.gz` (nnU-Net's channel suffix), `case.h5`, ..."""
    return stem(path).removesuffix("_0000") + ".nii.gz"


def predict_files(
    predictor: Predictor,
    inputs: Sequence[str | Path],
    out: str | Path,
    prepared: PreparedDataset | None = None,
    identifiers: Sequence[str] = (),
    progress: bool = True,
) -> tuple[list[Path], dict[str, str]]:
    """Segment files one after another into `out/<case>.nii.gz`; a bad one does not stop the others.

    Args:
        predictor: the network.
        inputs: image files, and folders, which stand for the NIfTI files in them.
        out: folder to write.
        prepared: a data set some of whose cases to segment as well,
        identifiers: namely these.
        progress: show a bar.

    Returns:
        The files written, and for each input that failed its error. The failures are also in `out/failures.json`.

    Raises:
        ValueError: there is no input, or two inputs would get the same name.
    """
    out = Path(out)
    targets: dict[str, Path | str] = {}  # by a file, or by an identifier
    for source in [*(path for given in inputs for path in _expand(Path(given))), *identifiers]:
        name = output_name(source) if isinstance(source, Path) else f"{source}.nii.gz"
        other = targets.setdefault(name, source)
        if other != source:
            raise ValueError(f"{source} and {other} would both be written as {name}; predict them apart")
    if not targets:
        raise ValueError(
            f"no image files in {', '.join(map(str, inputs)) or 'an empty list'}; expected NIfTI (.nii, .nii.gz) or .h5"
        )
    written, failures = [], {}
    for name, source in tqdm(targets.items(), desc="predict", unit="case", disable=not progress):
        try:
            done = predictor(source) if isinstance(source, Path) else predictor.segment_case(prepared.case(source))
            done.save(out / name)
        except (OSError, ValueError) as error:
            failures[str(source)] = str(error)
        else:
            written.append(out / name)
    (out / "failures.json").unlink(missing_ok=True)
    if failures:
        write_json(out / "failures.json", failures)
    return written, failures


def _expand(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if ending(p, NIFTI)) if path.is_dir() else [path]
