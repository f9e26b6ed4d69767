"""What a training goes on from: last.ckpt, and the one before it."""

import logging
import pickle
import zipfile
from typing import Any

import torch

from mamba_unet.files import atomic_path
from mamba_unet.runs import RunFolder

log = logging.getLogger(__name__)

FORMAT = 2  # 1 was Lightning's
KEYS = frozenset(
    ("step", "validated", "best_dice", "seconds", "pretrained", "lineage", "objective", "optimizer", "schedule")
)


class ResumeError(ValueError):
    """There is nothing to go on from that can be read."""


def save_state(run: RunFolder, state: dict[str, Any]) -> None:
    """Write last.ckpt; what was there becomes previous.ckpt, unless it was cut short and the one before it is whole.
    A kill at any point leaves one that is whole.

    Raises:
        OSError: the file cannot be written; both stay as they were.
    """
    with atomic_path(run.last, run.previous if zipfile.is_zipfile(run.last) else None) as temporary:
        try:
            torch.save({"format": FORMAT, **state}, temporary)
        except RuntimeError as error:  # torch's writer does not pass the system's error on
            raise OSError(f"{run.last} could not be written; is the disk full? ({_first_line(error)})") from error


def load_state(run: RunFolder) -> dict[str, Any] | None:
    """What `save_state` wrote, on the CPU; where last.ckpt is cut short, the one before. None where nothing was saved.

    Raises:
        ResumeError: files are there, and none can be read, or they are another version's.
    """
    broken: list[str] = []
    for path in (run.last, run.previous):
        if not path.is_file():
            continue
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            broken.append(f"{path.name} cannot be read, it may have been cut short ({_first_line(error)})")
            continue
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ResumeError(
                f"{path} was written by another version of mamba-unet and cannot be resumed by this one; "
                "finish the run with that version, or start it again in another --out"
            )
        if missing := sorted(KEYS - state.keys()):
            broken.append(f"{path.name} holds no {', '.join(missing)}")
            continue
        if broken:
            log.warning("%s: %s; going on from %s, iteration %d", run, broken[0], path.name, state["step"])
        return state
    if broken:
        raise ResumeError(f"{run}: {'; '.join(broken)}; start the run again in another --out")
    return None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
