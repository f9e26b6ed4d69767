"""A prepared data set as other programs read it: in TransUNet's Synapse layout, in nnU-Net's raw layout."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mamba_unet.data.case import Case
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.readers.description import CT
from mamba_unet.data.readers.nnunet import NNUNET, ORIGINS
from mamba_unet.data.readers.synapse import TRANSUNET
from mamba_unet.data.registry import DATASETS
from mamba_unet.files import write_json, write_text
from mamba_unet.views.intensity import COLOUR, normalise_intensity
from mamba_unet.views.labels import IGNORE
from mamba_unet.words import counted, some

SPLITS = ("train", "val", "test")


def export(
    prepared: PreparedDataset,
    out: str | Path,
    layout: str,
    *,
    progress: bool = True,
    scribble: Callable[[Case], np.ndarray] | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> list[str]:
    """Write the training, validation and test cases of a prepared data set in another program's layout.

    The folder is written beside its place and renamed when it is complete.

    "synapse-transunet": the arrays as they are. Training and validation cases become slices, `train_npz/
    case0005_slice000.npz`, test cases volumes, `test_vol_h5/case0001.npy.h5`; image and label are float32. Lists in
    `lists_Synapse/`: `train.txt` and `test_vol.txt` as TransUNet has them, and `val.txt`, whose slices are not in
    `train.txt`.

    "nnunet": NIfTI with the affine of the source. Training and validation cases are in `imagesTr` and `labelsTr`, test
    cases in `imagesTs` and `labelsTs`; `splits_final.json` has our training and validation split as fold 0.
    `origins.json`, which nnU-Net leaves alone, tells `prepare` of whom each image is and which one it was. Images
    scaled by a window are brought back to the window's units (whole numbers, where those of the source were) and
    called "CT", so that nnU-Net treats them by its rule for CT; others stay in 0..1, and nnU-Net takes their z-score.

    Args:
        prepared: the data.
        out: a new or empty folder.
        layout: one of the two above.
        progress: show a progress bar (on a terminal).
        scribble: in nnU-Net's layout, makes a scribble (D, H, W) of each training case, which is put in `scribblesTr`.
        spacing_mm: in nnU-Net's layout, voxel size of slices, rows and columns of cases that do not tell theirs; by
            default 1 mm.

    Returns:
        What the exported folder does not tell or leaves out, in words.

    Raises:
        ValueError: the layout is another, or cannot hold the data, a voxel size or a class of this name; `out` holds
            files; there is no split `train`.
    """
    writers = {
        TRANSUNET.name: _write_transunet,
        NNUNET.name: partial(_write_nnunet, scribble=scribble, spacing_mm=spacing_mm or (1, 1, 1)),
    }
    if layout not in writers:
        raise ValueError(f"no export to the layout {layout!r}; expected one of {', '.join(writers)}")
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; give a new one for the export")
    prepared.split("train")
    splits = {name: prepared.splits.get(name, []) for name in SPLITS}
    if layout == TRANSUNET.name:
        if spacing_mm is not None:
            raise ValueError(
                f"the layout {layout} holds no voxel size; leave the spacing out, or export to {NNUNET.name}"
            )
        _check_transunet(prepared, [identifier for split in splits.values() for identifier in split])
    elif taken := {"background", "ignore"}.intersection(prepared.class_names[1:]):
        raise ValueError(
            f"{prepared.folder}: a class is called {min(taken)!r}; expected another name, for in the layout {layout} "
            "background is the value 0 and ignore what has no ground truth; rename it (--class-names) and prepare again"
        )

    out.parent.mkdir(parents=True, exist_ok=True)
    total = sum(map(len, splits.values()))
    with (
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary,
        tqdm(total=total, desc="export", unit="case", disable=None if progress else True) as bar,
    ):
        folder = Path(temporary) / out.name
        notes = writers[layout](prepared, splits, folder, bar)
        if out.is_dir():
            out.rmdir()
        os.replace(folder, out)
    if left_out := sorted(set(prepared.identifiers).difference(*splits.values())):
        notes.append(f"{len(left_out)} cases that are not in {', '.join(SPLITS)} are left out: {some(left_out)}")
    return notes


def _check_transunet(prepared: PreparedDataset, identifiers: Iterable[str]) -> None:
    synapse = DATASETS["synapse"]
    unlike = [identifier for identifier in identifiers if not re.fullmatch(r"case\d+", identifier)]
    for fits, found in (
        (prepared.class_names == list(synapse.class_names), f"the classes {', '.join(prepared.class_names)}"),
        (prepared.intensity == (synapse.intensity,), f"the intensities {prepared.intensity}"),
        (not unlike, f"cases named {some(unlike)}"),
    ):
        if not fits:
            raise ValueError(
                f"{prepared.folder}: the layout {TRANSUNET.name} does not describe its data, so all that read it "
                f"expect Synapse's classes {', '.join(synapse.class_names)}, intensities {synapse.intensity} and cases "
                f"named case0001; this data set has {found}; the layout {NNUNET.name} holds any"
            )


def _write_transunet(prepared: PreparedDataset, splits: dict[str, Sequence[str]], folder: Path, bar: tqdm) -> list[str]:
    import h5py

    slices, volumes, lists = folder / "train_npz", folder / "test_vol_h5", folder / "lists_Synapse"
    for path in (slices, volumes):
        path.mkdir(parents=True)
    for split in ("train", "val"):
        names = []
        for case in map(prepared.case, splits[split]):
            for number, (image, label) in enumerate(zip(case.image[0], case.label, strict=True)):
                names.append(f"{case.identifier}_slice{number:03d}")
                np.savez(slices / f"{names[-1]}.npz", image=image, label=label.astype(np.float32))
            bar.update()
        write_text(lists / f"{split}.txt", _lines(names))
    for case in map(prepared.case, splits["test"]):
        with h5py.File(volumes / f"{case.identifier}.npy.h5", "w") as file:
            file["image"], file["label"] = case.image[0], case.label.astype(np.float32)
        bar.update()
    write_text(lists / "test_vol.txt", _lines(splits["test"]))
    return ["this layout has neither voxel size nor orientation; distances measured on it are in voxels"]


def _write_nnunet(
    prepared: PreparedDataset,
    splits: dict[str, Sequence[str]],
    folder: Path,
    bar: tqdm,
    scribble: Callable[[Case], np.ndarray] | None,
    spacing_mm: Sequence[float],
) -> list[str]:
    unplaced, labels = [], {name if index else "background": index for index, name in enumerate(prepared.class_names)}
    drawn = set(prepared.annotated(prepared.identifiers, "scribble"))
    if prepared.has_ignored or scribble or drawn:  # nnU-Net wants the value of its ignore label to be the highest
        labels["ignore"] = prepared.num_classes
    for split, identifiers in splits.items():
        part = "Ts" if split == "test" else "Tr"
        for case in map(prepared.case, identifiers):
            placed = case.affine is not None and case.spacing_mm is not None
            affine = case.affine if placed else np.diag([*reversed(case.spacing_mm or spacing_mm), 1.0])
            save = partial(_save_nifti, affine=affine, directed=case.orientation is not None)
            for number, (channel, rule) in enumerate(zip(case.image, prepared.intensity, strict=True)):
                path = folder / f"images{part}" / f"{case.identifier}_{number:04d}"
                save(_in_units(channel, rule), path)
            annotations = {"labels": case.label}
            if scribble and split == "train":
                annotations["scribbles"] = scribble(case)
            elif not scribble and split != "test" and case.identifier in drawn:
                annotations["scribbles"] = prepared.annotation(case.identifier, "scribble")
            for name, array in annotations.items():
                label = np.where(array == IGNORE, np.uint8(prepared.num_classes), array)
                save(label, folder / f"{name}{part}" / case.identifier)
            if case.spacing_mm is None:
                unplaced.append(case.identifier)
            bar.update()
    origins = {
        name: {"patient": prepared.patient(name), "image": prepared.image_hash(name)}
        for identifiers in splits.values()
        for name in identifiers
    }
    write_json(folder / ORIGINS, origins)
    write_json(folder / "splits_final.json", [{split: list(splits[split]) for split in ("train", "val")}])
    write_json(
        folder / "dataset.json",
        {
            "name": prepared.name,
            "description": prepared.description,
            "channel_names": {str(number): name for number, name in enumerate(_nnunet_channels(prepared))},
            "labels": labels,
            "numTraining": len(splits["train"]) + len(splits["val"]),
            "file_ending": ".nii.gz",
        },
    )
    notes = [
        f"channel {number} is a window from {rule['low']:g} to {rule['high']:g}, and the layout says only CT, which "
        f"`prepare` reads as {CT['low']:g} to {CT['high']:g}: what is prepared from this export is scaled otherwise"
        for number, rule in enumerate(prepared.intensity)
        if rule["method"] == "window" and rule != CT and prepared.intensity != (COLOUR,) * 3
    ]
    if unplaced:
        size = " x ".join(f"{mm:g}" for mm in spacing_mm)
        notes.append(
            f"voxels of {size} mm are assumed in {counted(len(unplaced), 'case')} without a size: {some(unplaced)}"
        )
    return notes


def _save_nifti(array: np.ndarray, path: Path, affine: np.ndarray, directed: bool) -> None:
    """With the voxel size alone where the directions of the axes are not known."""
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.transpose(2, 1, 0), affine)
    if not directed:
        image.set_sform(affine, code=0)
        image.set_qform(affine, code=0)
    image.header.set_xyzt_units("mm")
    nib.save(image, path.with_name(f"{path.name}.nii.gz"))


def _nnunet_channels(prepared: PreparedDataset) -> list[str]:
    """nnU-Net's names, by which it chooses how intensities are scaled."""
    if prepared.intensity == (COLOUR,) * 3:
        return ["rgb_to_0_1"] * 3
    return ["CT" if rule["method"] == "window" else "zscore" for rule in prepared.intensity]


def _in_units(image: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    """What was scaled by a window, in the window's units: as whole numbers, if they scale to the very same image."""
    if rule["method"] != "window":
        return image
    units = image.astype(np.float64) * (rule["high"] - rule["low"]) + rule["low"]
    whole = np.rint(units).astype(np.int32)
    return whole if np.array_equal(normalise_intensity(whole, rule), image) else units.astype(np.float32)


def _lines(names: Iterable[str]) -> str:
    return "".join(f"{name}\n" for name in names)
