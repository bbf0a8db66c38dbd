"""From a request to pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..output.naming import slug
from ..output.png import decoded, encoded
from ..prompt import Parsed, PromptError, parse
from ..prompt.alignment import align
from ..prompt.words import place
from ..starts import fitted, second_start
from ..trace import TraceOptions
from .jobs import Job
from .picture import picture_of
from .request import MAX_PASSES, GenerateRequest, ReadRequest, pixels
from .uploads import Uploads

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from ..pipeline import Pipeline


@dataclass(frozen=True)
class PreparedRequest:
    """A request whose prompt has been parsed; `notes` are lines that its visitor should see, `image` is what runs start
    from."""

    request: GenerateRequest
    parsed: Parsed
    notes: tuple[str, ...]
    image: Image.Image | None = None


@dataclass(eq=False)
class Service:
    """A pipeline, and what is the same for all requests.

    Prompts are parsed in another thread than the one in which pictures are made.
    """

    pipeline: Pipeline
    weights: Path | None = None
    dtype: str = "float32"
    batch: int = 4
    parser: str = "auto"
    uploads: Uploads = field(default_factory=Uploads)

    def __post_init__(self) -> None:
        parse("a cat", self.pipeline.sd.tokenizer, self.parser)  # opens the parser now, so that no visitor waits for it

    def read(self, request: ReadRequest) -> tuple[Parsed, str]:
        """The prompt as runs go by it, and why the parser sees no object in it, if so."""
        tokenizer = self.pipeline.sd.tokenizer
        try:
            return parse(request.prompt, tokenizer, self.parser, groups=request.groups), ""
        except PromptError as error:
            if request.groups is not None:
                raise
            return parse(request.prompt, tokenizer, self.parser, groups=()), str(error)

    def fitted(self, upload: str, size: tuple[int, int] | None) -> Image.Image:
        """A picture that was sent, as runs of that size start from it."""
        _, content = self.uploads.find(upload)
        return fitted(decoded(content), pixels(self.pipeline.sd.config, size))[0]

    def prepare(self, request: GenerateRequest) -> PreparedRequest:
        """Parse the prompt; ValueError if a method cannot work with it or would take too long."""
        config, tokenizer = self.pipeline.sd.config, self.pipeline.sd.tokenizer
        pixels(config, request.size)
        chosen = {name: choice.complete(config) for name, choice in request.parsed_methods.items()}
        parsed, problem = self.read(request)
        if not parsed.groups and (request.boxes or any(method.needs.groups for method in chosen.values())):
            raise PromptError(problem or f"no word of {parsed.prompt!r} is an object; click one to make it an object")
        parsed = place(parsed, request.boxes)
        image = None if request.image is None else self.fitted(request.image.id, request.size)
        for name, method in chosen.items():
            if image and "start" in method.places:
                raise second_start(name)
            cost = method.cost(parsed, request.calls)
            passes = cost.predictions + cost.attention + cost.backwards + request.inverts * request.calls
            if passes > MAX_PASSES:
                raise ValueError(f"{name} may take {passes} passes a picture; expected at most {MAX_PASSES}.")
        notes = []
        if lost := align(request.prompt, tokenizer).lost():
            notes.append(f"The text encoder sees only the beginning of this prompt; it does not see: {lost}.")
        vocabulary = self.pipeline.sd.vocabulary
        if vocabulary is not None and (unknown := vocabulary.unknown_words(request.prompt)):
            notes.append(f"The {vocabulary.name} does not know: {', '.join(unknown)}.")
        return PreparedRequest(request, parsed, tuple(notes), image)

    def make(self, job: Job) -> None:
        """The work of a job whose payload is a `PreparedRequest`: its pictures join the results method by method."""
        prepared: PreparedRequest = job.payload
        request, begin = prepared.request, self._begin(job)
        for name, method in request.parsed_methods.items():
            job.begin(name)
            result = self.pipeline(
                request.prompt,
                seeds=request.seed_numbers,
                size=request.size,
                method=method,
                steps=request.steps,
                guidance=request.guidance,
                sampler=request.sampler,
                negative_prompt=request.negative_prompt,
                groups=prepared.parsed.groups,
                parser=self.parser,
                batch_size=self.batch,
                trace=TraceOptions(by_site=True, head="all", words="all"),
                progress=False,
                on_call=job.progress,
                **begin,
            )
            assert result.images is not None
            assert result.trace is not None
            pictures = zip(request.seed_numbers, result.images, result.recipes, strict=True)
            for sample, (seed, image, recipe) in enumerate(pictures):
                png = encoded(image, recipe.loaded_from(self.weights, self.dtype).to_metadata())
                origin = "inverted" if request.inverts else f"seed{seed:04d}"
                file = f"{slug(request.prompt)}-{slug(name)}-{origin}.png"
                job.results.append(picture_of(name, seed, png, file, result.trace, sample))

    def _begin(self, job: Job) -> dict[str, Any]:
        """Where the runs of a job start, as arguments of the pipeline."""
        prepared: PreparedRequest = job.payload
        request, image = prepared.request, prepared.image
        if image is None or request.image is None:
            return {}
        if not request.inverts:
            return {"image": image, "strength": request.image.strength}
        job.begin("inversion")
        size = image.height, image.width
        invert = self.pipeline.invert
        return {
            "image": invert(image, request.prompt, steps=request.steps, size=size, progress=False, on_call=job.progress)
        }
