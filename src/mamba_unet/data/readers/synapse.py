"""Synapse multi-organ CT: the raw download (NIfTI, 13 organs) and TransUNet's npz slices and HDF5 volumes."""

import re
from pathlib import Path

from mamba_unet.data.readers.base import Layout, Listing, files, pair, stack
from mamba_unet.volumes.formats import stem

# The organs TransUNet keeps and their values in the raw download; it drops 5 oesophagus, 9 inferior vena cava,
# 10 portal and splenic vein, 12 and 13 adrenal glands.
RAW_LABELS = {
    "background": 0,
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "pancreas": 11,
}
NOT_KEPT = (5, 9, 10, 12, 13)


def find_raw(source: Path) -> Listing | None:
    """`img/img0001.nii.gz` and `label/label0001.nii.gz`, in the folder itself or in (RawData/)Training below it."""
    for root in (
        source,
        source / "Training",
        source / "RawData" / "Training",
        source / "Abdomen" / "RawData" / "Training",
    ):
        images, labels = (
            [
                (f"case{match[1]}", (file,))
                for file in files(root / kind, f"{kind}*.nii*")
                if (match := re.fullmatch(rf"{kind}(\d+)", stem(file)))
            ]
            for kind in ("img", "label")
        )
        if images and (root / "label").is_dir():
            entries, problems = pair(images, labels)
            return Listing(
                f"{len(images)} files img/img*.nii(.gz) and a folder label",
                entries,
                problems,
                dataset="synapse",
                labels=RAW_LABELS,
                other_values=NOT_KEPT,
            )
    return None


def find_transunet(source: Path) -> Listing | None:
    """`train_npz/case0005_slice000.npz`, joined into volumes, and `test_vol_h5/case0001.npy.h5`."""
    for root in (source, source / "Synapse"):
        slices = [
            (match[1], int(match[2]), file)
            for file in files(root / "train_npz", "*.npz")
            if (match := re.fullmatch(r"(case\d+)_slice(\d+)", stem(file)))
        ]
        volumes = [(stem(file), (file,)) for file in files(root / "test_vol_h5", "case*.h5")]
        if slices or volumes:
            joined, problems = stack(slices)
            entries, unpaired = pair([*joined, *volumes], [*joined, *volumes])
            return Listing(
                f"{len(slices)} slices in train_npz, {len(volumes)} volumes in test_vol_h5",
                entries,
                [*problems, *unpaired],
                dataset="synapse",
                scaled=True,
            )
    return None


RAW = Layout("synapse-raw", "Synapse as downloaded: img/img0001.nii.gz and label/label0001.nii.gz", find_raw)
TRANSUNET = Layout(
    "synapse-transunet",
    "Synapse as TransUNet ships it: train_npz/case0005_slice000.npz and test_vol_h5/case0001.npy.h5 "
    "('image' in 0..1 and 'label')",
    find_transunet,
)
