"""MONAI Label's interface to our networks, so that the plug-ins of 3D Slicer and other programs work with this server.

Its clients ask `/info/`, hand in an image by `/session/`, and have it segmented by `/infer/MODEL`. An image is a job
like those of the page: the session's name is the job's, cannot be guessed, and is all that a client needs to know.
Beyond that there is nothing here: the server has no data set, keeps no labels and trains nothing.

Read in monailabel 0.8.5: client/client.py, endpoints/*.py; and in its plug-in for 3D Slicer.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from mamba_unet import __version__
from mamba_unet.serve.guard import fits
from mamba_unet.serve.job import MOVING, Job
from mamba_unet.serve.jobs import Jobs, Refused
from mamba_unet.serve.result import DICOM_SEG, SEGMENTATION
from mamba_unet.serve.uploads import receive_form
from mamba_unet.volumes.geometry import SLICE_AXES

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor

POLL_S = 0.05
ENDINGS = (".nii.gz", ".nrrd", ".mha")  # of an answer
DTYPES = ("uint8", "uint16", "int16")
OUTPUTS = ("", "all", "image", "json", "dicom_seg")
AUTOMATIC = "automatic"

TakeOn = Callable[[Job, str, str | None], Awaitable[object]]  # (job, model, slice axis): see `routes`


def routes(predictors: "Mapping[str, Predictor]", jobs: Jobs, take_on: TakeOn, token: str | None) -> APIRouter:
    """The routes.

    Args:
        predictors: the networks, by the names that clients choose from.
        jobs: of the server.
        take_on: reads a job, puts it into the queue and returns what `Jobs.start` does.
        token: what programs must bring; a client that asks people for a name and a password gets it for the password,
            which is the token itself.
    """
    router = APIRouter()

    @router.get("/info/")
    def info() -> dict[str, Any]:
        models = {name: _model(predictor) for name, predictor in predictors.items()}
        return {
            "name": "mamba-unet",
            "description": "Networks of mamba-unet. Research use; not a medical device.",
            "version": __version__,
            "labels": list(dict.fromkeys(label for model in models.values() for label in model["labels"])),
            "models": models,
            "datastore": _stock(),
            **{name: {} for name in ("trainers", "strategies", "scoring", "train_stats")},
        }

    @router.get("/auth/")
    def login_needed() -> dict[str, Any]:
        return {"enabled": token is not None, "client_id": "", "realm": ""}

    @router.post("/auth/token")
    async def login(request: Request) -> dict[str, Any]:
        password = parse_qs((await request.body()).decode(errors="replace")).get("password", [""])[0]
        if token is not None and not fits(password, token):
            raise Refused(401, "The password is the token at the end of the address that the server printed.")
        return {"access_token": token, "token_type": "Bearer"}

    @router.get("/auth/token/valid")
    def login_valid() -> dict[str, Any]:
        return {}  # who comes as far as this has the token

    @router.put("/session/")
    async def create(request: Request) -> dict[str, Any]:
        job = await _uploaded(request, jobs)
        return {"session_id": job.id, "session_info": _session(job)}

    @router.get("/session/{identifier}")
    def session(identifier: str) -> dict[str, Any]:
        return _session(jobs.get(identifier))

    @router.delete("/session/{identifier}")
    def remove(identifier: str) -> dict[str, Any]:
        job = jobs.get(identifier)
        jobs.remove(job)
        return _session(job)

    @router.get("/datastore/")
    def datastore(output: str = "") -> dict[str, Any]:
        return {"name": "mamba-unet", "description": "", "objects": {}} if output == "all" else _stock()

    @router.put("/datastore/")
    @router.put("/datastore/image")
    async def add_image(request: Request) -> dict[str, str]:
        job = await _uploaded(request, jobs)
        return {"image": job.id}  # not the name that the client has for it: others could guess that one

    @router.put("/datastore/label")
    def save_label() -> None:
        raise Refused(501, "This server keeps no labels. Save the segmentation in the program that shows it.")

    @router.post("/activelearning/{strategy}")
    def next_sample(strategy: str) -> dict[str, Any]:
        return {}  # there is none

    @router.post("/infer/{model}")
    async def infer(request: Request, model: str, image: str = "", session_id: str = "", output: str = "") -> Response:
        if output not in OUTPUTS:
            raise Refused(422, f"There is no output {output[:50]!r}; there are {', '.join(OUTPUTS[1:])}.")
        brought, words = await receive_form(request, jobs)
        try:
            job = brought or jobs.get(session_id or image)
            wanted = _Wanted.of(words.get("params", "{}"), output)
            start = await take_on(job, model, wanted.slice_axis)
            await _finished(request, jobs, job, start)
            with jobs.using(job):
                return await run_in_threadpool(_answer, job, start, wanted, output)
        finally:
            if brought:  # nobody else knows its name
                jobs.remove(brought)

    return router


@dataclass(frozen=True)
class _Wanted:
    """What a client says of the answer that it wants."""

    ending: str = ENDINGS[0]
    dtype: str = DTYPES[0]
    slice_axis: str | None = None

    @classmethod
    def of(cls, params: str, output: str) -> "_Wanted":
        try:
            given = json.loads(params)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise Refused(422, "params: expected an object in JSON.")
        values = {"ending": given.get("result_extension"), "dtype": given.get("result_dtype")}
        values["slice_axis"] = axis = given.get("slice_axis")
        if axis in (None, "", AUTOMATIC):
            del values["slice_axis"]
        wanted = cls(**{name: value for name, value in values.items() if value})
        for name, value, known in (
            ("result_extension", wanted.ending, ENDINGS),
            ("result_dtype", wanted.dtype, DTYPES),
            ("slice_axis", wanted.slice_axis, (None, *SLICE_AXES)),
        ):
            if value not in known:
                raise Refused(422, f"{name}: {str(value)[:50]} is none of {', '.join(filter(None, known))}.")
        return wanted


async def _uploaded(request: Request, jobs: Jobs) -> Job:
    job, _ = await receive_form(request, jobs)
    if job is None:
        raise Refused(422, "No file came with this form.")
    return job


def _check(job: Job, start: object) -> None:
    """Refuse to answer with what is of another start."""
    if job.start is not start:
        raise Refused(
            409,
            "Expected the segmentation that this request started, but the image was cancelled or started again "
            "meanwhile. Ask again.",
        )


async def _finished(request: Request, jobs: Jobs, job: Job, start: object) -> None:
    """Wait for the network. A client that does not wait any more stops it."""
    gone = asyncio.ensure_future(request.receive())  # the form is read; what still comes is the end of the connection
    try:
        while job.start is start and job.state in MOVING:
            if gone.done():
                jobs.cancel(job)
            await asyncio.sleep(POLL_S)
    finally:
        gone.cancel()
    _check(job, start)
    if job.state == "choosing":
        raise Refused(422, f"It holds several volumes ({', '.join(job.titles[:10])}); hand in one of them.")
    if job.state != "done":
        raise Refused(422, job.error)


def _answer(job: Job, start: object, wanted: _Wanted, output: str) -> Response:
    """The segmentation of this start; refused where another one has removed or replaced its files meanwhile."""
    try:
        return _segmentation(job, wanted, output)
    finally:
        _check(job, start)  # also in place of a failure, which is then for the lack of the files


def _segmentation(job: Job, wanted: _Wanted, output: str) -> Response:
    """The segmentation as it was asked for, with the labels that are in it.

    3D Slicer's plug-in gives the names to the labels in ascending order, those that are absent from the image left out.
    """
    if output == "dicom_seg":
        path = job.folder / DICOM_SEG
        if not path.is_file():
            raise Refused(422, "There is no DICOM segmentation of it: it is no DICOM series, or lacks what one needs.")
        return Response(path.read_bytes(), media_type="application/dicom", headers=_file(job, ".dcm"))
    found = [row for row in job.result["structures"] if row["voxels"]]
    params = {"label_names": {row["structure"]: row["class_index"] for row in found}}
    if output == "json":
        return JSONResponse(params)
    image = _image(job, wanted)
    if output == "image":
        return Response(image, media_type="application/octet-stream", headers=_file(job, wanted.ending))
    boundary = secrets.token_hex(16)
    parts = (
        ('form-data; name="params"', "application/json", json.dumps(params).encode()),
        (f'form-data; name="image"; filename="{_called(job, wanted.ending)}"', "application/octet-stream", image),
    )
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: {what}\r\nContent-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"
        for what, kind, content in parts
    )
    return Response(body + f"--{boundary}--\r\n".encode(), media_type=f"multipart/form-data; boundary={boundary}")


def _image(job: Job, wanted: _Wanted) -> bytes:
    path = job.folder / SEGMENTATION
    if (wanted.ending, wanted.dtype) == (ENDINGS[0], DTYPES[0]):
        return path.read_bytes()
    import SimpleITK as sitk

    kinds = {"uint8": sitk.sitkUInt8, "uint16": sitk.sitkUInt16, "int16": sitk.sitkInt16}
    changed = job.folder / f"{secrets.token_hex(8)}{wanted.ending}"
    try:
        sitk.WriteImage(sitk.ReadImage(str(path), kinds[wanted.dtype]), str(changed), useCompression=True)
        return changed.read_bytes()
    except RuntimeError as error:  # ITK has no place for a sheared image
        raise Refused(422, f"Its geometry cannot be written as {wanted.ending}; ask for {ENDINGS[0]}.") from error
    finally:
        changed.unlink(missing_ok=True)


def _called(job: Job, ending: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '_', job.name)}_segmentation{ending}"


def _file(job: Job, ending: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{_called(job, ending)}"'}


def _model(predictor: "Predictor") -> dict[str, Any]:
    metadata = predictor.metadata
    return {
        "type": "segmentation",
        "labels": {name: index for index, name in enumerate(metadata.class_names) if index},
        "dimension": 3,  # whole volumes go in, whatever the network cuts them into
        "description": f"{metadata.model}, trained on {metadata.dataset or 'unknown data'}",
        "config": {"slice_axis": [AUTOMATIC, *SLICE_AXES]},  # a list is a choice, the first is chosen
    }


def _stock() -> dict[str, Any]:
    return {"total": 0, "completed": 0, "label_tags": {}}


def _session(job: Job) -> dict[str, Any]:
    """As a client reads it, without the server's paths."""
    return {"name": job.called, "path": "", "image": job.called, "meta": {}, "state": job.state}
