"""What stands between a stored image and a network: intensities, orientation and the view, as one object.

It is written into every checkpoint, and whoever brings data to a network asks it whether the two fit.

T frames, C channels, D H W array axes as stored; S R C slices, rows and columns as the training data had them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mamba_unet.views.intensity import intensity_rules, normalise_intensity
from mamba_unet.views.slices import Slices
from mamba_unet.views.view import View, view_from_json
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.geometry import PLANES, SLICE_AXES, Turn, turn_to_network
from mamba_unet.volumes.volume import Volume
from mamba_unet.words import counted

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Preprocessing:
    """How images are brought to a network.

    Attributes:
        intensity: a rule for each channel, as `intensity.normalise_intensity` takes it.
        orientation: axis codes of the training arrays (slices, rows, columns), "SPL"; None where unknown.
        view: what the network sees of a volume.
    """

    intensity: tuple[Mapping[str, Any], ...]
    orientation: str | None = None
    view: View = field(default_factory=Slices)

    @property
    def channels(self) -> int:
        return len(self.intensity)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "intensity": [dict(rule) for rule in self.intensity],
            "orientation": self.orientation,
            "view": self.view.to_json(),
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Preprocessing":
        """What `to_json` described. Raises ValueError for another format, or a rule that is not known."""
        if said.get("format") != FORMAT:
            raise ValueError(
                f"preprocessing of format {said.get('format')!r}, this version reads {FORMAT}; install a later one"
            )
        return cls(intensity_rules(said["intensity"]), said["orientation"], view_from_json(said["view"]))

    def require_same(self, other: "Preprocessing", ours: str, theirs: str, parts: Sequence[str]) -> None:
        """Refuse to bring two things together whose images are prepared in different ways.

        Args:
            other: of the other thing.
            ours, theirs: what the two are called in the error.
            parts: what must agree: `intensity` of a network and data, `orientation` too of networks of an ensemble.

        Raises:
            ValueError: names the two, and every part in which they differ.
        """
        if self.channels != other.channels:
            raise ValueError(
                f"{ours} has {counted(self.channels, 'channel')}, {theirs} has {other.channels}: a network reads "
                "images of as many channels as it was trained on; take a network that was trained on such images"
            )
        differing = [name for name in parts if getattr(self, name) != getattr(other, name)]
        if differing:
            said = "; ".join(
                f"{name}: {_plain(getattr(self, name))} and {_plain(getattr(other, name))}" for name in differing
            )
            raise ValueError(
                f"{ours} and {theirs} prepare images in different ways ({said}); the result would be wrong. Prepare "
                "the data with the rule of the network, or use a network that was trained on such data"
            )

    def fit_channels(self, volume: Volume) -> Volume:
        """The volume with as many channels as the network takes, where that can be done without a guess.

        A file with as many frames as the network has channels holds its channels as frames. A grey image is shown to
        a network of colours as three equal colours, and said so.

        Raises:
            UnreadableError: the number of channels does not fit.
        """
        if volume.channels == self.channels:
            return volume
        if volume.channels == 1 and volume.frames == self.channels:
            return volume.frames_as_channels()
        if volume.channels == 1 and self.channels == 3:
            log.warning("%s: a grey image for a network of three channels; each gets the same values", volume.name)
            return replace(volume, array=np.repeat(volume.array, 3, axis=1))
        what = "a colour image" if volume.channels == 3 else counted(volume.channels, "channel")
        remedy = "convert it to grey values" if volume.channels == 3 else "give one file per channel (CASE_0000, ...)"
        taken = counted(self.channels, "channel")
        raise UnreadableError(
            volume.where, f"{what}, and the network takes {taken}; {remedy} if it was trained on such images"
        )

    def scale(self, volume: Volume) -> np.ndarray:
        """(T, C, D, H, W) float32, intensities as in training; the frames of a cine are scaled one by one.

        What a window would make all but constant was scaled before, as TransUNet's files are, and stays.

        Raises:
            UnreadableError: NaN or infinity in the image.
        """
        if self.is_scaled(volume):
            rule = self.intensity[0]
            log.warning("%s: in 0..1 already and taken as it is, without the window of %s", volume.where, rule)
            return volume.array.astype(np.float32)
        try:
            frames = [self.scale_frame(frame) for frame in volume.array]
        except ValueError as error:
            raise UnreadableError(volume.where, str(error)) from error
        return frames[0][None] if len(frames) == 1 else np.stack(frames)

    def is_scaled(self, volume: Volume) -> bool:
        """Whether the rules are windows that would make the image all but constant, for it lies in 0..1 already."""
        return (
            all(one["method"] == "window" and one["high"] - one["low"] > 10 for one in self.intensity)
            and volume.array.dtype.kind == "f"
            and bool(0 <= volume.array.min() < volume.array.max() <= 1.0001)
        )

    def scale_frame(self, image: np.ndarray) -> np.ndarray:
        """(C, D, H, W) -> the same, float32, each channel by its own rule."""
        channels = [normalise_intensity(channel, rule) for channel, rule in zip(image, self.intensity, strict=True)]
        return channels[0][None] if len(channels) == 1 else np.stack(channels)

    def turn(self, volume: Volume, slice_axis: str | None = None) -> Turn:
        """How the volume's axes are turned for the network.

        Args:
            volume: the image.
            slice_axis: "x", "y" or "z", the axis as NIfTI counts them (W, H, D) to cut slices across; None finds the
                acquisition's through-plane axis.

        Raises:
            ValueError: no such axis.
        """
        if slice_axis is not None:
            if slice_axis not in SLICE_AXES:
                raise ValueError(f"slice_axis={slice_axis!r}; expected one of {', '.join(sorted(SLICE_AXES))}")
            volume = replace(volume, slices_along=SLICE_AXES.index(slice_axis))
        elif self.view.spatial_dims == 3 and volume.orientation is not None and self.orientation is not None:
            return Turn.between(volume.orientation, self.orientation)  # patches know no slices
        return turn_to_network(volume, self.orientation)

    def as_trained(self, volume: Volume) -> Volume:
        """A volume of the training's own data set: sliced as its prepared arrays are, whatever its spacing says."""
        if volume.orientation is None or self.orientation is None:
            return replace(volume, slices_along=0)
        planes = [PLANES[code] for code in volume.orientation]
        return replace(volume, slices_along=planes.index(PLANES[self.orientation[0]]))


def _plain(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(dict(rule)) for rule in value)
    return str(value)
