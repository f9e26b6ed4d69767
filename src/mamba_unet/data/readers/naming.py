"""What files and folders of images and masks are called. Upper and lower case are the same throughout."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Words of folders' names, without blanks and punctuation. Of several kinds of mask folders the first in this order
# counts: DRIVE's `mask` shows the field of view, its `1st_manual` the vessels.
IMAGE_WORDS = ("images", "image", "imgs", "img", "original", "originals", "inputs", "input")
MASK_WORDS = (
    *("1stmanual", "manual", "groundtruth", "groundtruths", "gt", "masks", "mask", "labels", "label"),
    *("annotations", "annotation", "segmentations", "segmentation", "seg"),
)
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}

MASK = r"masks?([ _-]?\d+)?|seg|segmentation|labels?|gt|ground[ _-]?truth|truth|manual\d?|annotation"
MASK_NAME = re.compile(rf"[ _.-]+({MASK})$|^({MASK})[ _-]+|^({MASK})$", re.IGNORECASE)
IMAGE_NAME = re.compile(r"[ _.-]+(training|test|image|img)$|^(image|img)[ _-]+|^(image|img)$", re.IGNORECASE)


@dataclass(frozen=True)
class Item:
    """A file, and what the folders above it say.

    Attributes:
        kind: None where no folder says.
        rank: of a mask folder's word in MASK_WORDS.
        split: "train", "val" or "test", where a folder says so.
        group: the folders that say neither: a patient's, a channel's.
        name: without ending.
    """

    kind: Literal["image", "mask"] | None
    rank: int
    split: str | None
    group: tuple[str, ...]
    name: str
    file: Path


def classify(name: str, file: Path, source: Path) -> Item:
    """The deepest folder that says something counts: `Kvasir-SEG/train/images` are images for training."""
    kind, rank, split, group = None, 0, None, []
    for folder in file.relative_to(source).parts[:-1]:
        said_split, word = _parse(folder)
        if said_split:
            split = said_split
        if word:
            kind, rank = ("mask", MASK_WORDS.index(word)) if word in MASK_WORDS else ("image", 0)
        if not said_split and not word:
            group.append(folder)
    return Item(kind, rank, split, tuple(group), name, file)


def plain(name: str, pattern: re.Pattern) -> str:
    """The name without what `pattern` (MASK_NAME, IMAGE_NAME) finds."""
    return pattern.sub("", name)


def _parse(folder: str) -> tuple[str | None, str | None]:
    """(split, image or mask word) of a folder's name: `images`, `train`, `train_masks`, `ISIC2018_Training_Input`."""
    words = re.findall(r"[a-z0-9]+", folder.lower())
    joined = "".join(words)
    if joined in IMAGE_WORDS or joined in MASK_WORDS:
        return None, joined
    if joined in SPLIT_WORDS:
        return SPLIT_WORDS[joined], None
    for place, word in enumerate(words):
        if split := SPLIT_WORDS.get(word):
            after = "".join(word for word in words[place + 1 :] if not re.fullmatch(r"(part|v)?\d*", word))
            around = after or "".join(words[:place])
            if around == "data":  # ISIC 2016 and 2017: ..._Training_Data, ..._Training_GroundTruth
                around = "images"
            if around in IMAGE_WORDS or around in MASK_WORDS:
                return split, around
    return None, None
