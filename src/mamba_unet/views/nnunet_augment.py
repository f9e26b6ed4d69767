"""nnU-Net's augmentation of 2D training samples, as random parameters and what they do.

`sample_nnunet` draws everything that is random; `warp` and `change_intensities` apply it and draw nothing, so that a
sample can be made again from its parameters. The list of changes, their probabilities and ranges are those of nnU-Net
(Isensee et al. 2021, Nature Methods 18, supplementary note 4, and its second version's defaults for 2D).

C channels, H W a slice as stored, h w the wanted size.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NnunetAugmentation:
    """What is done to a sample, in this order. Tuples have one entry for each channel.

    Attributes:
        angle_degrees: rotation about the sample's centre, counter-clockwise.
        zoom: the structures get so many times larger.
        flips: mirrored along rows, along columns.
        noise: standard deviation of Gaussian noise, in those of the channel; 0 for none, like all that follow.
        noise_seed: of the noise's values.
        blur: sigma of a Gaussian filter in pixels.
        brightness: factor of the values; 1 for none.
        contrast: factor of the distance from the mean, within the old range; 1 for none.
        resolution: share of the pixels along each axis that are left, then brought back smoothly; 1 for all.
        gamma_inverted: exponent on the inverted values, mean and deviation kept; 1 for none.
        gamma: exponent on the values, mean and deviation kept; 1 for none.
    """

    angle_degrees: float
    zoom: float
    flips: tuple[bool, bool]
    noise: tuple[float, ...]
    noise_seed: int
    blur: tuple[float, ...]
    brightness: tuple[float, ...]
    contrast: tuple[float, ...]
    resolution: tuple[float, ...]
    gamma_inverted: tuple[float, ...]
    gamma: tuple[float, ...]


def sample_nnunet(rng: np.random.Generator, channels: int, size: tuple[int, int]) -> NnunetAugmentation:
    """Draw the parameters for a sample of `channels` and `size`.

    Rotations take any angle, in samples of a side more than half as long again as the other only 15 degrees.
    """

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

    widest = 15 if max(size) > 1.5 * min(size) else 180
    return NnunetAugmentation(
        angle_degrees=float(rng.uniform(-widest, widest)) if rng.random() < 0.2 else 0.0,
        zoom=around_one(0.7, 1.4) if rng.random() < 0.2 else 1.0,
        flips=(bool(rng.random() < 0.5), bool(rng.random() < 0.5)),
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


def change_intensities(image: np.ndarray, how: NnunetAugmentation) -> np.ndarray:
    """(C, h, w) float32 -> the same: noise, blur, brightness, contrast, resolution and gamma."""
    return np.stack([_change_channel(channel, how, index) for index, channel in enumerate(image)])


def _change_channel(x: np.ndarray, how: NnunetAugmentation, index: int) -> np.ndarray:
    """One channel (h, w); values stay float32."""
    if how.noise[index]:
        noise = np.random.default_rng((how.noise_seed, index)).standard_normal(x.shape, dtype=np.float32)
        x = x + noise * np.float32(how.noise[index] * x.std())
    if how.blur[index]:
        from scipy.ndimage import gaussian_filter

        x = gaussian_filter(x, how.blur[index], truncate=3)
    if how.brightness[index] != 1:
        x = x * np.float32(how.brightness[index])
    if how.contrast[index] != 1:
        mean = x.mean()
        x = np.clip(mean + (x - mean) * np.float32(how.contrast[index]), x.min(), x.max())
    if how.resolution[index] != 1:
        x = _coarsen(x, how.resolution[index])
    if how.gamma_inverted[index] != 1:
        x = -_gamma(-x, how.gamma_inverted[index])
    if how.gamma[index] != 1:
        x = _gamma(x, how.gamma[index])
    return x


def _coarsen(x: np.ndarray, share: float) -> np.ndarray:
    """Take fewer pixels by nearest neighbour, and bring them back by cubic interpolation."""
    import torch
    import torch.nn.functional as F

    coarse = tuple(max(1, round(side * share)) for side in x.shape)
    tensor = F.interpolate(torch.from_numpy(np.ascontiguousarray(x))[None, None], coarse, mode="nearest-exact")
    return F.interpolate(tensor, x.shape, mode="bicubic", align_corners=False)[0, 0].numpy()


def _gamma(x: np.ndarray, exponent: float) -> np.ndarray:
    """The values' place in their range to a power; mean and standard deviation stay."""
    low, extent, mean, deviation = x.min(), np.ptp(x), x.mean(), x.std()
    if extent == 0:
        return x
    x = np.power((x - low) / extent, np.float32(exponent))
    return (x - x.mean()) * (deviation / max(x.std(), np.float32(1e-8))) + mean
