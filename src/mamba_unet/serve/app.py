"""The page's server: the files of the page, and the interface that it talks to, guarded.

Nobody is asked who they are. On a loopback address every program of this machine may use the server, but no web page
of anybody else: requests must name this machine as their host (DNS rebinding) and must not come from another origin.
On any other address a token is demanded as well.
"""

import asyncio
import errno
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Body, FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect

from mamba_unet.drawing.colors import class_color
from mamba_unet.serve.jobs import FULL, Job, Jobs, Refused
from mamba_unet.serve.result import FILES

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
BODY_BYTES = 10_000  # of a request that is not an upload
HEADERS = {
    # the viewer sets styles and pictures of its own, but loads no code
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' "
        "data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_app(
    predictors: "Mapping[str, Predictor]",
    *,
    token: str | None = None,
    hosts: Sequence[str] = LOOPBACK,
    max_upload_bytes: int = 2 * 2**30,
    keep_s: float = 3600,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
        predictors: the networks, by the name that people choose from; the first is the default.
        token: what a browser must bring once, as `/?token=...`; None on a loopback address.
        hosts: names that a request may call this machine by; not looked at where there is a token.
        max_upload_bytes: of one scan.
        keep_s: a scan and its result go when nobody has asked for them for so long.
    """
    jobs = Jobs(predictors, keep_s)
    reading = asyncio.Lock()  # who waits for it holds none of the threads that answer everybody

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(jobs.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.jobs = jobs

    @app.exception_handler(Refused)
    def refuse(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, error.status)

    @app.middleware("http")
    async def guard(request: Request, call_next) -> Response:
        response = _stop(request, token, hosts) or await call_next(request)
        if token is not None and _equal(request.query_params.get("token"), token):
            response.set_cookie(_cookie(request), token, httponly=True, samesite="strict")
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        return {
            "models": [_model(name, predictor) for name, predictor in predictors.items()],
            "max_upload_bytes": max_upload_bytes,
            "keep_minutes": keep_s / 60,
        }

    @app.post("/api/jobs", status_code=201)
    def create() -> dict[str, Any]:
        return _state(jobs, jobs.create())

    @app.put("/api/jobs/{identifier}/upload", status_code=204)
    async def upload(identifier: str, request: Request, name: Annotated[str, Query(max_length=1000)]) -> None:
        job = jobs.get(identifier)
        too_large = Refused(413, f"Larger than {max_upload_bytes / 2**20:,.0f} MiB, which is the limit here.")
        if job.size + _length(request) > max_upload_bytes:
            raise too_large
        try:
            with jobs.using(job), open(jobs.add_file(job, name), "wb") as file:
                async for chunk in request.stream():
                    jobs.get(identifier)  # still there, and not forgotten
                    job.size += len(chunk)
                    if job.size > max_upload_bytes:
                        raise too_large
                    file.write(chunk)
        except ClientDisconnect:
            jobs.remove(job)  # nobody comes back to half a file
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise Refused(507, FULL) from error
            raise

    @app.post("/api/jobs/{identifier}/start")
    async def start(
        identifier: str,
        model: Annotated[str, Body()],
        scan: Annotated[int | None, Body(ge=0)] = None,
        slice_axis: Annotated[Literal["x", "y", "z"] | None, Body()] = None,
    ) -> dict[str, Any]:
        job = jobs.get(identifier)
        jobs.start(job, model, slice_axis)
        async with reading:
            await run_in_threadpool(jobs.read, job, scan)
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

    @app.get("/api/jobs/{identifier}/{file}")
    def download(identifier: str, file: str) -> FileResponse:
        job = jobs.get(identifier)
        path = job.folder / file
        if file not in FILES or not path.is_file():
            raise Refused(404, f"There is no {file} of this scan.")
        return FileResponse(path, media_type="application/octet-stream", filename=f"{job.name}_{file}")

    app.mount("/", _Page(directory=STATIC, html=True))
    return app


class _Page(StaticFiles):
    """The page's files; a browser asks each time whether they are still the same."""

    def file_response(self, *args, **kwargs) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def _stop(request: Request, token: str | None, hosts: Sequence[str]) -> Response | None:
    """The refusal of a request that nobody at our page made; None lets it pass."""
    if request.method == "POST" and (_length(request) > BODY_BYTES or "transfer-encoding" in request.headers):
        return PlainTextResponse("Only an upload may be as large as this.", 413)
    host = request.headers.get("host", "")
    if token is None and re.fullmatch(r"\[?(.*?)\]?(:\d+)?", host.lower())[1] not in hosts:
        return PlainTextResponse(f"This server answers as {' or '.join(hosts)} only.", 403)
    origin = request.headers.get("origin")
    if request.method not in ("GET", "HEAD") and origin not in (None, f"http://{host}", f"https://{host}"):
        return PlainTextResponse("Requests of other pages are refused.", 403)
    if token is not None:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = (request.cookies.get(_cookie(request)), bearer, request.query_params.get("token"))
        if not any(_equal(word, token) for word in given):
            return PlainTextResponse("Open the address that the server printed: it ends with its token.", 401)
    return None


def _cookie(request: Request) -> str:
    """Browsers send a host's cookies to all its ports, and several people may serve on one machine."""
    return f"mamba_unet_token_{request.scope['server'][1]}"


def _length(request: Request) -> int:
    return int(request.headers.get("content-length", 0))


def _equal(given: str | None, token: str) -> bool:
    return given is not None and secrets.compare_digest(given.encode(), token.encode())


def _model(name: str, predictor: "Predictor") -> dict[str, Any]:
    metadata = predictor.metadata
    classes = [{"name": text, "color": class_color(i)} for i, text in enumerate(metadata.class_names) if i]
    return {"name": name, "network": metadata.model, "dataset": metadata.dataset, "classes": classes}


def _state(jobs: Jobs, job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "scans": job.titles,
        "scan": job.scan,
        "model": job.model,
        "ahead": jobs.ahead(job),
        "slices": job.slices,
        "error": job.error,
        "image": job.image,
        "result": job.result,
    }
