"""The files of a prepared data set, read and checked: what is damaged is told in a sentence that names the file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.files import atomic_path, read_json

REMEDY = "copy the data set again, or run `mamba-unet prepare` again"


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _numbers(value: Any, shape: Sequence[int]) -> bool:
    try:
        return np.shape(value) == tuple(shape) and bool(np.isfinite(np.asarray(value, float)).all())
    except (TypeError, ValueError, OverflowError):
        return False


def _voxels(value: Any) -> bool:
    return isinstance(value, dict) and all(key.isdecimal() and isinstance(count, int) for key, count in value.items())


def _or_none(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


DATASET: Mapping[str, Callable[[Any], bool]] = {
    "name": _text,
    "description": _text,
    "class_names": lambda value: _texts(value) and len(value) > 0,
    "label_values": lambda value: isinstance(value, list) and all(isinstance(one, int) for one in value),
    "intensity": lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
    "channel_names": _texts,
    "orientation": _or_none(_text),
    "fingerprint": _text,
    "left_out": _texts,
    "cases": lambda value: isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()),
}
CASE: Mapping[str, Callable[[Any], bool]] = {
    "patient": _text,
    "shape": lambda value: _numbers(value, [3]) and all(isinstance(one, int) and one > 0 for one in value),
    "spacing_mm": _or_none(lambda value: _numbers(value, [3]) and min(value) > 0),
    "orientation": _or_none(lambda value: _text(value) and len(value) == 3 and set(value) <= set("LRAPSI")),
    "affine": _or_none(lambda value: _numbers(value, [4, 4])),
    "sources": lambda value: _texts(value) and len(value) > 0,
    "frames_are_channels": lambda value: isinstance(value, bool),
    "stored_sha256": _text,
    "image_sha256": _text,
    "label_sha256": _or_none(_text),
    "label_voxels": _voxels,
}


def read_dataset(file: Path, version: int) -> dict[str, Any]:
    """dataset.json, with all that `DATASET` and `CASE` ask for.

    Raises:
        ValueError: damaged, or of another version's format.
    """
    said = read_json(file, REMEDY)
    if said.get("format") != version:
        raise ValueError(
            f"{file}: format {str(said.get('format'))[:40]}, this version reads {version}; run `mamba-unet prepare` "
            "again"
        )
    _require(file, said, DATASET, "")
    for name, record in said["cases"].items():
        _require(file, record, CASE, f"{name[:80]}: ")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{file}: case {name[:80]!r} lies elsewhere; {REMEDY}")
    return said


def read_splits(file: Path, cases: Mapping[str, Any]) -> dict[str, list[str]]:
    """splits.json: split -> identifiers, all of them cases. Raises ValueError: damaged."""
    said = read_json(file, REMEDY).get("cases")
    if not isinstance(said, dict) or not all(map(_texts, said.values())):
        raise ValueError(f"{file}: damaged, no lists of cases; {REMEDY}")
    if unknown := [name for names in said.values() for name in names if name not in cases]:
        raise ValueError(f"{file}: damaged, {unknown[0][:80]!r} is no case of this data set; {REMEDY}")
    return said


def save_array(file: Path, array: np.ndarray) -> None:
    """Write an array as npy, atomically.

    Raises:
        OSError: the disk is full, of which numpy's own writer says nothing where it shows at the very end.
    """
    form, array = np.lib.format, np.ascontiguousarray(array)
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        form.write_array_header_1_0(stream, form.header_data_from_array_1_0(array))
        stream.write(array.data)


def load_array(file: Path, shape: Sequence[int], dtype: type[np.generic]) -> np.ndarray:
    """An array, memory-mapped and read-only.

    Raises:
        ValueError: absent, damaged, or of another shape or type.
    """
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header can raise anything
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{file}: absent or damaged ({said}); {REMEDY}") from error
    found = (getattr(array, "shape", None), getattr(array, "dtype", None))
    if found != (tuple(shape), np.dtype(dtype)):
        raise ValueError(
            f"{file}: {found[1]} of shape {found[0]}, expected {dtype.__name__} of {tuple(shape)}; {REMEDY}"
        )
    return array


def _require(file: Path, said: Mapping[str, Any], keys: Mapping[str, Callable[[Any], bool]], where: str) -> None:
    for key, fits in keys.items():
        if key not in said or not fits(said[key]):
            found = f"{str(said[key])[:60]!r}" if key in said else "nothing"
            raise ValueError(f"{file}: damaged, {where}{found} for {key!r}; {REMEDY}")
