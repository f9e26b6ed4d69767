"""Scribbles made from dense labels by a rule, to ask what a data set would be worth if it had only scribbles.

The rule, in every slice along D: each class that the slice shows is marked by strokes one pixel wide, and nothing else
is. A stroke is a part of the skeleton of one connected piece of the class: from a random pixel of the skeleton, its
nearest pixels along the skeleton, as many as the share says. Of a round piece, whose skeleton is shorter than its
radius (of a disc with its area), it is a straight line through the skeleton's middle at a random angle, as long as the
share of the diameter. The background's strokes follow the skeleton of the band around the foreground, whose width is
the foreground's radius, at least 8 pixels; of a slice without foreground, that of the whole slice. What is random is
drawn by (seed, case, slice, class, piece).

D slices, H W pixels of one.
"""

import math
import zlib
from collections import deque
from pathlib import Path

import numpy as np
from scipy import ndimage

from mamba_unet.data.case import Case
from mamba_unet.data.export import export
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.files import write_json
from mamba_unet.views.labels import IGNORE

SHARE = 0.6
NARROWEST = 8  # pixels of the band around the foreground
NEIGHBOURS = np.ones((3, 3), bool)
AROUND = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]  # clockwise from above


def write_scribbles(
    prepared: PreparedDataset, out: str | Path, *, seed: int = 0, share: float = SHARE, progress: bool = True
) -> list[str]:
    """Write a data set in nnU-Net's layout with scribbles of its training cases beside the labels.

    `mamba-unet prepare` reads it, with `--split OUT/splits.json`, which keeps the split.

    Args:
        prepared: the data; its labels are dense.
        out: a new or empty folder.
        seed: of where strokes begin.
        share: of each skeleton that is kept, above 0 and at most 1.
        progress: show a progress bar (on a terminal).

    Returns:
        What is to know of it, in words.

    Raises:
        ValueError: the share is none, or as for `export`.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected a number above 0 and at most 1")
    marked, total = 0, 0

    def scribble(case: Case) -> np.ndarray:
        nonlocal marked, total
        drawn = draw_scribble(np.asarray(case.label), case.identifier, seed, share)
        marked, total = marked + int((drawn != IGNORE).sum()), total + drawn.size
        return drawn

    notes = export(prepared, out, "nnunet", progress=progress, scribble=scribble)
    parts = {name: list(prepared.splits.get(name, [])) for name in ("train", "val", "test")}
    write_json(Path(out) / "splits.json", {name: cases for name, cases in parts.items() if cases})
    return [f"{100 * marked / max(1, total):.2f} % of the training cases' voxels are marked", *notes]


def draw_scribble(label: np.ndarray, name: str, seed: int = 0, share: float = SHARE) -> np.ndarray:
    """The scribbles of a label (D, H, W) by the rule above; `IGNORE` where nothing is marked.

    Args:
        label: class indices, or `IGNORE`, which is never marked.
        name: of the case.
        seed, share: as for `write_scribbles`.
    """
    result = np.full_like(label, IGNORE)
    for number, plane in enumerate(label):
        for index in np.unique(plane):
            if index == IGNORE:
                continue
            region = _around_foreground(plane) if index == 0 else plane == index
            pieces, count = ndimage.label(region, NEIGHBOURS)
            for piece in range(1, count + 1):
                key = zlib.crc32(f"{seed}/{name}/{number}/{index}/{piece}".encode())
                result[number][_mark(pieces == piece, share, np.random.default_rng(key))] = index
    return result


def _mark(region: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The stroke of one connected piece of a class."""
    line, radius = skeleton(region), math.sqrt(region.sum() / math.pi)
    if line.sum() >= radius:
        return stroke(line, share, rng)
    angle, middle = rng.uniform(0, math.pi), np.argwhere(line).mean(axis=0)
    along = np.arange(-share * radius, share * radius + 0.25, 0.5)
    pixels = np.rint(middle + np.outer(along, [math.sin(angle), math.cos(angle)])).astype(int)
    pixels = np.clip(pixels, 0, np.array(region.shape) - 1)
    result = np.zeros_like(region)
    result[tuple(pixels.T)] = True
    return result & region | (line if not (result & region).any() else False)


def _around_foreground(plane: np.ndarray) -> np.ndarray:
    background, foreground = plane == 0, (plane != 0) & (plane != IGNORE)
    if not foreground.any():
        return background
    width = max(NARROWEST, math.sqrt(foreground.sum() / math.pi))
    return background & (ndimage.distance_transform_edt(~foreground) <= width)


def skeleton(region: np.ndarray) -> np.ndarray:
    """The middle line, one pixel wide, of a region (H, W): thinned from its border until nothing changes.

    A region is never thinned to nothing: a small square keeps a pixel.

    Source: Zhang and Suen 1984, "A fast parallel algorithm for thinning digital patterns".
    """
    box = ndimage.find_objects(region.astype(np.uint8))
    if not box:
        return region
    line = np.pad(region[box[0]], 1)
    changed = True
    while changed:
        changed = False
        for odd in (False, True):
            ring = [np.roll(line, (-row, -column), (0, 1)) for row, column in AROUND]
            neighbours = sum(side.astype(np.uint8) for side in ring)
            rises = sum((~a & b).astype(np.uint8) for a, b in zip(ring, [*ring[1:], ring[0]], strict=True))
            above, right, below, left = ring[0], ring[2], ring[4], ring[6]
            ends = (
                ~(above & right & left) & ~(above & below & left)
                if odd
                else ~(above & right & below) & ~(right & below & left)
            )
            gone = line & (neighbours >= 2) & (neighbours <= 6) & (rises == 1) & ends
            if gone.any() and (gone != line).any():
                line, changed = line & ~gone, True
    result = np.zeros_like(region)
    result[box[0]] = line[1:-1, 1:-1]
    return result


def stroke(line: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Of a connected line (H, W), the pixels nearest along it to one that is drawn at random: a share of all."""
    pixels = [tuple(pixel) for pixel in np.argwhere(line).tolist()]
    result = np.zeros_like(line)
    if not pixels:
        return result
    wanted, waiting = math.ceil(share * len(pixels)), deque([pixels[rng.integers(len(pixels))]])
    left = set(pixels) - {waiting[0]}
    while waiting and wanted:
        row, column = waiting.popleft()
        result[row, column], wanted = True, wanted - 1
        for down, across in AROUND:
            if (pixel := (row + down, column + across)) in left:
                left.remove(pixel)
                waiting.append(pixel)
    return result
