"""What attention did during a run, kept for looking at."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ebama.models import AttentionRecord, AttentionRecords, Site
from ebama.weights.files.tensors import write_tensors

from ..guidance.gradient import guidance_resolution
from ..guidance.method import Conditioning, Task
from ..output.files import replacing
from ..prompt.parsing import Group, Parsed
from ..prompt.words import Word, find, words

Quantity = Literal["scores", "probabilities"]
"""Maps before and after softmax."""

KEY = "ebama"


@dataclass(frozen=True)
class TraceOptions:
    """What a trace keeps of every model call. The defaults keep the mean maps that guidance sees, 77 KiB each call of a
    sample of Stable Diffusion v1.

    Attributes:
        scores: keep the maps before softmax.
        probabilities: keep those after it.
        kind: of the attention layers, "cross" (keys are the text's positions) or "self" (keys are pixels).
        resolution: of their maps, one side or (height, width); None for the one that guides, 16x16 at the model's
            own size.
        sites: names of layers as `unet.sites` lists them, all of one kind and resolution, instead of those of `kind`
            and `resolution`.
        head: one head of every layer; None for the mean over the heads.
        latents: also keep the clean latent that each call predicts; `Pipeline.decode` makes a picture of it.
    """

    scores: bool = True
    probabilities: bool = True
    kind: Literal["cross", "self"] = "cross"
    resolution: int | tuple[int, int] | None = None
    sites: tuple[str, ...] = ()
    head: int | None = None
    latents: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("cross", "self"):
            raise ValueError(f"kind is {self.kind!r}; expected 'cross' or 'self'.")
        sides = self.resolution if isinstance(self.resolution, tuple) else (self.resolution, self.resolution)
        if self.resolution is not None and not (len(sides) == 2 and all(type(n) is int and n > 0 for n in sides)):
            raise ValueError(
                f"resolution is {self.resolution!r}; expected a side in pixels, as 16, or (height, width)."
            )
        if isinstance(self.sites, str) or not all(isinstance(name, str) for name in self.sites):
            raise ValueError(f"sites are {self.sites!r}; expected names of layers, as `unet.sites` lists them.")
        object.__setattr__(self, "sites", tuple(self.sites))
        if self.head is not None and (type(self.head) is not int or self.head < 0):
            raise ValueError(f"head is {self.head!r}; expected a whole number of at least 0, or None for the mean.")

    def choose(self, task: Task, latent_shape: Sequence[int]) -> list[Site]:
        """The layers of a network whose maps are kept, for latents [..., h, w].

        Raises ValueError, which lists the layers there are, if none fits, if they differ in kind or resolution, or if
        one has no such head.
        """
        available = task.unet.sites(latent_shape)
        if self.sites:
            chosen = [site for site in available if site.name in self.sites]
            problem = f"There is no attention site {', '.join(sorted({*self.sites} - {s.name for s in chosen}))}"
            fits = len(chosen) == len(set(self.sites))
        else:
            size = (self.resolution, self.resolution) if isinstance(self.resolution, int) else self.resolution
            size = size or guidance_resolution(task, latent_shape)
            chosen = [site for site in available if site.kind == self.kind and site.resolution == size]
            problem, fits = f"No {self.kind}-attention site has maps of {size[0]}x{size[1]}", bool(chosen)
        if fits and len({(site.kind, site.resolution) for site in chosen}) > 1:
            problem, fits = "The chosen sites differ in kind or resolution, so their maps have no mean", False
        if fits and self.head is not None and self.head >= min(site.heads for site in chosen):
            problem, fits = f"Not every chosen site has a head {self.head} (heads count from 0)", False
        if not fits:
            raise ValueError(f"{problem}; there are: {'; '.join(str(site) for site in available)}.")
        return chosen


@dataclass(frozen=True, eq=False)
class Trace:
    """Mean attention maps of the prompt's branch at each model call, taken from the noise prediction itself.

    All are of the scores that softmax sees; what a control makes of the probabilities after it is not in them.

    Attributes:
        kept: the tensors by name, each [N, calls, ...] on the CPU; the properties below say what they are.
        timesteps: of the calls.
        prompts: of the samples, as they were read.
        sites: the layers over which the maps are averaged.
        head: the head that they are of; None for the mean over the heads.
    """

    kept: Mapping[str, Tensor]
    timesteps: tuple[int, ...]
    prompts: tuple[Parsed, ...]
    sites: tuple[Site, ...]
    head: int | None = None

    @property
    def scores(self) -> Tensor:
        """Maps before softmax, [N, calls, h, w, key], float16."""
        return self._get("scores")

    @property
    def probabilities(self) -> Tensor:
        """Maps after softmax, [N, calls, h, w, key], float16."""
        return self._get("probabilities")

    @property
    def latents(self) -> Tensor:
        """The clean latent that each call predicts, [N, calls, 4, h, w], float16."""
        return self._get("latents")

    @property
    def energy(self) -> Tensor:
        """Of attention in the sense of Park et al. 2023, [N, calls], float32: minus the logarithm of the sum over the
        keys of exp(scores), averaged over sites, heads and pixels."""
        return self._get("energy")

    @property
    def losses(self) -> Tensor:
        """The method's energy before its step, [N, calls], float32; NaN where a sample was not guided."""
        return self._get("losses")

    @property
    def gradient_norms(self) -> Tensor:
        """Euclidean norm of the gradient of that loss over the latent, [N, calls], float32; NaN as for `losses`."""
        return self._get("gradient_norms")

    def words(self, sample: int = 0) -> tuple[Word, ...]:
        """The words of a sample's prompt with their positions along the key axis."""
        return words(self.prompts[sample])

    def maps(
        self,
        word: str | int | Sequence[int],
        *,
        sample: int = 0,
        of: Quantity = "probabilities",
        occurrence: int = 0,
    ) -> Tensor:
        """The maps of a word at every call, [calls, h, w] float32: the mean over its pieces.

        Args:
            word: a word or words of the prompt, as `ebama.prompt.words.find` finds them; or a position, or several.
            sample: which of the N.
            of: "scores" or "probabilities".
            occurrence: which of a word that recurs, 0 the first.

        Raises:
            ValueError: a word that is not in the prompt (the message lists those that are), a quantity that was not
                kept, or maps of self-attention, whose keys are no words.
        """
        if of not in ("scores", "probabilities"):
            raise ValueError(f"of is {of!r}; expected 'scores' or 'probabilities'.")
        if isinstance(word, str):
            if self.sites[0].kind == "self":
                raise ValueError(
                    "This trace is of self-attention, whose keys are pixels: give a pixel's number, row by row, for "
                    "the map of all that look at it."
                )
            word = find(self.prompts[sample], word, occurrence)
        positions = [word] if isinstance(word, int) else list(word)
        maps = self._get(of)[sample]
        if not positions or not all(0 <= position < maps.shape[-1] for position in positions):
            raise ValueError(f"Positions {positions} do not all lie on the key axis of length {maps.shape[-1]}.")
        return maps[..., positions].float().mean(dim=-1)

    def map(
        self,
        word: str | int | Sequence[int],
        *,
        sample: int = 0,
        call: int = -1,
        of: Quantity = "probabilities",
        occurrence: int = 0,
    ) -> Tensor:
        """The map of a word at one call, [h, w] float32; the arguments are those of `maps`."""
        return self.maps(word, sample=sample, of=of, occurrence=occurrence)[call]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all."""
        facts = {
            "timesteps": self.timesteps,
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "sites": [asdict(site) for site in self.sites],
            "head": self.head,
        }
        with replacing(Path(path)) as partial:
            write_tensors(partial, self.kept, {KEY: json.dumps(facts)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Trace:
        """What `save` wrote; ValueError if the file is something else."""
        Path(path).open("rb").close()  # a file that is not there is an OSError, and says so
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()[KEY])
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(
                kept,
                tuple(facts["timesteps"]),
                tuple(_parsed(prompt) for prompt in facts["prompts"]),
                tuple(Site(**{**site, "resolution": tuple(site["resolution"])}) for site in facts["sites"]),
                facts["head"],
            )
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no trace; expected a file that `Trace.save` wrote.") from error

    @staticmethod
    def joined(parts: Sequence[Trace], order: Sequence[int]) -> Trace:
        """The traces of several batches as one, whose sample k is the `order[k]`th of theirs."""
        first = parts[0]
        kept = {name: torch.cat([part.kept[name] for part in parts])[list(order)] for name in first.kept}
        prompts = [prompt for part in parts for prompt in part.prompts]
        return Trace(kept, first.timesteps, tuple(prompts[k] for k in order), first.sites, first.head)

    def _get(self, name: str) -> Tensor:
        if name not in self.kept:
            raise ValueError(f"This trace kept no {name}; ask for them with trace=TraceOptions({name}=True).")
        return self.kept[name]


class TraceRecorder:
    """Collects one batch's maps call by call."""

    def __init__(
        self, task: Task, conditioning: Conditioning, latent_shape: Sequence[int], options: TraceOptions
    ) -> None:
        self.sites = options.choose(task, latent_shape)
        self._prompts, self._rows, self._options = tuple(task.prompts), conditioning.prompt_rows, options
        self._calls: list[dict[str, Tensor]] = []
        self._timesteps: list[int] = []

    def add(self, t: int, records: AttentionRecords, clean: Tensor) -> None:
        """Keep what is wanted of one call: records whose batch are the conditioning's rows, and the clean latents
        [B, 4, h, w] that it predicts."""
        options = self._options
        heads = slice(None) if options.head is None else slice(options.head, options.head + 1)
        own = AttentionRecords([AttentionRecord(r.site, r.scores[self._rows][:, heads]) for r in records])
        energy = -torch.cat([record.scores.float().logsumexp(dim=-1) for record in own], dim=1).mean(dim=(1, 2))
        kept = {"energy": energy.cpu()}
        if options.scores:
            kept["scores"] = own.mean_scores().half().cpu()
        if options.probabilities:
            kept["probabilities"] = own.mean_probabilities().half().cpu()
        if options.latents:
            kept["latents"] = clean.half().cpu()
        self._calls.append(kept)
        self._timesteps.append(t)

    def trace(self, losses: Tensor, gradient_norms: Tensor) -> Trace:
        """Everything kept so far, with what guidance measured: [B, calls] each."""
        kept = {name: torch.stack([call[name] for call in self._calls], dim=1) for name in self._calls[0]}
        kept |= {"losses": losses, "gradient_norms": gradient_norms}
        return Trace(kept, tuple(self._timesteps), self._prompts, tuple(self.sites), self._options.head)


def _parsed(values: dict[str, Any]) -> Parsed:
    """A prompt from JSON, whose tuples are lists."""

    def group(values: dict[str, Any]) -> Group:
        return Group(tuple(values["object"]), tuple(tuple(word) for word in values["modifiers"]))

    return Parsed(
        groups=tuple(group(each) for each in values["groups"]),
        tokens=tuple(values["tokens"]),
        phrases=tuple((first, end, text) for first, end, text in values["phrases"]),
        parser_name=values["parser_name"],
        prompt=values["prompt"],
        spans=tuple((start, end) for start, end in values["spans"]),
    )
