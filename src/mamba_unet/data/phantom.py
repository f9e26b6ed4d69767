"""A synthetic short-axis cardiac phantom: data to try everything on where no real data is at hand.

A cartoon of a short-axis cine frame: a left ventricle inside its myocardium, a right ventricle's crescent along it,
both tapering towards the apex, among chest wall, lung, liver, stomach and aorta. Its classes are those of ACDC; its
pictures are drawn, not acquired, and numbers obtained on it say nothing about patients.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mamba_unet.files import atomic_path, read_record, write_json

NAME = "phantom"  # of the data set, and how its cases' names begin
LABELS = {"background": 0, "right ventricle": 1, "myocardium": 2, "left ventricle": 3}
SUPERSAMPLING = 3  # the picture is drawn finer and averaged, so its edges are as soft as a scanner's


def write_phantom(out: str | Path, cases: int = 20, seed: int = 0) -> Path:
    """Write a phantom set in nnU-Net's raw layout: imagesTr, labelsTr and dataset.json, which says "synthetic".

    Phantoms that are there already are replaced; other data are refused.

    A case has 6 to 10 slices of 96..112 x 96..112 pixels, 8 to 10 mm apart with 1.4 to 1.6 mm pixels, about half of the
    cases with a contracted heart. The same seed writes the same numbers.

    Returns:
        `out`.
    """
    import nibabel as nib

    if cases < 1 or seed < 0:
        raise ValueError(f"cases={cases}, seed={seed}; expected at least 1 case, and a seed from 0 on")
    out = Path(out)
    described = out / "dataset.json"
    is_other = described.exists() and read_record(described).get("name") != NAME
    before = [path for folder in ("images*", "labels*") for path in out.glob(f"{folder}/[!.]*")]
    if is_other or not all(path.match(f"*Tr/{NAME}_[0-9]*.nii.gz") for path in before):
        raise ValueError(f"{out} holds other files; give a new or empty folder for the phantom")
    for path in before:
        path.unlink()
    for number in range(1, cases + 1):
        image, label, spacing_mm = draw_subject(np.random.default_rng([seed, number]))
        z, y, x = spacing_mm
        affine = np.diag([-x, -y, z, 1.0])  # columns to the patient's left, rows to the back: "SPL" in array order
        for folder, name, array in (("imagesTr", "_0000", image), ("labelsTr", "", label)):
            with atomic_path(out / folder / f"{NAME}_{number:03d}{name}.nii.gz") as temporary:
                nib.save(nib.Nifti1Image(array.transpose(2, 1, 0), affine), temporary)
    write_json(
        described,
        {
            "name": NAME,
            "description": "synthetic short-axis cardiac phantom drawn by mamba-unet; no patient data",
            "channel_names": {"0": "synthetic cine MRI"},
            "labels": LABELS,
            "numTraining": cases,
            "file_ending": ".nii.gz",
        },
    )
    return out


@dataclass(frozen=True)
class _Wave:
    """A closed curve's radius as a function of the angle, relative to a circle's: low harmonics."""

    amplitudes: np.ndarray  # of harmonics 2, 3, 4
    phases: np.ndarray

    def __call__(self, angle: np.ndarray) -> np.ndarray:
        harmonics = np.arange(2, 5)[:, None, None]
        return 1 + (self.amplitudes[:, None, None] * np.cos(harmonics * angle - self.phases[:, None, None])).sum(axis=0)


def _wave(rng: np.random.Generator, strength: float) -> _Wave:
    return _Wave(strength * rng.normal(size=3) / np.array([1.0, 1.5, 2.0]), rng.uniform(0, 2 * np.pi, 3))


def draw_subject(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Draw one subject.

    Returns:
        image: (D, H, W) int16.
        label: (D, H, W) uint8, see LABELS.
        spacing_mm: (z, y, x).
    """
    depth, height, width = int(rng.integers(6, 11)), int(rng.integers(96, 113)), int(rng.integers(96, 113))
    pixel = float(np.round(rng.uniform(1.4, 1.6), 2))
    spacing_mm = (float(np.round(rng.uniform(8, 10), 1)), pixel, pixel)

    fine = SUPERSAMPLING
    y, x = np.meshgrid(
        (np.arange(height * fine) + 0.5) / fine * pixel - height * pixel / 2,
        (np.arange(width * fine) + 0.5) / fine * pixel - width * pixel / 2,
        indexing="ij",
    )
    y, x = y.astype(np.float32), x.astype(np.float32)
    thorax = _draw_thorax(rng, y, x)

    contraction = rng.choice([1.0, rng.uniform(0.6, 0.75)])  # relaxed, or end of systole
    cavity_radius = rng.uniform(20, 27) * contraction
    wall = rng.uniform(7, 10) / np.sqrt(contraction)
    centre = rng.uniform(-7, 7, 2) + np.array([2.0, 8.0])
    drift = rng.uniform(-8, 8, 2)  # the long axis is not quite normal to the slices
    right = np.pi + rng.uniform(-0.6, 0.5)  # where the right ventricle lies, as an angle in the picture
    endocardium, epicardium, free_wall = _wave(rng, 0.03), _wave(rng, 0.02), _wave(rng, 0.03)
    length, bulge = rng.uniform(0.95, 1.15), rng.uniform(0.75, 1.0)
    papillary = right + np.array([1.9, -2.1]) + rng.normal(0, 0.2, 2)
    blood, muscle = rng.uniform(0.72, 0.88), rng.uniform(0.24, 0.34)
    noise, gain = rng.uniform(0.02, 0.04), rng.uniform(300, 900)
    shading = np.exp(
        rng.uniform(-0.3, 0.3) * x / 75 + rng.uniform(-0.3, 0.3) * y / 75 - rng.uniform(0, 0.25) * (x**2 + y**2) / 75**2
    )

    image, label = np.empty((depth, height, width), np.int16), np.empty((depth, height, width), np.uint8)
    for slice_number in range(depth):
        towards_apex = (slice_number + rng.uniform(-0.1, 0.1)) / (depth - 1)
        taper = np.sqrt(np.clip(1 - (0.9 * towards_apex) ** 2, 0.05, 1))
        dy, dx = y - centre[0] - drift[0] * towards_apex, x - centre[1] - drift[1] * towards_apex
        distance, angle = np.hypot(dy, dx), np.arctan2(dy, dx)
        inner = cavity_radius * taper * endocardium(angle)
        outer = (cavity_radius * taper + wall * (1 - 0.25 * towards_apex)) * epicardium(angle)

        # The right ventricle: what an ellipse beside the left one shows outside of its wall. It ends before the apex.
        size = (cavity_radius / contraction + wall) * np.sqrt(np.clip(1 - (1.05 * towards_apex) ** 2, 0, 1))
        size = size * (0.6 + 0.4 * contraction)
        along = dx * np.cos(right) + dy * np.sin(right) - 0.75 * size
        across = -dx * np.sin(right) + dy * np.cos(right)
        ellipse = np.hypot(along / (bulge * max(size, 1e-3)), across / (length * max(size, 1e-3)))
        ellipse = ellipse / free_wall(np.arctan2(across, along))
        inside_right = (ellipse < 1) & (distance >= outer)
        rim = (ellipse < 1 + 3 / max(size, 3)) & (distance >= outer) & ~inside_right

        picture = thorax.copy()
        fat = (distance < outer + rng.uniform(1.5, 4)) & (distance >= outer)
        picture[fat] = 0.6
        picture[rim] = muscle + 0.1
        picture[inside_right] = blood * (0.94 + 0.05 * _texture(rng, y, x, 6)[inside_right])
        wall_mask = (distance < outer) & (distance >= inner)
        picture[wall_mask] = muscle * (1 + 0.15 * _texture(rng, y, x, 8)[wall_mask])
        cavity = distance < inner
        picture[cavity] = blood * (1 + 0.06 * _texture(rng, y, x, 7)[cavity])
        trabeculae = cavity & (distance > 0.86 * inner) & (_texture(rng, y, x, 4) > 0.6)
        picture[trabeculae] = 0.5 * (blood + muscle)
        if 0.15 < towards_apex < 0.8:  # papillary muscles: dark in the cavity, and labelled as cavity, as in ACDC
            for direction in papillary:
                reach = 0.62 * cavity_radius * taper
                spot = np.hypot(dx - reach * np.cos(direction), dy - reach * np.sin(direction))
                picture[(spot < 0.16 * cavity_radius) & cavity] = muscle + 0.08

        truth = np.zeros(y.shape, np.uint8)
        truth[inside_right] = LABELS["right ventricle"]
        truth[wall_mask] = LABELS["myocardium"]
        truth[cavity] = LABELS["left ventricle"]
        label[slice_number] = truth[fine // 2 :: fine, fine // 2 :: fine]

        seen = (picture * shading).reshape(height, fine, width, fine).mean(axis=(1, 3))
        seen = np.hypot(seen + noise * rng.normal(size=seen.shape), noise * rng.normal(size=seen.shape))  # Rician
        image[slice_number] = np.round(gain * rng.uniform(0.95, 1.05) * seen)
    return image, label, spacing_mm


def _draw_thorax(rng: np.random.Generator, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What lies around the heart, some of it as bright and as round: the same in all the slices."""
    picture = np.full(y.shape, rng.uniform(0.06, 0.12))  # lung
    picture += 0.03 * np.clip(_texture(rng, y, x, 5), 0, None)

    def blob(row: float, column: float, radius: float, stretch: float = 1.0) -> np.ndarray:
        wave = _wave(rng, 0.05)
        dy, dx = (y - row) / stretch, x - column
        return np.hypot(dy, dx) < radius * wave(np.arctan2(dy, dx))

    liver = blob(rng.uniform(55, 66), rng.uniform(-55, -42), rng.uniform(38, 46))
    picture[liver] = rng.uniform(0.34, 0.44) * (1 + 0.06 * _texture(rng, y, x, 4)[liver])
    for _ in range(3):  # its vessels
        picture[blob(rng.uniform(45, 70), rng.uniform(-65, -35), rng.uniform(2, 3.5)) & liver] = 0.65
    picture[blob(rng.uniform(62, 72), rng.uniform(18, 34), rng.uniform(15, 20))] = rng.uniform(0.45, 0.75)  # stomach
    picture[blob(rng.uniform(38, 48), rng.uniform(50, 60), rng.uniform(8, 10))] = rng.uniform(0.7, 0.85)  # aorta
    body = np.hypot((y - 6) / rng.uniform(68, 76), (x + rng.uniform(-6, 6)) / rng.uniform(82, 92))
    picture[body > 1] = 0.3 * (1 + 0.1 * _texture(rng, y, x, 4)[body > 1])  # muscle of the chest wall
    picture[(body > 1.08) & (y < 40)] = rng.uniform(0.75, 0.95)  # fat below the skin
    return picture


def _texture(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, waves: int) -> np.ndarray:
    """A smooth random field of about unit size: a few plane waves of 5 to 20 mm, computed per pixel."""
    centre = slice(SUPERSAMPLING // 2, None, SUPERSAMPLING)
    y, x = y[centre, centre], x[centre, centre]
    field = np.zeros(y.shape, np.float32)
    for _ in range(waves):
        direction, frequency = rng.uniform(0, np.pi), 2 * np.pi / rng.uniform(5, 20)
        field += np.cos(frequency * (np.cos(direction) * x + np.sin(direction) * y) + rng.uniform(0, 2 * np.pi))
    return (field / np.sqrt(waves / 2)).repeat(SUPERSAMPLING, axis=0).repeat(SUPERSAMPLING, axis=1)
