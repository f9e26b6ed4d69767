"""Folders of images and masks, as people and public 2D data sets keep them: one layout, by the words of `naming`."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mamba_unet.data.problems import Problem
from mamba_unet.data.readers.base import (
    ENDINGS,
    SCRIBBLES,
    UNLABELLED,
    Files,
    Layout,
    Listing,
    join_channels,
    named,
    not_looked_into,
    pair,
    single,
    with_scribbles,
)
from mamba_unet.data.readers.description import Description, channel_intensity, read_description
from mamba_unet.data.readers.naming import IMAGE_NAME, MASK_NAME, Item, classify, plain, with_channels
from mamba_unet.data.readers.patients import group_patients
from mamba_unet.volumes.formats import dangles
from mamba_unet.words import some

DEEPEST = 5  # folders below the source that are looked into
FORMATS = ("png", "tif", "tiff", "bmp", "jpg", "jpeg")  # CVC-ClinicDB has every picture as PNG and as TIF


def find(source: Path) -> Listing | None:
    """Images and masks in two folders, in two of each split, of each patient, or side by side.

    A `dataset.json` with nnU-Net's "labels" names the classes and their values.
    """
    items, by_folder, notes = _images_and_masks(source)
    images, masks = ([item for item in items if item.kind == kind] for kind in ("image", "mask"))
    if not images or not masks:
        return None
    described = source / "dataset.json"
    description = read_description(described) if described.is_file() else Description()
    images = with_channels(images, masks)
    channels = _in_order({item.channel for item in images if item.channel}, description.channel_names)
    if not any(mask.group for mask in masks):
        images = [replace(item, group=()) for item in images]
    identifiers, split_in_name = _identifiers(images)
    labels = _partners(images, masks, identifiers)
    if channels:
        found = [(identifiers[item.file], item.channel, item.file) for item in images]
        stored, problems = join_channels(found, channels, lambda file, name: _of_channel(file, channels, name))
        incomplete = {problem.case for problem in problems}
        labels = [(identifier, file) for identifier, file in labels if identifier not in incomplete]
    else:
        stored, problems = [(identifiers[item.file], ((item.file,),)) for item in images], []
    alone, drawn = (source / name for name in (UNLABELLED, SCRIBBLES))
    unlabelled = single(alone)
    if unlabelled and channels:
        raise ValueError(f"{alone}: images of several channels without label are read in nnU-Net's layout alone")
    entries, unpaired = pair(stored, labels, _patients(images, identifiers, split_in_name), unlabelled)
    entries, undrawn = with_scribbles(entries, drawn, [*problems, *unpaired])
    unpaired = [*unpaired, *undrawn, *not_looked_into(alone)]
    if split_in_name:
        unpaired += _of_one_name(source, images)
    places = sorted({mask.file.parent.relative_to(source).as_posix() for mask in masks})
    return Listing(
        f"masks in {some(places, 4)}" if by_folder else f"{len(masks)} files with a name like *_mask, *_seg or *_gt",
        entries,
        [*problems, *unpaired],
        notes,
        name=description.name,
        description=description.description,
        labels=description.labels,
        ignore=description.ignore,
        channel_names=channels or description.channel_names,
        intensity=[channel_intensity(channel) for channel in channels] or description.intensity,
        splits=_splits(images, identifiers),
    )


def _images_and_masks(source: Path) -> tuple[list[Item], bool, list[str]]:
    """All files that are the one or the other; whether their folders say which; and notes on what is left alone."""
    notes = []

    def keep(items: Sequence[Item], wanted: Callable[[Item], bool], why: str) -> list[Item]:
        left = Counter(item.file.parent.relative_to(source).as_posix() for item in items if not wanted(item))
        notes.extend(f"left alone, {why}: {folder}, {count} file{'s' * (count > 1)}" for folder, count in left.items())
        return [item for item in items if wanted(item)]

    others = [source / UNLABELLED, source / SCRIBBLES]
    found = [file for file in _files(source) if not any(file.is_relative_to(folder) for folder in others)]
    items = [classify(name, file, source) for name, file in named(found)]
    items = keep(items, lambda item: not item.name.lower().endswith("_superpixels"), "ISIC's superpixels")
    by_folder = any(item.kind == "mask" for item in items)
    if not by_folder:
        items = [replace(item, kind="mask" if MASK_NAME.search(item.name) else "image") for item in items]
    elif any(item.kind == "image" for item in items):
        items = keep(items, lambda item: item.kind is not None, "neither in an image nor in a mask folder")
    else:  # photos/, masks/
        items = [replace(item, kind=item.kind or "image") for item in items]
    while items and all(item.group[:1] == items[0].group[:1] != () for item in items):  # the data set's own folder
        items = [replace(item, group=item.group[1:]) for item in items]
    formats = {item.group[0].lower() for item in items if item.group}
    if len(formats) > 1 and formats.issubset(FORMATS):
        first = min(formats, key=FORMATS.index)
        items = keep(items, lambda item: item.group[0].lower() == first, f"the same pictures as {first.upper()}")
    best = min((item.rank for item in items if item.kind == "mask"), default=0)
    items = keep(items, lambda item: item.kind == "image" or item.rank == best, "not the labels")
    labelled = {item.split for item in items if item.kind == "mask"}
    return keep(items, lambda item: item.split in labelled, "no masks to them"), by_folder, notes


def _files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """All files below, in order, without hidden ones and what macOS adds to an archive."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__MACOSX")):
            continue
        if path.is_dir() and depth < DEEPEST:
            yield from _files(path, depth + 1)
        elif path.is_file() or dangles(path):
            yield path


