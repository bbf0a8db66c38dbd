"""Who may talk to the server, and how much they may say; and what browsers must not do with its answers."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 16 * 1024  # bytes
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware.

    A web page elsewhere can point a name of its own at 127.0.0.1 and then talk to this server as if it were its own
    (DNS rebinding). Its requests carry that name as their Host, so only addresses, `localhost` and the names given
    are answered. Its ordinary requests carry its Origin, so nothing that changes anything is done for another origin.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str] = frozenset()) -> None:
        self.app, self.names = app, frozenset(name.lower() for name in names) | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with one line why not, or pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        status, problem = self._problem(scope["method"], Headers(scope=scope))
        answer = JSONResponse({"error": problem}, status) if problem else self.app
        await answer(scope, receive, with_headers)

    def _problem(self, method: str, headers: Headers) -> tuple[int, str]:
        host = headers.get("host", "")
        if not self._known(host):
            return 421, f"This server does not answer to the name {host[:60]!r}; open it by the address it printed."
        if method in ("GET", "HEAD"):
            return 200, ""
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host.lower():
            return 403, f"{origin[:60]!r} is another site; only this server's own page may ask for that."
        # Beside a transfer encoding the length would mean nothing.
        length = "" if "transfer-encoding" in headers else headers.get("content-length", "0")
        if not length.isdecimal():
            return 411, "The request does not say how long it is."
        if int(length) > MAX_BODY:
            return 413, f"The request has {length[:20]} bytes; expected at most {MAX_BODY}."
        return 200, ""

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self.names:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
