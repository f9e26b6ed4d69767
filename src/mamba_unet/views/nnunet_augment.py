"""nnU-Net's augmentation of training samples, slices or patches, as random parameters and what they do.

`sample_nnunet` draws everything that is random; `warp`, `warp_patch` and `change_intensities` apply it and draw
nothing, so that a sample can be made again from its parameters. The list of changes, their probabilities and ranges are
those of nnU-Net (Isensee et al. 2021, Nature Methods 18, supplementary note 4, and its second version's defaults). What
is drawn of the noise is its variance, as the paper says; the second version takes that number for the deviation.

C channels, D H W a volume as stored, d h w the wanted size; of slices without D and d.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mamba_unet.views.windows import cut

FLAT = 3  # a patch whose longest side is so many times its depth is augmented as slices are


@dataclass(frozen=True)
class NnunetAugmentation:
    """What is done to a sample, in this order. Tuples have one entry for each channel.

    Attributes:
        angle_degrees: rotation about the sample's centre within its slices, counter-clockwise.
        zoom: the structures get so many times larger.
        flips: mirrored along each axis.
        noise: standard deviation of Gaussian noise, in those of the channel; 0 for none, like all that follow.
        noise_seed: of the noise's values.
        blur: sigma of a Gaussian filter in pixels.
        brightness: factor of the values; 1 for none.
        contrast: factor of the distance from the mean, within the old range; 1 for none.
        resolution: share of the pixels along each axis that are left, then brought back smoothly; 1 for all.
        gamma_inverted: exponent on the inverted values, mean and deviation kept; 1 for none.
        gamma: exponent on the values, mean and deviation kept; 1 for none.
        tilts_degrees: of a patch, rotations in the planes of slices and columns, and of slices and rows, applied to
            what `angle_degrees` has turned.
        within_slices: a patch's slices are far apart: zoom, blur and coarser resolution leave that axis alone.
    """

    angle_degrees: float
    zoom: float
    flips: tuple[bool, ...]
    noise: tuple[float, ...]
    noise_seed: int
    blur: tuple[float, ...]
    brightness: tuple[float, ...]
    contrast: tuple[float, ...]
    resolution: tuple[float, ...]
    gamma_inverted: tuple[float, ...]
    gamma: tuple[float, ...]
    tilts_degrees: tuple[float, float] = (0.0, 0.0)
    within_slices: bool = False


NOTHING = NnunetAugmentation(0.0, 1.0, (False,) * 3, (0,), 0, (0,), (1,), (1,), (1,), (1,), (1,))  # of a patch


def sample_nnunet(rng: np.random.Generator, channels: int, size: Sequence[int]) -> NnunetAugmentation:
    """Draw the parameters for a sample of `channels` and `size`, (h, w) or (d, h, w).

    Rotations within slices take any angle, in slices of a side more than half as long again as the other only 15
    degrees. A patch is rotated about all three axes, by 30 degrees at most; one whose longest side is more than 3 times
    its depth, as a slice is (nnU-Net's "dummy 2D").
    """
    within_slices = len(size) == 3 and max(size) > FLAT * size[0]
    solid = len(size) == 3 and not within_slices

    def sometimes(probability: float, low: float, high: float, none: float, each: float = 1) -> tuple[float, ...]:
        """A value for each channel, or none for all; `each` is the share of the channels that get one."""
        if rng.random() >= probability:
            return (none,) * channels
        return tuple(float(rng.uniform(low, high)) if rng.random() < each else none for _ in range(channels))

    def around_one(low: float, high: float) -> float:
        """Half the time below 1, half above it."""
        return float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))

    def factors(probability: float, low: float, high: float) -> tuple[float, ...]:
        if rng.random() >= probability:
            return (1.0,) * channels
        return tuple(around_one(low, high) for _ in range(channels))

    plane = size[-2:]
    widest = 30 if solid else 15 if len(size) == 2 and max(plane) > 1.5 * min(plane) else 180
    angle = float(rng.uniform(-widest, widest)) if rng.random() < 0.2 else 0.0
    tilts = (float(rng.uniform(-30, 30)), float(rng.uniform(-30, 30))) if solid and angle else (0.0, 0.0)
    return NnunetAugmentation(
        angle_degrees=angle,
        tilts_degrees=tilts,
        within_slices=within_slices,
        zoom=around_one(0.7, 1.4) if rng.random() < 0.2 else 1.0,
        flips=tuple(bool(rng.random() < 0.5) for _ in size),
        noise=tuple(value**0.5 for value in sometimes(0.1, 0, 0.1, none=0)),  # the variance is uniform
        noise_seed=int(rng.integers(2**63)),
        blur=sometimes(0.2, 0.5, 1, none=0, each=0.5),
        brightness=factors(0.15, 0.75, 1.25),
        contrast=factors(0.15, 0.75, 1.25),
        resolution=sometimes(0.25, 0.5, 1, none=1, each=0.5),
        gamma_inverted=factors(0.1, 0.7, 1.5),
        gamma=factors(0.3, 0.7, 1.5),
    )


def warp(
    image: np.ndarray,
    label: np.ndarray,
    corner: tuple[int, int],
    size: tuple[int, int],
    how: NnunetAugmentation,
    outside: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a window out of a slice, turned and zoomed about the window's centre, and mirrored.

    Args:
        image: (C, H, W) float32, read bilinearly.
        label: (H, W), read by nearest neighbour.
        corner: row and column in the slice of the window's first pixel; may lie outside.
        size: (h, w) of the window.
        how: the parameters.
        outside: label of what lies outside the slice; the image is 0 there.

    Returns:
        (C, h, w) and (h, w), contiguous, in their own types.
    """
    import torch
    import torch.nn.functional as F

    angle = np.deg2rad(how.angle_degrees)
    cosine, sine = np.cos(angle) / how.zoom, np.sin(angle) / how.zoom
    (h, w), (H, W) = size, label.shape
    # offsets of the window's pixels from its centre, the mirrors done
    y = (np.arange(h) - (h - 1) / 2) * (-1 if how.flips[0] else 1)
    x = (np.arange(w) - (w - 1) / 2) * (-1 if how.flips[1] else 1)
    rows = (cosine * y + corner[0] + (h - 1) / 2)[:, None] + (sine * x)[None]
    columns = (-sine * y + corner[1] + (w - 1) / 2)[:, None] + (cosine * x)[None]

    grid = np.stack([columns * (2 / W) + (1 / W - 1), rows * (2 / H) + (1 / H - 1)], axis=-1).astype(np.float32)
    source = torch.from_numpy(np.array(image, dtype=np.float32, copy=True, order="C"))[None]
    warped = F.grid_sample(source, torch.from_numpy(grid)[None], align_corners=False)[0].numpy()

    rows, columns = np.rint(rows).astype(np.intp), np.rint(columns).astype(np.intp)
    inside = (rows >= 0) & (rows < H) & (columns >= 0) & (columns < W)
    nearest = np.asarray(label).reshape(-1).take((rows * W + columns) * inside)
    return warped, np.where(inside, nearest, label.dtype.type(outside))


def warp_patch(
    image: np.ndarray,
    label: np.ndarray,
    corner: Sequence[int],
    size: Sequence[int],
    how: NnunetAugmentation,
    outside: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a patch out of a volume, turned and zoomed about the patch's centre, and mirrored.

    Args:
        image: (C, D, H, W) float32, read linearly; only the box around the patch is read at all.
        label: (D, H, W), read by nearest neighbour.
        corner: of the patch's first voxel in the volume; may lie outside.
        size: (d, h, w) of the patch.
        how: the parameters.
        outside: label of what lies outside the volume; the image is 0 there.

    Returns:
        (C, d, h, w) and (d, h, w), contiguous, in their own types.
    """
    if not any((how.angle_degrees, *how.tilts_degrees)) and how.zoom == 1:
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in how.flips)
        patch, truth = cut(image, corner, size, 0), cut(label, corner, size, outside)
        return np.ascontiguousarray(patch[(..., *steps)]), np.ascontiguousarray(truth[steps])

    import torch
    import torch.nn.functional as F

    matrix = _rotation(how) / (np.array([1, how.zoom, how.zoom])[:, None] if how.within_slices else how.zoom)
    half = (np.array(size) - 1) / 2
    centre = np.array(corner) + half
    reach = np.abs(matrix) @ half
    low = np.clip(np.floor(centre - reach).astype(int) - 1, 0, None)
    high = np.minimum(np.ceil(centre + reach).astype(int) + 2, label.shape)
    box = tuple(map(slice, low, high))

    coordinates = 0.0  # (d, h, w, 3) in voxels of the box
    for axis, (side, flip) in enumerate(zip(size, how.flips, strict=True)):
        offsets = (np.arange(side) - (side - 1) / 2) * (-1 if flip else 1)
        shape = [-1 if other == axis else 1 for other in range(3)]
        coordinates = coordinates + (offsets[:, None] * matrix[:, axis]).reshape(*shape, 3).astype(np.float32)
    sides = (high - low).astype(np.float32)
    coordinates = (coordinates + (centre - low).astype(np.float32)) * (2 / sides) + (1 / sides - 1)
    grid = torch.from_numpy(np.ascontiguousarray(coordinates[..., ::-1]))[None]

    def read(array: np.ndarray, mode: str) -> np.ndarray:
        source = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))[None]
        return F.grid_sample(source, grid, mode=mode, align_corners=False)[0].numpy()

    marked = read(label[box][None] + np.float32(1), "nearest")[0]  # 0 is outside
    truth = np.where(marked > 0, marked - 1, outside).astype(label.dtype)
    return read(image[(slice(None), *box)], "bilinear"), truth


def _rotation(how: NnunetAugmentation) -> np.ndarray:
    """(3, 3), from offsets in the patch to offsets in the volume, along D, H, W."""
    result = np.eye(3)
    for degrees, (first, second) in zip((how.angle_degrees, *how.tilts_degrees), ((1, 2), (0, 2), (0, 1)), strict=True):
        angle = np.deg2rad(degrees)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = np.sin(angle), -np.sin(angle)
        result = turn @ result
    return result


def change_intensities(image: np.ndarray, how: NnunetAugmentation) -> np.ndarray:
    """(C, *size) float32 -> the same: noise, blur, brightness, contrast, resolution and gamma."""
    return np.stack([_change_channel(channel, how, index) for index, channel in enumerate(image)])


def _change_channel(x: np.ndarray, how: NnunetAugmentation, index: int) -> np.ndarray:
    """One channel (*size); values stay float32."""
    if how.noise[index]:
        noise = np.random.default_rng((how.noise_seed, index)).standard_normal(x.shape, dtype=np.float32)
        x = x + noise * np.float32(how.noise[index] * x.std())
    if how.blur[index]:
        from scipy.ndimage import gaussian_filter

        sigma = how.blur[index]
        x = gaussian_filter(x, (0, sigma, sigma) if how.within_slices else sigma, truncate=3)
    if how.brightness[index] != 1:
        x = x * np.float32(how.brightness[index])
    if how.contrast[index] != 1:
        mean = x.mean()
        x = np.clip(mean + (x - mean) * np.float32(how.contrast[index]), x.min(), x.max())
    if how.resolution[index] != 1:
        x = _coarsen(x, how.resolution[index], how.within_slices)
    if how.gamma_inverted[index] != 1:
        x = -_gamma(-x, how.gamma_inverted[index])
    if how.gamma[index] != 1:
        x = _gamma(x, how.gamma[index])
    return x


def _coarsen(x: np.ndarray, share: float, within_slices: bool) -> np.ndarray:
    """Take fewer pixels by nearest neighbour, and bring them back: within slices cubically, else linearly."""
    import torch
    import torch.nn.functional as F

    tensor = torch.from_numpy(np.ascontiguousarray(x))
    tensor = tensor[:, None] if within_slices else tensor[None, None]
    sides = tuple(tensor.shape[2:])
    coarse = F.interpolate(tensor, tuple(max(1, round(side * share)) for side in sides), mode="nearest-exact")
    mode = "bicubic" if len(sides) == 2 else "trilinear"
    return F.interpolate(coarse, sides, mode=mode, align_corners=False).reshape(x.shape).numpy()


def _gamma(x: np.ndarray, exponent: float) -> np.ndarray:
    """The values' place in their range to a power; mean and standard deviation stay."""
    low, extent, mean, deviation = x.min(), np.ptp(x), x.mean(), x.std()
    if extent == 0:
        return x
    x = np.power((x - low) / extent, np.float32(exponent))
    return (x - x.mean()) * (deviation / max(x.std(), np.float32(1e-8))) + mean
