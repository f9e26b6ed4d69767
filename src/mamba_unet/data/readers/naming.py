"""What files and folders of images and masks are called. Upper and lower case are the same throughout."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        channel: of the case, where a case has a file for each; the name is then the case's.
    """

    kind: Literal["image", "mask"] | None
    rank: int
    split: str | None
    group: tuple[str, ...]
    name: str
    file: Path
    channel: str = ""

    @property
    def scope(self) -> tuple[str | None, tuple[str, ...]]:
        """Within it, names are compared."""
        return self.split, self.group


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


def with_channels(images: Sequence[Item], masks: Sequence[Item]) -> list[Item]:
    """The images, with their channels if cases have several: `flair/a`, `t1/a`, or `a_flair`, `a_t1` of mask `a`."""
    if not any(mask.group for mask in masks) and all(len(item.group) == 1 for item in images):
        parts = [replace(item, group=(), channel=item.group[0]) for item in images]
        if _several(parts) or len({part.channel for part in parts}) == 1:
            return parts
    cases = {(mask.scope, plain(mask.name, MASK_NAME).lower()) for mask in masks}
    parts = [
        replace(item, name=match[1], channel=match[2])
        for item in images
        if (match := re.fullmatch(r"(.+)[_-]([a-z][a-z0-9]*)", item.name, re.IGNORECASE))
        and (item.scope, match[1].lower()) in cases
    ]
    return parts if len(parts) == len(images) and _several(parts) else list(images)


def _several(parts: Sequence[Item]) -> bool:
    """Whether some case has several channels."""
    return any(count > 1 for count in Counter((*part.scope, part.name.lower()) for part in parts).values())


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
