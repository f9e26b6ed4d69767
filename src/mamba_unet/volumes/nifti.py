"""NIfTI: voxels, colours, and an affine whose sizes are right even where a header contradicts itself."""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mamba_unet.volumes.formats import DamagedError, Kind, RefusedError, UnreadableError, called, ending
from mamba_unet.volumes.geometry import axis_codes, singular
from mamba_unet.volumes.limits import require_memory
from mamba_unet.volumes.payload import GZIP, inflated, read_array
from mamba_unet.volumes.volume import Volume, native

SIZES_AGREE = 0.01  # relative: headers hold sizes and affine as float32, some rounded to few decimals
QUATERNION_ROOM = 5e-6  # that rounding makes it longer than 1
MOST_EXTENSIONS = 1 << 26  # bytes before the voxels: other programs keep notes there, a damaged header asks for more
SMALLEST = float(np.finfo(np.float32).tiny)
COLOURS = (("R", "G", "B"), ("R", "G", "B", "A"))


def read_nifti_file(path: Path, kind: Kind, name: str) -> Volume:
    """A NIfTI file, gzipped or not whatever its name says.

    Raises:
        RefusedError: no NIfTI, or gzipped wrongly.
        UnreadableError: see `read_nifti`; more than the memory limit.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        stream = inflated(file) if packed else file
        header, notes = _header(path, stream, packed)
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
        if min(shape) < 1:
            raise DamagedError(f"shape {shape}: expected no empty axis")
        _check(path, dtype, shape)
        slope, intercept = (float(header[key]) for key in ("scl_slope", "scl_inter"))
        scaled = np.isfinite(slope) and slope != 0 and (slope, intercept) != (1, 0)
        if scaled and (abs(slope) < SMALLEST or abs(intercept) * np.finfo(float).eps > abs(slope)):
            raise DamagedError(f"values are scaled by {slope:g} and {intercept:g}, which makes different ones equal")
        require_memory(path, math.prod(shape) * (dtype.itemsize + 8 * scaled))
        stored = read_array(path, stream, shape[::-1], dtype).T
    if scaled:
        from nibabel.volumeutils import apply_read_scaling

        stored = apply_read_scaling(stored, slope, intercept if np.isfinite(intercept) else 0.0)
    header.set_slope_inter(1, 0)
    affine, more = _affine(header, None, path)
    volume = _volume(stored, shape, header, (affine, (*notes, *more)), path, name)
    return replace(volume, guessed_size=bool(notes))


def _header(path: Path, stream: BinaryIO, packed: bool) -> tuple[Any, tuple[str, ...]]:
    """nibabel's header of a NIfTI file, and remarks; leaves the stream at the first voxel."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = stream.read(Nifti1Header.sizeof_hdr)
    if not packed and ending(path, (".gz",)) and Nifti1Header.may_contain_header(block):
        raise RefusedError("NIfTI that is not gzipped; rename it to .nii")
    kinds = {kind.sizeof_hdr: kind for kind in (Nifti1Header, Nifti2Header)}
    orders = [order for order in ("little", "big") if int.from_bytes(block[:4], order) in kinds]
    if not orders:
        what = "gzipped twice; unpack it once (gunzip)" if block.startswith(GZIP) else called(block)
        raise DamagedError(f"no NIfTI{' in it' if packed else ''}: {what}")
    order = orders[0]
    kind = kinds[int.from_bytes(block[:4], order)]
    block += stream.read(kind.sizeof_hdr - len(block))
    if len(block) < kind.sizeof_hdr:
        raise DamagedError("cut short in its header; copy it again")
    fields = kind(block, order, check=False)
    if fields["magic"].tobytes()[:3] in (b"ni1", b"ni2"):
        raise RefusedError("the header of a pair (.hdr and .img); save both as one .nii")
    if not 2 <= fields["dim"][0] <= 7:
        raise DamagedError(f"{fields['dim'][0]} axes; expected two to seven")
    offset = float(fields["vox_offset"])
    if not kind.sizeof_hdr <= offset <= MOST_EXTENSIONS:
        raise RefusedError(f"its voxels begin at byte {offset:g}; expected {kind.sizeof_hdr} to {MOST_EXTENSIONS}")
    block += stream.read(int(offset) - len(block))
    if len(block) < int(offset):
        raise DamagedError("cut short before its voxels; copy it again")
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # tells of what it mends, and not in which file
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd extensions, which are other programs' own
        header = kind.from_fileobj(BytesIO(block), order)
    _shorten_quaternion(header)
    if int(header["sform_code"]) > 0 and singular(header.get_sform()) and _qform(header) is not None:
        header["sform_code"] = 0  # a result would keep it, and lie nowhere
    return header, _complete_sizes(header, np.array(fields["pixdim"][1:4], float))


