"""The server's addresses: the page, and what it asks for."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from matplotlib import colormaps
from matplotlib.colors import to_hex
from starlette.exceptions import HTTPException

from .. import __version__, methods
from ..trace import figures
from .jobs import Job, NoSuchJobError, Queue, QueueFullError
from .middleware import Guard
from .request import LIMITS, Order
from .service import Picture, Studio, Task, words_of

PAGE = Path(__file__).parent / "page"
mimetypes.add_type("text/javascript", ".js")  # some systems say text/plain, which browsers refuse to run


def create_app(studio: Studio, *, names: frozenset[str] = frozenset()) -> FastAPI:
    """The whole application; `names` are host names that it answers to beside addresses and localhost."""
    queue = Queue(studio.make)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(title="ebama", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, names=names)
    _answer_errors_in_one_line(app)
    facts = _facts(studio)

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE / "page.html")

    @app.get("/api/model")
    async def model() -> dict[str, Any]:
        return facts

    @app.post("/api/jobs", status_code=202)
    async def submit(order: Order) -> dict[str, Any]:
        job = Job(studio.read(order), parts=len(order.systems))
        queue.submit(job)
        return _status(job, queue)

    @app.get("/api/jobs/{name}")
    async def status(name: str) -> dict[str, Any]:
        return _status(queue.find(name), queue)

    @app.delete("/api/jobs/{name}")
    async def cancel(name: str) -> dict[str, Any]:
        job = queue.find(name)
        queue.cancel(job)
        return _status(job, queue)

    @app.get("/api/jobs/{name}/pictures/{index}")
    async def picture(name: str, index: int) -> dict[str, Any]:
        found = _picture(queue, name, index)
        words, calls, height, width = found.maps.shape
        return {
            "lines": found.lines,
            "timesteps": found.timesteps,
            "sites": found.sites,
            "maps": {"words": words, "calls": calls, "height": height, "width": width},
        }

    @app.get("/api/jobs/{name}/pictures/{index}/maps")
    async def maps(name: str, index: int) -> Response:
        """Little-endian float32 [words, calls, h, w]."""
        found = _picture(queue, name, index)
        return Response(found.maps.astype(np.dtype("<f4")).tobytes(), media_type="application/octet-stream")

    @app.get("/api/jobs/{name}/pictures/{index}/png")
    async def png(name: str, index: int) -> Response:
        found = _picture(queue, name, index)
        headers = {"Content-Disposition": f"inline; filename*=UTF-8''{quote(found.name)}"}
        return Response(found.png, media_type="image/png", headers=headers)

    app.mount("/page", StaticFiles(directory=PAGE))
    return app


def _facts(studio: Studio) -> dict[str, Any]:
    sd = studio.pipeline.sd
    side = sd.config.sample_size * sd.config.vae.factor
    single = [name for name in methods.names() if not methods.get(name).edits_prompts]
    return {
        "version": __version__,
        "model": sd.config.name,
        "side": side,
        "device": str(next(sd.unet.parameters()).device),
        "dtype": studio.dtype,
        "vocabulary": studio.vocabulary,
        "limits": LIMITS,
        "methods": [
            {"name": name, "changes": methods.get(name).changes, "reference": methods.get(name).reference}
            for name in single
        ],
        "colours": [to_hex(colour) for colour in colormaps[figures.COLOURS](range(256))],
        "opacity": figures.OPACITY,
    }


def _status(job: Job, queue: Queue) -> dict[str, Any]:
    task: Task = job.task
    return {
        "id": job.id,
        "state": job.state,
        "ahead": queue.ahead(job),
        "doing": job.doing,
        "part": job.part,
        "parts": job.parts,
        "done": job.done,
        "total": job.total,
        "error": job.error,
        "notes": task.notes,
        "prompt": task.reading.prompt,
        "words": words_of(task.reading),
        "methods": list(task.order.systems),
        "seeds": task.order.numbers,
        "pictures": [{"method": found.method, "seed": found.seed, "name": found.name} for found in list(job.results)],
    }


def _picture(queue: Queue, name: str, index: int) -> Picture:
    pictures: list[Picture] = queue.find(name).results
    if not 0 <= index < len(pictures):
        raise NoSuchJobError(f"That job has {len(pictures)} pictures, and {index} is not among them.")
    return pictures[index]


def _answer_errors_in_one_line(app: FastAPI) -> None:
    """Every refusal is {"error": one line}."""

    def line(status: int, error: object) -> JSONResponse:
        text = " ".join(str(error).split())
        return JSONResponse({"error": text.encode("utf-8", "replace").decode()}, status)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "value_error":
            return line(400, first["ctx"]["error"])
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        got = f", got {str(first['input'])[:60]!r}" if first["type"] != "missing" else ""
        return line(400, f"{where}: {first['msg']}{got}")

    @app.exception_handler(QueueFullError)
    async def full(request: Request, error: QueueFullError) -> JSONResponse:
        return line(429, error)

    @app.exception_handler(ValueError)
    async def refused(request: Request, error: ValueError) -> JSONResponse:
        return line(400, error)

    @app.exception_handler(NoSuchJobError)
    async def missing(request: Request, error: NoSuchJobError) -> JSONResponse:
        return line(404, error)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return line(error.status_code, error.detail)
