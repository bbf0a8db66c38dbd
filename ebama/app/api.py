"""The server's addresses: the page, and what it asks for."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .. import __version__, methods
from ..checks import one_line
from ..output.png import encoded
from ..prompt import Parsed
from ..prompt.words import describe_words, in_words
from ..trace.view import VIEWER, appearance
from .jobs import Job, NoSuchJobError, Queue
from .middleware import UPLOADS, protect
from .picture import Picture
from .request import LIMITS, GenerateRequest, ReadRequest, longest_side
from .service import PreparedRequest, Service
from .uploads import NoSuchUploadError

_JSON = "expected one in UTF-8, sent with the header Content-Type: application/json."
PAGE = Path(__file__).parent / "page"
mimetypes.add_type("text/javascript", ".js")  # some systems say text/plain, which browsers refuse to run


def create_app(service: Service, *, names: frozenset[str] = frozenset()) -> FastAPI:
    """The whole application; `names` are host names that it answers to beside addresses and localhost."""
    queue = Queue(service.make)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    missing = (NoSuchJobError, NoSuchUploadError)
    gone = ClientDisconnect  # nobody reads that answer
    refusals: tuple[type[Exception], ...] = (RequestValidationError, ValueError, HTTPException, gone, *missing)
    app = FastAPI(
        title="ebama",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        exception_handlers=dict.fromkeys(refusals, _refuse),
    )
    protect(app, names)
    facts = _facts(service)

    @app.api_route("/", methods=["GET", "HEAD"])  # as those ask who wait until it is there
    async def page() -> FileResponse:
        return FileResponse(PAGE / "page.html")

    @app.get("/api/model")
    async def model() -> dict[str, Any]:
        return facts

    @app.post("/api/words")
    def read(request: ReadRequest) -> dict[str, Any]:
        parsed, problem = service.read(request)
        return {**_words(parsed), "groups": in_words(parsed), "problem": problem}

    @app.post("/api/jobs", status_code=202)
    def submit(request: GenerateRequest) -> dict[str, Any]:
        job = Job(service.prepare(request), parts=len(request.parsed_methods) + request.inverts)
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

    app.include_router(_upload_routes(service), prefix=UPLOADS)
    app.include_router(_picture_routes(queue), prefix="/api/jobs/{name}/pictures/{index}")
    app.mount("/page", StaticFiles(directory=PAGE))
    app.mount("/viewer", StaticFiles(directory=VIEWER))
    return app


def _upload_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("", status_code=201)
    async def upload(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(service.uploads.add, await request.body(), service.pipeline.sd)

    @router.get("/{name}")
    async def facts(name: str) -> dict[str, Any]:
        return service.uploads.find(name)[0]

    @router.get("/{name}/png")
    def thumbnail(name: str, height: int, width: int) -> Response:
        """As runs of that size start from it."""
        return Response(encoded(service.fitted(name, (height, width))), media_type="image/png")

    return router


def _picture_routes(queue: Queue) -> APIRouter:
    router = APIRouter()

    @router.get("")
    async def facts(name: str, index: int) -> dict[str, Any]:
        picture = _find_picture(queue, name, index)
        shape = dict(zip(("words", "calls", "height", "width"), picture.maps.shape[1:], strict=True))
        return {"lines": picture.lines, "timesteps": picture.timesteps, "layers": picture.layers, "maps": shape}

    @router.get("/maps")
    async def maps(name: str, index: int, layer: int = 0) -> Response:
        """Little-endian float32 [words, calls, h, w], of one of the layers."""
        every = _find_picture(queue, name, index).maps
        if not 0 <= layer < len(every):
            raise NoSuchJobError(f"That picture has maps of {len(every)} layers, and {layer} is not among them.")
        return Response(every[layer].astype(np.dtype("<f4")).tobytes(), media_type="application/octet-stream")

    @router.get("/png")
    async def png(name: str, index: int) -> Response:
        picture = _find_picture(queue, name, index)
        headers = {"Content-Disposition": f"inline; filename*=UTF-8''{quote(picture.name)}"}
        return Response(picture.png, media_type="image/png", headers=headers)

    return router


def _facts(service: Service) -> dict[str, Any]:
    sd = service.pipeline.sd
    known = sd.vocabulary  # None for a model whose words nobody has listed
    single = {name: method for name in methods.names() if not (method := methods.get(name).method).edits_prompts}
    return {
        "version": __version__,
        "model": sd.config.name,
        "side": sd.config.sample_size * sd.config.vae.factor,
        "multiple": sd.config.size_multiple,
        "device": str(next(sd.text_encoder.parameters()).device),
        "dtype": service.dtype,
        "vocabulary": {} if known is None else {"name": known.name, "nouns": known.nouns, "colours": known.colours},
        "limits": {**LIMITS, "side": longest_side(sd.config)},
        "methods": [{"name": name, "changes": m.changes, "reference": m.reference} for name, m in single.items()],
        **appearance(),
    }


def _status(job: Job, queue: Queue) -> dict[str, Any]:
    prepared: PreparedRequest = job.payload
    return {
        **{name: getattr(job, name) for name in ("id", "state", "doing", "part", "parts", "done", "total", "error")},
        "ahead": queue.ahead(job),
        "notes": prepared.notes,
        **_words(prepared.parsed),
        "request": asdict(prepared.request),
        "methods": list(prepared.request.parsed_methods),
        "seeds": prepared.request.seed_numbers,
        "pictures": [{"method": p.method, "seed": p.seed, "name": p.name} for p in list(job.results)],
    }


def _words(parsed: Parsed) -> dict[str, Any]:
    return {"prompt": parsed.prompt, "words": describe_words(parsed)}


def _find_picture(queue: Queue, name: str, index: int) -> Picture:
    pictures: list[Picture] = queue.find(name).results
    if not 0 <= index < len(pictures):
        raise NoSuchJobError(f"That job has {len(pictures)} pictures, and {index} is not among them.")
    return pictures[index]


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    """Every refusal is {"error": one line}."""
    text = str(getattr(error, "detail", error))
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "the request"
        got = f", got {str(first['input'])[:60]!r}" if first["type"] != "missing" else ""
        if first["type"] == "value_error":
            text = str(first["ctx"]["error"])
        elif first["type"] == "json_invalid" or first["loc"] == ("body",):
            text = f"The request is no JSON object ({first['msg']}); {_JSON}"
        else:
            text = f"{where}: {first['msg']}{got}"
    elif isinstance(error, HTTPException) and "parsing the body" in text:
        text = f"{text}; {_JSON}"
    return JSONResponse({"error": one_line(text)}, getattr(error, "status_code", 400))
