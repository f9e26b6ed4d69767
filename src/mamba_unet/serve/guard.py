"""Who may ask the server for what, and what a browser may do with its answers.

Nobody is asked who they are. On a loopback address every program of this machine may use the server, but no web page
of anybody else: requests must name this machine as their host (DNS rebinding) and must not come from another origin.
On any other address a token is demanded as well.
"""

import re
import secrets
from collections.abc import Sequence

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse

LOOPBACK = ("localhost", "127.0.0.1", "::1")
BODY_BYTES = 10_000  # of a request that is not an upload
INFER = "/infer/"  # of MONAI Label's clients, who may send the image with the request
HEALTH, METRICS = "/health", "/metrics"  # for programs that watch the server
LOGIN = ("/auth/", "/auth/token")  # where they get the token, for a password
WITHOUT_TOKEN = (*LOGIN, HEALTH)
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


def refusal(request: Request, token: str | None, hosts: Sequence[str], without_token: Sequence[str]) -> Response | None:
    """The refusal of a request that nobody at our page made; None lets it pass.

    Args:
        request: as it came.
        token: that it must bring; None demands none.
        hosts: names that it may call this machine by, where no token is demanded.
        without_token: paths that are answered without the token.
    """
    small = request.method == "POST" and not uploads(request.method, request.url.path)
    if small and (length(request) > BODY_BYTES or "transfer-encoding" in request.headers):
        return PlainTextResponse("Only an upload may be as large as this.", 413)
    host = request.headers.get("host", "")
    if token is None and re.fullmatch(r"\[?(.*?)\]?(:\d+)?", host.lower())[1] not in hosts:
        return PlainTextResponse(f"This server answers as {' or '.join(hosts)} only.", 403)
    origin = request.headers.get("origin")
    if request.method not in ("GET", "HEAD") and origin not in (None, f"http://{host}", f"https://{host}"):
        return PlainTextResponse("Requests of other pages are refused.", 403)
    if token is not None and request.url.path not in without_token:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = (request.cookies.get(_cookie(request)), bearer, request.query_params.get("token"))
        if not any(fits(word, token) for word in given):
            return PlainTextResponse("Open the address that the server printed: it ends with its token.", 401)
    return None


def seal(request: Request, response: Response, token: str | None) -> None:
    """Add the headers that every answer has, and the token's cookie where the address brought the token."""
    if token is not None and fits(request.query_params.get("token"), token):
        response.set_cookie(_cookie(request), token, httponly=True, samesite="strict")
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


def uploads(method: str, path: str) -> bool:
    """Whether a request may bring an image, and so be large and take its time."""
    return method == "PUT" or (method == "POST" and path.startswith(INFER))


def length(request: Request) -> int:
    return int(request.headers.get("content-length", 0))


def _cookie(request: Request) -> str:
    """Browsers send a host's cookies to all its ports, and several people may serve on one machine."""
    return f"mamba_unet_token_{request.scope['server'][1]}"


def fits(given: str | None, token: str) -> bool:
    """Whether this is the token; how long the answer takes does not tell how much of it is right."""
    return given is not None and secrets.compare_digest(given.encode(), token.encode())
