"""A plain folder of images and masks, NIfTI or pictures."""

import re
from collections.abc import Iterable
from pathlib import Path

from mamba_unet.data.readers.base import Files, Layout, Listing, files, pair
from mamba_unet.data.readers.nnunet import read_labels
from mamba_unet.volumes.formats import NIFTI, PICTURES, ending

ENDINGS = (*NIFTI, *PICTURES)
IMAGE_FOLDERS = ("images", "image", "imgs", "img")
MASK_FOLDERS = ("masks", "mask", "labels", "label", "annotations")
MASK_NAME = re.compile(r"[_-](mask|seg|segmentation|label|gt)$", re.IGNORECASE)


def find(source: Path) -> Listing | None:
    """`images/a.png` and `masks/a.png` (or `labels/`, with or without `_mask`), or `a.png` beside `a_mask.png`.

    A `dataset.json` with nnU-Net's "labels" names the classes; without it every value found in the masks is a class.
    """
    image_folder = next((source / name for name in IMAGE_FOLDERS if (source / name).is_dir()), None)
    mask_folder = next((source / name for name in MASK_FOLDERS if (source / name).is_dir()), None)
    if image_folder and mask_folder:
        images = _named(files(image_folder))
        labels = [(MASK_NAME.sub("", name), paths) for name, paths in _named(files(mask_folder))]
        why = f"folders {image_folder.name} and {mask_folder.name}"
    else:
        found = _named(files(source))
        images = [(name, paths) for name, paths in found if not MASK_NAME.search(name)]
        labels = [(MASK_NAME.sub("", name), paths) for name, paths in found if MASK_NAME.search(name)]
        why = f"{len(labels)} files with a name like *_mask, *_seg or *_gt"
    if not images or not labels:
        return None
    entries, problems = pair(images, labels)
    described = source / "dataset.json"
    return Listing(why, entries, problems, labels=read_labels(described) if described.is_file() else None)


def _named(found: Iterable[Path]) -> list[tuple[str, Files]]:
    return [(file.name[: -len(end)], (file,)) for file in found if (end := ending(file, ENDINGS))]


FOLDER = Layout(
    "folder",
    "images and masks of the same name: images/a.png and masks/a.png (or labels/), or a.png beside "
    "a_mask.png (_seg, _gt); "
    f"{', '.join(ENDINGS)}",
    find,
)
