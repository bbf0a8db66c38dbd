"""Who may talk to the server, and how much they may say; and what browsers must not do with its answers."""

from __future__ import annotations

import ipaddress
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .request import MAX_UPLOAD

MAX_BODY = 16 * 1024  # bytes
UPLOADS = "/api/pictures"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def protect(app: Starlette, names: frozenset[str]) -> None:
    """Refuse, in one line, requests that are not for us, and say with every answer what browsers must not do with it.

    A web page elsewhere can point a name of its own at 127.0.0.1 and then talk to this server as if it were its own
    (DNS rebinding). Its requests carry that name as their Host, so only addresses, `localhost` and the names given
    are answered. Its ordinary requests carry its Origin, so nothing that changes anything is done for another origin.
    """
    names = frozenset(name.lower() for name in names) | {"localhost"}

    async def check(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        status, problem = _problem(request, names)
        response = JSONResponse({"error": problem}, status) if problem else await answer(request)
        response.headers.update(HEADERS)
        return response

    app.add_middleware(BaseHTTPMiddleware, dispatch=check)
    app.add_middleware(Ending)


class Ending:
    """Answers, in one line, whoever is still sending when the server stops, which waits for a few seconds only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for one request."""
        try:
            await self._app(scope, receive, send)
        except CancelledError:
            await JSONResponse({"error": "The server stops."}, 503)(scope, receive, send)


def _problem(request: Request, names: frozenset[str]) -> tuple[int, str]:
    headers = request.headers
    host = headers.get("host", "")
    if not _is_ours(host, names):
        return 421, f"This server does not answer to the name {host[:60]!r}; open it by the address it printed."
    if request.method in ("GET", "HEAD"):
        return 200, ""
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != host.lower():
        return 403, f"{origin[:60]!r} is another site; only this server's own page may ask for that."
    # Beside a transfer encoding the length would mean nothing.
    length = "" if "transfer-encoding" in headers else headers.get("content-length", "0")
    if not length.isdecimal():
        return 411, "The request does not say how long it is."
    most = MAX_UPLOAD if request.url.path == UPLOADS else MAX_BODY
    if int(length) > most:
        return 413, f"The request has {length[:20]} bytes; expected at most {most}."
    return 200, ""


def _is_ours(host: str, names: frozenset[str]) -> bool:
    """Whether that is one of the names or any IP address, which Starlette's TrustedHostMiddleware cannot express."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in names or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