def _shorten_quaternion(header: Any) -> None:
    """A unit quaternion whose parts were rounded one by one may be a little too long, by more than nibabel allows, with
    which results are written and read."""
    keys = ("quatern_b", "quatern_c", "quatern_d")
    length = math.sqrt(sum(float(header[key]) ** 2 for key in keys))
    if 1 < length <= 1 + QUATERNION_ROOM:
        for key in keys:
            header[key] = header[key] / length


def _complete_sizes(header: Any, stored: np.ndarray) -> tuple[str, ...]:
    """Take sizes that pixdim does not tell from the sform: nibabel makes them 1, and what is written would keep that.

    Args:
        header: of nibabel.
        stored: (3,), as the file has them.

    Returns:
        A remark where the sform does not tell them either.
    """
    told = np.isfinite(stored) & (stored != 0)
    sform = int(header["sform_code"]) > 0 and not singular(header.get_sform())
    sizes = np.linalg.norm(header.get_sform()[:3, :3], axis=0) if sform else np.ones(3)
    header["pixdim"][1:4] = np.where(told, header["pixdim"][1:4], sizes)
    if sform or (told | (header["dim"][1:4] <= 1) | (np.arange(3) >= header["dim"][0])).all():
        return ()
    return ("the header tells no size of its voxels (pixdim is 0 or no number); 1 is taken, so volumes are a guess",)


def read_nifti(image: Any, file: Path, name: str) -> Volume:
    """The volume of a nibabel image; its voxels are loaded here, scaled by slope and intercept.

    Axes stay in stored order. A fourth axis is time, a fifth, or RGB pixels, are channels. Lengths come in millimetres
    (a header may count in metres or microns).

    Args:
        image: of nibabel.
        file: what errors name.
        name: of the volume.

    Raises:
        UnreadableError: other axes than these, complex numbers, a singular affine.
    """
    _check(file, image.get_data_dtype(), image.shape)
    placed = _affine(image.header, image.affine, file)
    return _volume(np.asanyarray(image.dataobj), image.shape, image.header, placed, file, name)


def _check(file: Path, dtype: np.dtype, shape: Sequence[int]) -> None:
    colours = dtype.names in COLOURS
    axes = [*shape, *[1] * (5 - len(shape))]
    if not 2 <= len(shape) <= 7 or 0 in shape or any(size > 1 for size in axes[5:]) or (colours and axes[4] > 1):
        raise UnreadableError(
            file, f"shape {shape}: expected a 3D volume, frames of it over a fourth axis, channels over a fifth"
        )
    if dtype.kind not in "biuf" and not colours:
        raise UnreadableError(file, f"type {dtype}: expected one real number per voxel, or RGB colours")


def _volume(
    stored: np.ndarray,
    shape: tuple[int, ...],
    header: Any,
    placed: tuple[np.ndarray, tuple[str, ...]],
    file: Path,
    name: str,
) -> Volume:
    from nibabel.nifti1 import Nifti1Header

    axes = [*shape, *[1] * (5 - len(shape))]
    if stored.dtype.names in COLOURS:
        array = np.stack([stored[colour] for colour in "RGB"], axis=-1).reshape(*axes[:4], 3)
    else:
        array = stored.reshape(axes[:5], order="F")
    affine, notes = placed
    return Volume(
        name,
        native(np.moveaxis(array.T, 0, 1)),  # (C, T, Z, Y, X) -> (T, C, D, H, W)
        affine,
        directed=_directed(header),
        source=file,
        header=header if isinstance(header, Nifti1Header) else None,
        stored_shape=shape[:4] if axes[4] > 1 else shape,
        notes=notes,
    )