def _in_order(channels: set[str], described: Sequence[str]) -> list[str]:
    """As dataset.json names them, if it names these; else by the alphabet."""
    order = [channel for name in described for channel in channels if channel.lower() == name.lower()]
    return order if set(order) == channels else sorted(channels)


def _of_channel(file: Path, channels: Sequence[str], channel: str) -> Path:
    """Where the channel of a case should lie, of which another's file is there."""
    if file.parent.name in channels:
        return file.parent.with_name(channel) / file.name
    return file.with_name(re.sub(rf"(?<=[_-])({'|'.join(map(re.escape, channels))})(?=\.)", channel, file.name))


def _identifiers(images: Sequence[Item]) -> tuple[dict[Path, str], bool]:
    """File -> a name of its own, as short as the others allow; and whether it begins with the split's name."""
    found: dict[Path, str] = {}
    different = len({(*item.scope, item.name.lower()) for item in images})
    for with_split, parts in (
        (False, lambda item: (item.name,)),
        (False, lambda item: item.group),
        (False, lambda item: (*item.group, item.name)),
        (True, lambda item: (item.split, item.name)),
        (True, lambda item: (item.split, *item.group, item.name)),
    ):
        spelling: dict[str, str] = {}  # the first one's, for a case whose channels differ in upper and lower case
        for item in images:
            name = "_".join(part for part in parts(item) if part)
            found[item.file] = spelling.setdefault(name.lower(), name)
        if len(spelling) == different and "" not in spelling:
            return found, with_split
    return found, True  # what has one name twice, `pair` reports


def _partners(images: Sequence[Item], masks: Sequence[Item], identifiers: dict[Path, str]) -> list[tuple[str, Files]]:
    """(identifier of its image, the mask): of the same name, or of the same but for what says "mask" and "image"."""
    partner: dict[Path, str] = {}
    taken: set[str] = set()
    for image_affix, mask_affix in ((None, None), (None, MASK_NAME), (IMAGE_NAME, MASK_NAME)):

        def key(item: Item, affix) -> tuple:
            return *item.scope, (plain(item.name, affix) if affix else item.name).lower()

        free = {
            key(item, image_affix): identifiers[item.file] for item in images if identifiers[item.file] not in taken
        }
        new = {mask.file: free.get(key(mask, mask_affix)) for mask in masks if mask.file not in partner}
        partner |= {file: identifier for file, identifier in new.items() if identifier}
        taken.update(partner.values())
    # a name with its folder is no image's identifier
    return [(partner.get(mask.file, f"{mask.file.parent.name}/{mask.name}"), (mask.file,)) for mask in masks]


def _patients(images: Sequence[Item], identifiers: dict[Path, str], split_in_name: bool) -> dict[str, str] | None:
    """Case -> patient, if there is a folder for each; None if the names must tell.

    A few folders without digits that share no file name (`benign`, `malignant`) are classes, not patients.
    """
    folders = {item.group[0] for item in images if item.group}
    numbered = all(any(character.isdigit() for character in folder) for folder in folders)
    repeated = len({item.name for item in images}) < len(images)
    if len(folders) < 2 or not all(item.group for item in images) or not (numbered or repeated or len(folders) > 10):
        return None
    return {
        identifiers[item.file]: f"{item.split}_{item.group[0]}" if split_in_name and item.split else item.group[0]
        for item in images
    }


def _of_one_name(source: Path, images: Sequence[Item]) -> list[Problem]:
    """A warning where patients of several splits have one name: with the split's before it they are taken apart."""
    names = {item.file: item.group[0] if item.group else item.name for item in images}
    patients = group_patients(sorted(set(names.values())))
    splits: dict[str, set[str]] = {}
    for item in images:
        splits.setdefault(patients[names[item.file]], set()).add(item.split)
    if not (shared := sorted(patient for patient, found in splits.items() if len(found) > 1)):
        return []
    return [
        Problem(
            source,
            "patients of one name in several splits",
            "each patient in one split",
            f"{some(shared)}, taken for different patients in each split",
            "nothing, if each split counts its patients anew; else tell the patient's part of the name by "
            "--patient-regex, and divide them anew",
            "warning",
        )
    ]


def _splits(images: Sequence[Item], identifiers: dict[Path, str]) -> dict[str, list[str]] | None:
    """Split -> cases, if folders divide them. Where none of them is for training, what is in none of them is."""
    found = {item.split for item in images if item.split}
    splits: dict[str, list[str]] = {}
    for item in images:
        if split := item.split or ("train" if "train" not in found else None):
            splits.setdefault(split, []).append(identifiers[item.file])
    return splits if len(splits) > 1 and "train" in splits else None


FOLDER = Layout(
    "folder",
    "images and masks of the same name, but for upper and lower case and for _mask, _seg, _gt, mask_:\n"
    "    images/a.png and masks/a.png (or Original, img; labels, Ground Truth, 1st_manual; ISIC's names)\n"
    "    train/images/a.png and train/masks/a.png, val/..., test/...: they are the split\n"
    "    a.png and a_mask.png side by side, also in a folder for each patient\n"
    "    images/flair/a.nii.gz, images/t1/a.nii.gz and labels/a.nii.gz: channels\n"
    f"    ({', '.join(ENDINGS)})",
    find,
)
