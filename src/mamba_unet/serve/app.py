"""The page's server: the files of the page, and the interface that it talks to; `guard` says who may use it."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask

from mamba_unet import __version__
from mamba_unet.drawing.colors import class_color
from mamba_unet.models.card import USE, facts
from mamba_unet.monitoring import CONTENT_TYPE, prometheus
from mamba_unet.serve import monai_label
from mamba_unet.serve.bundle import write_bundle
from mamba_unet.serve.collection import Collection
from mamba_unet.serve.edits import receive_edit, save_edit
from mamba_unet.serve.guard import HEALTH, LOOPBACK, METRICS, WITHOUT_TOKEN, refusal, seal
from mamba_unet.serve.job import EDITS, Job
from mamba_unet.serve.jobs import Jobs, Refused
from mamba_unet.serve.result import FILES, IMAGE
from mamba_unet.serve.uploads import receive_file
from mamba_unet.words import printable

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor
    from mamba_unet.models.checkpoint import CheckpointMetadata

STATIC = Path(__file__).parent / "static"
READERS = 8  # volumes that are read at a time, those of large uploads (`Job.large`) one by one


class Start(BaseModel):
    """What to do with an upload.

    Attributes:
        model: name of a network.
        volume: which one of several, counted from 0; None asks for a choice.
        slice_axis: to cut slices across; None finds it.
        uncertainty: also say how sure the network is of each voxel; takes memory for the probabilities of all classes.
    """

    model_config = ConfigDict(extra="forbid")
    model: str
    volume: Annotated[int, Field(ge=0)] | None = None
    slice_axis: Literal["x", "y", "z"] | None = None
    uncertainty: bool = False


def create_app(
    predictors: "Mapping[str, Predictor]",
    *,
    token: str | None = None,
    hosts: Sequence[str] = LOOPBACK,
    max_upload_bytes: int = 2 * 2**30,
    max_disk_bytes: int = 20 * 2**30,
    keep_s: float = 3600,
    collect: str | Path | None = None,
    metrics_open: bool = False,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        predictors: the networks, by the name that people choose from; the first is the default.
        token: what a browser must bring once, as `/?token=...`; None on a loopback address.
        hosts: names that a request may call this machine by; not looked at where there is a token.
        max_upload_bytes: of one upload.
        max_disk_bytes: of all uploads and results together.
        keep_s: a volume and its result go when nobody has asked for them for so long.
        collect: folder that edits are collected in as training data, see `collection`.
        metrics_open: answer `/metrics` without the token.
    """
    collection = None if collect is None else Collection(collect, predictors)
    jobs = Jobs(predictors, keep_s, max_upload_bytes, max_disk_bytes)
    # who waits for one of these holds none of the threads that answer everybody
    without_token = (*WITHOUT_TOKEN, METRICS) if metrics_open else WITHOUT_TOKEN
    readers, large = asyncio.Semaphore(READERS), asyncio.Lock()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(jobs.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.jobs = jobs

    @app.exception_handler(Refused)
    def refuse(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, error.status)

    @app.exception_handler(RequestValidationError)
    def misunderstand(request: Request, error: RequestValidationError) -> JSONResponse:
        said = [f"{it['loc'][-1]}: {it['msg'][:1].lower()}{it['msg'][1:]}" for it in error.errors()]
        return JSONResponse({"detail": "; ".join(said)}, 422)

    @app.exception_handler(Exception)
    def fail(request: Request, error: Exception) -> JSONResponse:
        response = JSONResponse({"detail": "The server failed at this request; its log says more."}, 500)
        seal(request, response, token)  # no middleware comes after this one
        return response

    @app.middleware("http")
    async def guard(request: Request, call_next) -> Response:
        response = refusal(request, token, hosts, without_token) or await call_next(request)
        seal(request, response, token)
        return response

    @app.get(HEALTH)
    async def health() -> JSONResponse:
        alive = jobs.alive
        state = {
            "status": "ok" if alive else "failed",
            "version": __version__,
            "networks": len(predictors),
            "queue": jobs.waiting,
        }
        return JSONResponse(state, 200 if alive else 503)

    @app.get(METRICS)
    async def metrics() -> Response:
        return Response(prometheus(jobs.metrics), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return {
            "models": [_model(name, predictor) for name, predictor in predictors.items()],
            "max_upload_bytes": max_upload_bytes,
            "keep_minutes": keep_s / 60,
            "collects": collection is not None,
        }

    @app.post("/api/jobs", status_code=201)
    def create() -> dict[str, Any]:
        return _state(jobs, jobs.create())

    @app.put("/api/jobs/{identifier}/upload", status_code=204)
    async def upload(identifier: str, request: Request, name: Annotated[str, Query(max_length=1000)]) -> None:
        await receive_file(request, jobs, jobs.get(identifier), name)

    async def take_on(
        job: Job, model: str, slice_axis: str | None, volume: int | None = None, uncertainty: bool = False
    ) -> object:
        """Have a job read, and put it into the queue; what `Jobs.start` returns."""
        start = jobs.start(job, model, slice_axis, uncertainty)
        async with job.turn:
            async with readers:
                await run_in_threadpool(jobs.find, job, start, volume)
            if job.state == "reading":
                async with large if job.large else readers:
                    await run_in_threadpool(jobs.read, job, start)
        return start

    @app.post("/api/jobs/{identifier}/start")
    async def start(identifier: str, wanted: Start) -> dict[str, Any]:
        job = jobs.get(identifier)
        await take_on(job, wanted.model, wanted.slice_axis, wanted.volume, wanted.uncertainty)
        return _state(jobs, job)

    @app.post("/api/jobs/{identifier}/cancel")
    def cancel(identifier: str) -> dict[str, Any]:
        job = jobs.get(identifier)
        jobs.cancel(job)
        return _state(jobs, job)

    @app.get("/api/jobs/{identifier}")
    def state(identifier: str) -> dict[str, Any]:
        return _state(jobs, jobs.get(identifier))

    @app.delete("/api/jobs/{identifier}", status_code=204)
    def remove(identifier: str) -> None:
        jobs.remove(jobs.get(identifier))

    @app.get("/api/jobs/{identifier}/thumbnails/{volume}")
    async def picture(identifier: str, volume: Annotated[int, InPath(ge=0)]) -> Response:
        job = jobs.get(identifier)
        if volume >= len(job.volumes):
            raise Refused(404, "There is no such volume in this upload.")
        async with large if job.large else readers:
            png = await run_in_threadpool(jobs.thumbnail, job, volume)
        return Response(png, media_type="image/png")

    @app.get("/api/jobs/{identifier}/everything.zip")
    def bundle(identifier: str) -> FileResponse:
        job = jobs.get(identifier)
        if job.state != "done":
            raise Refused(409, "This volume has no result yet.")
        with jobs.using(job):
            path = write_bundle(job, _card(predictors[job.model].metadata))
        gone = BackgroundTask(path.unlink, missing_ok=True)
        return FileResponse(path, media_type="application/zip", filename=f"{job.name}.zip", background=gone)

    @app.put("/api/jobs/{identifier}/edits", status_code=201)
    async def edit(
        identifier: str, request: Request, model: str, volume: int = 0, by: Annotated[str, Query(max_length=100)] = ""
    ) -> dict[str, Any]:
        job = jobs.get(identifier)
        path = await receive_edit(request, jobs, job, model, volume)
        async with job.turn, large if job.large else readers:
            return await run_in_threadpool(save_edit, jobs, job, path, printable(by.strip()), collection)

    @app.get("/api/jobs/{identifier}/edits/{number}/{file}")
    def download_edit(identifier: str, number: int, file: str) -> FileResponse:
        job = jobs.get(identifier)
        path = job.folder / EDITS / str(number) / file
        if not 0 < number <= len(job.edits) or file not in FILES or not path.is_file():
            raise Refused(404, f"There is no {file} of this edit.")
        name = f"{job.name}_edit{number}_{file}"
        return FileResponse(path, media_type="application/octet-stream", filename=name)

    @app.get("/api/jobs/{identifier}/{file}")
    def download(identifier: str, file: str) -> FileResponse:
        job = jobs.get(identifier)
        path = job.folder / file
        if file not in FILES or not path.is_file():
            raise Refused(404, f"There is no {file} of this volume.")
        ready = job.image is not None if file == IMAGE else job.state == "done"
        if not ready:
            raise Refused(409, f"There is no {file} of this volume now; its state is {job.state!r}.")
        return FileResponse(path, media_type="application/octet-stream", filename=f"{job.name}_{file}")

    app.include_router(monai_label.routes(predictors, jobs, take_on, token))
    app.mount("/", _Page(directory=STATIC, html=True))
    return app


class _Page(StaticFiles):
    """The page's files; a browser asks each time whether they are still the same."""

    def file_response(self, *args, **kwargs) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _model(name: str, predictor: "Predictor") -> dict[str, Any]:
    metadata = predictor.metadata
    classes = [{"name": text, "color": class_color(i)} for i, text in enumerate(metadata.class_names) if i]
    return {
        "name": name,
        "network": metadata.model,
        "dataset": metadata.dataset,
        "classes": classes,
        "tiles": "patches" if predictor.preprocessing.view.spatial_dims == 3 else "slices",
        "card": _card(metadata),
        "use": USE,
    }


def _card(metadata: "CheckpointMetadata") -> dict[str, str]:
    try:
        said = facts(metadata)
    except (TypeError, KeyError, ValueError, AttributeError):  # a damaged header; the network works all the same
        said = {"network": metadata.model}
    return {title: printable(words) for title, words in said.items()}  # a stranger may have written them


def _state(jobs: Jobs, job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "volumes": job.titles,
        "series": job.series,
        "volume": job.volume,
        "model": job.model,
        "ahead": jobs.ahead(job),
        "slices": job.slices,
        "error": job.error,
        "image": job.image,
        "result": job.result,
        "edits": job.edits,
    }
