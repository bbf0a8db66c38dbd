"""`serve`: the page on this computer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .arguments import MODEL, add_shared

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from .arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("serve", help="open a page on this computer: pictures, maps and curves (extra app)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this computer only)")
    parser.add_argument("--port", type=_port, default=8000, help="0 for any that is free (default 8000)")
    add_shared(parser, "batch_size", "parser", *MODEL)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import ipaddress
    import signal
    import warnings

    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise ValueError(f"serve needs {error.name}: pip install fastapi uvicorn (the extra `app`).") from error
    from ..app.api import create_app
    from ..app.service import Service
    from ..runtime.stops import SIGNALS
    from .model import open_pipeline

    with _listening(options.host, options.port) as listener:
        address, port = listener.getsockname()[:2]
        if not ipaddress.ip_address(address).is_loopback:
            warnings.warn(
                f"--host {options.host}: everyone who reaches this computer can use the page; there is no password.",
                stacklevel=1,
            )
        service = Service(
            open_pipeline(options),
            weights=options.weights,
            dtype=options.dtype or "float32",
            batch=options.batch_size,
            parser=options.parser,
        )
        app = create_app(service, names=frozenset({options.host}))

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                self.should_exit = True  # told twice, uvicorn would leave without a word to the application

        server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
        for number in SIGNALS:  # uvicorn minds the first two, once it runs
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, server.handle_exit)
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
        print(f"http://{f'[{shown}]' if ':' in shown else shown}:{port}  (Ctrl-C stops it)", flush=True)
        server.run(sockets=[listener])
        print("stopped")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens already, so that a port in use is an error before a model is opened."""
    import socket

    if not host.strip():  # to the system: every address
        raise ValueError(f"--host is {host!r}; expected an address, as 127.0.0.1, or 0.0.0.0 for all of this computer.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, TypeError, UnicodeError) as error:  # the latter two: for a name that is none
        why = getattr(error, "strerror", None) or error
        raise ValueError(
            f"Nothing can listen at {host}, port {port} ({why}); choose with --host and --port."
        ) from error


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; expected a whole number from 0 to 65535")
    return int(text)
