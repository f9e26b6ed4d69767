"""Labels that a person has corrected: checked, measured and kept beside the network's.

An edit comes as NIfTI in the place of `label.nii.gz`, which the page shows: same shape, same affine. So a label in
other axes cannot be taken for one in these. T frames, D H W array axes as stored.
"""

import gzip
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import Request

from mamba_unet.serve.guard import length
from mamba_unet.serve.job import EDITS, Job
from mamba_unet.serve.jobs import Jobs, Refused
from mamba_unet.serve.result import LABEL, write_result
from mamba_unet.volumes.geometry import SLICE_AXES

if TYPE_CHECKING:
    import nibabel

    from mamba_unet.serve.collection import Collection

HEADER_BYTES = 1 << 20  # of a NIfTI file, extensions included
VOXEL_BYTES = 8  # at most
TOLERANCE_MM = 1e-3  # of an affine


async def receive_edit(request: Request, jobs: Jobs, job: Job, model: str, volume: int) -> Path:
    """Write a request's body, an edited label, to the job's folder.

    Args:
        request: of the label.
        jobs, job: whose result was edited.
        model, volume: of the result that was edited.

    Raises:
        Refused: there is no such result, it cannot be edited, or there is no room.
    """
    if job.state != "done" or (job.model, job.volume) != (model, volume):
        raise Refused(409, "There is no such result to edit; it may have been segmented again meanwhile.")
    if any(step > 1 for step in job.image["step"]):
        raise Refused(
            409,
            "This volume is too large for browsers' graphics and is shown thinned, so it cannot be edited here. Edit "
            "segmentation.nii.gz in another program.",
        )
    jobs.make_room(job, length(request))
    folder = job.folder / EDITS
    folder.mkdir(exist_ok=True)
    path, size = folder / f".{secrets.token_hex(8)}", 0
    try:
        with jobs.failing(job), open(path, "wb") as file:
            async for chunk in request.stream():
                jobs.get(job.id)  # still there, and not forgotten
                size += len(chunk)
                jobs.make_room(job, size)
                file.write(chunk)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def save_edit(jobs: Jobs, job: Job, path: Path, by: str, collection: "Collection | None") -> dict[str, Any]:
    """Keep an edit as a new version of the job's result.

    Args:
        jobs, job: whose result was edited.
        path: from `receive_edit`; it is removed.
        by: who edited it, empty where nobody says.
        collection: to add it to.

    Returns:
        The edit: `number` from 1, `by`, `saved` (ISO 8601, UTC), `result` as `result.write_result` has it, whose files
        lie in `edits/NUMBER`.

    Raises:
        Refused: the label does not fit the volume, or there is no room.
    """
    from mamba_unet.inference import Segmentation
    from mamba_unet.inference.fit import anatomy_misfits

    of, image = job.result, job.image
    folder = path.with_name(f".{secrets.token_hex(8)}")
    try:
        with jobs.failing(job):
            if of is None:
                raise Refused(409, "This volume is being segmented again.")
            metadata = jobs.predictors[job.model].metadata
            network = _labels(_opened(job.folder / LABEL))
            labels = read_label(path, job.folder / LABEL, metadata.class_names)
            volume, axis = jobs.read_again(job), SLICE_AXES.index(image["slice_axis"])
            anatomy = [
                anatomy_misfits(metadata.seen, one, metadata.class_names, volume.spacing_mm, one.shape[1 + axis])
                for one in (network, labels)
            ]
            segmentation = Segmentation(
                volume=volume,
                labels=labels,
                image=volume.array,
                class_names=metadata.class_names,
                slice_axis=axis,
                label_values=metadata.label_values,
                misfits=[*(said for said in of["misfits"] if said not in anatomy[0]), *anatomy[1]],
                edited=True,
            )
            folder.mkdir()
            result = write_result(folder, segmentation)
            saved = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            edit = {"number": len(job.edits) + 1, "by": by, "saved": saved, "result": result}
            size = sum(file.stat().st_size for file in folder.iterdir())
            place = folder.with_name(str(edit["number"]))
            os.rename(folder, place)
            try:
                jobs.add_edit(job, of, edit, size)
            except Refused:
                shutil.rmtree(place, ignore_errors=True)
                raise
            if collection is not None:
                try:
                    collection.add(job.model, volume, network, labels, by, saved)
                except (OSError, ValueError) as error:
                    result["notes"].append(f"Not collected for training: {job.words(error)}")
            return edit
    finally:
        path.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def read_label(path: Path, shown: Path, class_names: Sequence[str]) -> np.ndarray:
    """(T, D, H, W) uint8 of an edited label.

    Args:
        path: NIfTI, compressed or not.
        shown: the label that was edited, whose shape and affine it must have.
        class_names: [0] is the background.

    Raises:
        ValueError: not such a label, or values that are no class.
    """
    import nibabel as nib

    before = _opened(shown)
    limit = HEADER_BYTES + VOXEL_BYTES * int(np.prod(before.shape))
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"larger than a label of shape {before.shape}")
        image = nib.Nifti1Image.from_bytes(content)
        if image.shape == before.shape:
            values = np.asanyarray(image.dataobj)
    except Exception as error:  # of a stranger's bytes nibabel and gzip may raise any kind
        raise ValueError(f"The edited label is not a NIfTI file that can be read: {error}.") from error
    if image.shape != before.shape:
        raise ValueError(f"The edited label has the shape {image.shape}; the volume has {before.shape}.")
    if not np.allclose(image.affine, before.affine, rtol=0, atol=TOLERANCE_MM):
        raise ValueError(
            "The edited label lies elsewhere than the volume: its affine is another one. Save it on the volume's own "
            "grid, in its own order of voxels."
        )
    if values.dtype.kind not in "buif" or not np.isin(np.unique(values), np.arange(len(class_names))).all():
        named = ", ".join(f"{index} {name}" for index, name in enumerate(class_names))
        raise ValueError(f"The edited label holds values that are no class; expected {named}.")
    return np.ascontiguousarray(_array(values).astype(np.uint8))


def _opened(path: Path) -> "nibabel.Nifti1Image":
    import nibabel as nib

    return nib.load(path)


def _labels(image: "nibabel.Nifti1Image") -> np.ndarray:
    return np.ascontiguousarray(_array(np.asanyarray(image.dataobj)).astype(np.uint8))


def _array(values: np.ndarray) -> np.ndarray:
    """X Y Z [T] as (T, D, H, W)."""
    return values.T if values.ndim == 4 else values.T[None]
