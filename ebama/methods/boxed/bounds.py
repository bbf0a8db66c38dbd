"""Bounds on attention: which keys each pixel may look at, given where the subjects are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...maps import GroupLike
from ...models import AttentionCall, Control, Site
from .clusters import first_clusters, k_means, looks, sharpened, subject_masks
from .placed import box_masks


@dataclass(frozen=True)
class Subjects:
    """What of a sample's prompt is bound.

    Attributes:
        groups: those that have a box.
        closed: positions that no pixel may look at: of words that name nothing.
        end: position of the end token; None if there is none.
    """

    groups: Sequence[GroupLike]
    closed: Sequence[int]
    end: int | None

    @property
    def words(self) -> list[list[int]]:
        """Positions of each subject's object and modifiers."""
        return [[*group.object, *(token for word in group.modifiers for token in word)] for group in self.groups]

    @property
    def leading(self) -> list[int]:
        """The last position of each subject's object."""
        return [group.object[-1] for group in self.groups]


@dataclass(eq=False)
class Region:
    """Where the subjects of a sample are: in their boxes, until masks come from the attention seen so far.

    Attributes:
        masks: [subject, h, w] booleans; None for the boxes.
        size: of the maps seen.
        centres: of the clusters; None before the first.
        sums: of the self-attention [n, n] and of the leading tokens' maps [subject, n] seen; counts: how many.
    """

    subjects: Subjects
    masks: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    centres: Tensor | None = None
    sums: dict[str, Any] = field(default_factory=lambda: {"self": 0, "cross": 0})
    counts: dict[str, int] = field(default_factory=lambda: {"self": 0, "cross": 0})

    def at(self, height: int, width: int) -> Tensor:
        """The subjects' masks [subject, h, w], booleans on the CPU."""
        if self.masks is None:
            return box_masks([self.subjects.groups], height, width)[0].bool()
        return F.interpolate(self.masks[None].float(), (height, width), mode="nearest-exact")[0].bool()

    def add(self, site: Site, probabilities: Tensor) -> None:
        """Take in the mean over heads of a site's probabilities [query, key]."""
        seen, self.size = probabilities.float().cpu(), site.resolution
        self.sums[site.kind] += seen if site.kind == "self" else seen[:, self.subjects.leading].T
        self.counts[site.kind] += 1

    def refine(self, clusters: int, seed: int) -> None:
        """Masks from the clusters of self-attention that the subjects' maps lie in; none before any was seen."""
        if not all(self.counts.values()):
            return
        features = looks(self.sums["self"] / self.counts["self"])
        clusters = min(clusters * len(self.subjects.groups), len(features))
        if self.centres is None:
            labels, self.centres = first_clusters(features, clusters, seed)
        else:
            labels, self.centres = k_means(features, self.centres)
        boxes = box_masks([self.subjects.groups], *self.size)[0].flatten(1)
        maps = sharpened(self.sums["cross"] / self.counts["cross"], self.at(*self.size).flatten(1))
        self.masks = subject_masks(labels, clusters, maps, boxes).unflatten(1, self.size)


def hidden_words(subjects: Subjects, masks: Tensor, keys: int, guided: bool) -> Tensor:
    """Keys that pixels may not look at in cross-attention, [pixel, key] booleans, from masks [subject, h, w].

    The subjects' words are open to the subject's own pixels, in a guided pass to the background's too; outside of one
    the background may not look at the end token.
    """
    flat = masks.flatten(1)
    hidden, background = torch.zeros(flat.shape[1], keys, dtype=torch.bool, device="cpu"), ~flat.any(dim=0)
    hidden[:, list(subjects.closed)] = True
    hidden[:, [token for word in subjects.words for token in word]] = True
    for inside, word in zip(flat, subjects.words, strict=True):
        hidden[:, word] &= ~(inside | background if guided else inside)[:, None]
    if subjects.end is not None and not guided:
        hidden[background, subjects.end] = True
    return hidden


def hidden_pixels(masks: Tensor) -> Tensor:
    """Pixels that pixels may not look at in self-attention, [pixel, pixel] booleans, from masks [subject, h, w]: those
    of other subjects. The background sees all and is seen by all."""
    flat = masks.flatten(1)
    inside = flat.any(dim=0)
    return inside[:, None] & inside & ((flat.float().T @ flat.float()) == 0)


class Bounds(Control):
    """Hides keys in one model call, and takes in the maps of some sites.

    Args:
        regions: of the samples that are bound.
        prompt_rows: the row of each sample's prompt; only there are words hidden.
        rows: all rows of these samples, of which row rows[k] belongs to sample of_sample[k].
        watched: names of the sites whose maps the regions take in.
        guided: whether this is a guided pass, in which regions are the boxes.
    """

    def __init__(
        self,
        regions: Sequence[Region],
        prompt_rows: Tensor,
        rows: Tensor,
        of_sample: Sequence[int],
        watched: frozenset[str],
        *,
        guided: bool,
    ) -> None:
        self._regions, self._prompt_rows, self._rows, self._of_sample = regions, prompt_rows, rows, of_sample
        self._watched, self._guided = watched, guided
        self._hidden: dict[tuple[str, tuple[int, int], int], Tensor] = {}

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        """-inf at hidden keys."""
        rows = self._prompt_rows if call.site.kind == "cross" else self._rows
        hidden = self._hide(call.site, scores.shape[-1], scores.device)
        return scores.index_copy(0, rows, scores[rows].masked_fill(hidden[:, None], -torch.inf))

    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        """Unchanged; the regions take in those of the sites that are watched."""
        if call.site.name in self._watched:
            means = probabilities.detach()[self._prompt_rows].mean(dim=1)
            for region, mean in zip(self._regions, means, strict=True):
                region.add(call.site, mean)
        return probabilities

    def _hide(self, site: Site, keys: int, device: torch.device) -> Tensor:
        """[row, query, key]; alike for all sites of a kind and a resolution."""
        key = (site.kind, site.resolution, keys)
        if key not in self._hidden:
            masks = [region.at(*site.resolution) for region in self._regions]
            if site.kind == "self":
                of_samples = [hidden_pixels(subjects) for subjects in masks]
                rows = [of_samples[sample] for sample in self._of_sample]
            else:
                pairs = zip(self._regions, masks, strict=True)
                rows = [hidden_words(region.subjects, mask, keys, self._guided) for region, mask in pairs]
            self._hidden[key] = torch.stack(rows).to(device)
        return self._hidden[key]
