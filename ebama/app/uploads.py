"""Pictures that visitors sent, in memory, until newer ones take their place."""

from __future__ import annotations

import secrets
import threading
from typing import Any

from ebama.weights import StableDiffusion

from ..checks import one_line
from ..output.png import KEY, as_rgb, decoded, metadata_of
from ..output.recipe import recipe_of
from .restoring import request_of

MAX_UPLOADS = 8


class NoSuchUploadError(LookupError):
    """A picture that never was sent, or so long ago that it was dropped."""

    status_code = 404


class Uploads:
    """The files of the last pictures, by ids that nobody guesses."""

    def __init__(self) -> None:
        self._pictures: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._lock = threading.Lock()

    def add(self, content: bytes, sd: StableDiffusion) -> dict[str, Any]:
        """Keep a picture: its id, its height and width, and of one that this library made the request that asks for it
        again, with a note where it would come out otherwise or there is no request. ValueError for what is no picture.
        """
        if content.startswith(b"--") and b"form-data" in content[:1000]:
            raise ValueError("a form was sent; send a picture's bytes alone, as curl --data-binary @FILE does")
        image, request, note = decoded(content), None, ""
        if KEY in image.info:
            try:
                recipe = recipe_of(metadata_of(image, "The picture"), "The picture")
                request = request_of(recipe, sd)
                if recipe.fingerprint != sd.fingerprint():
                    note = "It was made with other weights or in another precision, so it comes out otherwise."
            except ValueError as error:
                note = one_line(error)
        width, height = as_rgb(image).size
        name = secrets.token_urlsafe(9)
        facts = {"id": name, "height": height, "width": width, "request": request, "note": note}
        with self._lock:
            self._pictures[name] = facts, content
            for old in list(self._pictures)[:-MAX_UPLOADS]:
                del self._pictures[old]
        return facts

    def find(self, name: str) -> tuple[dict[str, Any], bytes]:
        """What `add` said of that id, and the file; `NoSuchUploadError` if there is none."""
        try:
            return self._pictures[name]
        except KeyError:
            raise NoSuchUploadError(
                f"There is no picture {name[:40]!r}; the last {MAX_UPLOADS} that were sent are kept. Choose it again."
            ) from None