def _affine(header: Any, affine: np.ndarray | None, file: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """(4, 4) of (X, Y, Z) to millimetres, and remarks.

    Where sform and pixdim give different voxel sizes, pixdim is right: so do ITK and nnU-Net read it, and the files of
    ACDC, whose sform is a diagonal of ones, mean it so.
    """
    from nibabel.nifti1 import Nifti1Header

    notes: tuple[str, ...] = ()
    if isinstance(header, Nifti1Header):
        qform = _qform(header)
        if affine is None:
            affine = _best_affine(header, qform)
        affine = np.array(affine, float)
        if singular(affine) and qform is not None:
            affine = qform
        zooms = np.array(header["pixdim"][1:4], float)
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        zooms = np.where(np.arange(3) < header["dim"][0], zooms, sizes)  # of a single slice, the affine's thickness
        usable = np.isfinite(zooms).all() and (zooms > 0).all() and (sizes > 0).all()
        if usable and np.abs(sizes / zooms - 1).max() > SIZES_AGREE:
            said = [" x ".join(f"{size:.4g}" for size in values) for values in (sizes, zooms)]
            notes = (
                f"the header contradicts itself: voxels of {said[0]} by its affine (sform), of {said[1]} by its sizes "
                "(pixdim); the sizes are taken. Save the file again with one of them corrected",
            )
            affine = qform if qform is not None else affine @ np.diag([*(zooms / sizes), 1.0])
        elif qform is not None and header["sform_code"] == header["qform_code"] and not singular(affine):
            here, there = axis_codes(affine), axis_codes(qform)
            if here != there:
                notes = (
                    f"the header contradicts itself: axes run {here} by its sform and {there} by its qform, and both "
                    "claim one space; the sform is taken. If left and right look swapped, save it with one of them",
                )
        if not _directed(header):
            untold = (
                "the header tells no directions (sform_code and qform_code are 0): which way rows, columns and slices "
                "run is unknown, and the network sees them as they are stored. Save the file again with an sform"
            )
            notes = (*notes, untold)
        to_mm = {1: 1e3, 3: 1e-3}.get(int(header["xyzt_units"]) % 8, 1)  # codes 1 metre, 2 mm, 3 micron
        affine = np.diag([to_mm, to_mm, to_mm, 1]) @ affine
    affine = np.array(affine, float)
    if singular(affine):
        raise UnreadableError(file, "its affine is singular: voxel size or direction is lost")
    return affine, notes


def _directed(header: Any) -> bool:
    """Whether a header tells where the axes run; nibabel and ITK assume opposite rows for one that does not."""
    from nibabel.nifti1 import Nifti1Header

    return not isinstance(header, Nifti1Header) or bool(header["sform_code"] > 0 or header["qform_code"] > 0)


def _qform(header: Any) -> np.ndarray | None:
    """None where the header has none, or one that is no rotation."""
    if int(header["qform_code"]) <= 0:
        return None
    from nibabel.spatialimages import HeaderDataError

    try:
        qform = header.get_qform()
    except (ValueError, HeaderDataError):
        return None
    return None if singular(qform) else qform


def _best_affine(header: Any, qform: np.ndarray | None) -> np.ndarray:
    """By sform, else qform, else the sizes alone."""
    if int(header["sform_code"]) > 0:
        return header.get_sform()
    if qform is None and int(header["qform_code"]) > 0:
        raise RefusedError("its qform is no rotation, and it has no sform: its direction is lost; save it again")
    return header.get_base_affine() if qform is None else qform
