"""What comes with a request, written to a job's folder as it comes: a file as it is, or the files of a form."""

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from fastapi import Request
from starlette.requests import ClientDisconnect

from mamba_unet.serve.guard import BODY_BYTES, length
from mamba_unet.serve.job import Job
from mamba_unet.serve.jobs import DISK_FULL, Jobs, Refused

FILE_FIELDS = ("file", "files")  # of a form, that hold images


@contextmanager
def _receiving(jobs: Jobs, job: Callable[[], Job | None]) -> Iterator[None]:
    """Half an upload is of no use: what goes wrong in the block removes the job."""
    try:
        yield
    except (ClientDisconnect, Refused, OSError) as error:
        if (begun := job()) is not None:
            jobs.remove(begun)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise Refused(507, DISK_FULL) from error
        if not isinstance(error, ClientDisconnect):
            raise


async def receive_file(request: Request, jobs: Jobs, job: Job, name: str) -> None:
    """Add a request's body to a job, as a file that its owner calls `name`."""
    jobs.make_room(job, length(request))
    with jobs.adding(job, name) as path, _receiving(jobs, lambda: job), open(path, "wb") as file:
        async for chunk in request.stream():
            _write(jobs, job, file, chunk)


async def receive_form(request: Request, jobs: Jobs) -> tuple[Job | None, dict[str, str]]:
    """A new job of the files of a form (multipart/form-data), None if there is no file, and the form's words by name.

    Raises:
        Refused: no such form, words of more than `BODY_BYTES`, a file in a field that holds no image, or no room.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Refused(422, "Expected a form (multipart/form-data).")
    form = _Form(jobs, length(request), parse_options_header)
    with _receiving(jobs, lambda: form.job), form:
        try:
            parser = MultipartParser(options[b"boundary"], form.callbacks())
            async for chunk in request.stream():
                parser.write(chunk)
            parser.finalize()
        except FormParserError as error:
            raise Refused(422, "The form is damaged or not complete.") from error
    if form.job is not None:
        jobs.get(form.job.id)  # still there: the client did not go away
    return form.job, form.words


class _Form:
    """The parts of a form as they come.

    Attributes:
        job: of its files; there is none before the first file.
        words: of its other fields, by name.
    """

    def __init__(self, jobs: Jobs, size: int, parse) -> None:
        self.jobs, self.size, self.parse = jobs, size, parse
        self.job: Job | None = None
        self.words: dict[str, str] = {}
        self._part = ExitStack()  # the open file
        self._held = 0

    def __enter__(self) -> "_Form":
        return self

    def __exit__(self, *failure) -> None:
        self._part.close()

    def callbacks(self) -> dict:
        headers = ("header_field", "header_value", "header_end", "headers_finished")
        return {f"on_{name}": getattr(self, name) for name in ("part_begin", *headers, "part_data", "part_end")}

    def part_begin(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._title = self._value = b""

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._title += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._title.lower()] = self._value
        self._title = self._value = b""

    def headers_finished(self) -> None:
        _, options = self.parse(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._text, self._file = b"", None
        called = options.get(b"filename", options.get(b"filename*"))
        if called is not None:
            if self._name not in FILE_FIELDS:
                raise Refused(422, f"No file can come as {self._name[:50]!r}: the networks here take images alone.")
            if self.job is None:
                self.job = self.jobs.create()
                self.jobs.make_room(self.job, self.size)
            name = called.decode(errors="replace")[-1000:]
            path = self._part.enter_context(self.jobs.adding(self.job, name))
            self._file = self._part.enter_context(open(path, "wb"))

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            return _write(self.jobs, self.job, self._file, data[start:end])
        self._held += end - start
        if self._held > BODY_BYTES:
            raise Refused(413, "Only an upload may be as large as this.")
        self._text += data[start:end]

    def part_end(self) -> None:
        if self._file is None:
            self.words[self._name] = self._text.decode(errors="replace")
        self._part.close()


def _write(jobs: Jobs, job: Job, file: BinaryIO, chunk: bytes) -> None:
    jobs.get(job.id)  # still there, and not forgotten
    jobs.make_room(job, len(chunk))
    job.size += len(chunk)
    file.write(chunk)
