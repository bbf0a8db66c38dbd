"""Attention Regulation: cross-attention scores of 16x16 are edited so that every object has its share of attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from ..guidance import Conditioning, Controls, Method, Needs, Task, guidance_resolution
from ..guidance.options import number, option, whole
from ..maps import WordPositions
from ..models import AttentionCall, Control, Site

RATE = 100.0  # of the gradient steps
TARGET_QUANTILE = 0.9


class Targets(NamedTuple):
    """The objects' tokens of n samples, padded: positions [n, target] and weights [n, target], 1/T for each of the T
    tokens of a sample and 0 where padded."""

    positions: Tensor
    weights: Tensor


@dataclass(frozen=True)
class AttentionRegulation(Method):
    """Adds Gaussian bumps to the scores R of the objects' tokens T, E(w)_k = sum_c w_ck G_c, that minimise, at
    each site and for each head,

        mean_T (q.9(P_k) - peak)^2 + share_weight mean_T (mean(P_k) - theta/T)^2 + size_weight mean w^2,

    where P = softmax(R + E(w)), q.9 is its 0.9 quantile over the pixels, and theta = min(1, share T). `iterations`
    gradient steps start from w ~ U(0, 1); the best of the w that a sample saw counts. In model call n the scores become
    R + decay^n ((1 - carry) D + carry O), D being the best E of this call and O that of the call before (in the first
    one, that of the initial w). The start and end tokens keep the probabilities that they had. No gradient goes through
    the network, and the negative prompt's rows are left alone.

    Departures from the authors' code: it takes the best w over all images of a batch, here each sample has its own; it
    rounds the edited scores to half precision, here they are not; sites are the layers that have 16x16 pixels at the
    model's own size, and all tokens of all objects are targets. w is drawn from `seed`, the model call and the site, so
    that a recipe says all.

    Attributes:
        edited_calls: model calls in which scores are edited, from the first one on.
        iterations: gradient steps at each site and call.
        carry: share of the call before's field.
        decay: how the field fades from call to call.
        share: of a pixel's attention that each of up to five targets should have on average.
        peak: what the 0.9 quantile of a target's map should be.
        share_weight, size_weight: of the second and third term.
        seed: of the first w.
    """

    name: ClassVar[str] = "attention-regulation"
    changes: ClassVar[str] = "cross-attention: gives each object its share"
    reference: ClassVar[str] = "Zhang et al. 2024 (Attention Regulation)"
    needs: ClassVar[Needs] = Needs(groups=True, sites="cross 16x16")

    edited_calls: int = option(25, whole())
    iterations: int = option(20, whole(least=1))
    carry: float = option(0.25, number(lambda x: 0 <= x <= 1, "a share from 0 to 1"))
    decay: float = option(0.99, number(lambda x: 0 <= x <= 1, "a factor from 0 to 1"))
    share: float = option(0.2, number(lambda x: 0 <= x <= 1, "a share from 0 to 1"))
    peak: float = option(0.9, number(lambda x: 0 <= x <= 1, "a probability from 0 to 1"))
    share_weight: float = option(80.0, number())
    size_weight: float = option(0.09, number())
    seed: int = option(0, whole())

    def control(self, task: Task, conditioning: Conditioning) -> Controls | None:
        """A control for each call, all with one memory of the fields; none if no prompt has an object.

        Raises ValueError if the prompts' rows have other encodings than the whole prompts'.
        """
        samples = [sample for sample, groups in enumerate(task.groups) if groups]
        if not samples:
            return None
        rows, context = conditioning.rows_of_whole_prompts(task.context, samples, self.name), task.context[samples]
        words = [[(token,) for group in task.groups[sample] for token in group.object] for sample in samples]
        positions = WordPositions.of(words)
        exist = positions.exist(context.float())
        targets = Targets(positions.positions[..., 0].to(rows), exist / exist.sum(dim=1, keepdim=True))
        beside = torch.zeros(context.shape[:2], dtype=torch.bool, device="cpu")
        for row, sample in zip(beside, samples, strict=True):
            row[max(min(task.tokens[sample]) - 1, 0)] = True
            row[max(task.tokens[sample]) + 1 :][:1] = True
            row[list(task.tokens[sample])] = False
        names, beside = self._sites(task), beside.to(rows.device)
        fields: dict[tuple[str, int], Tensor] = {}

        def control(i: int) -> Control | None:
            return RegulatedScores(self, i, names, rows, targets, beside, fields) if i < self.edited_calls else None

        return control

    def _sites(self, task: Task) -> frozenset[str]:
        """Those of 16x16 at the model's own size, which at other sizes have other resolutions."""
        if task.sites is not None:
            return frozenset(task.sites)
        size = (task.inputs.sample_size,) * 2
        resolution = guidance_resolution(task, size)
        sites = task.network.sites(size)
        return frozenset(site.name for site in sites if (site.kind, site.resolution) == ("cross", resolution))

    def field(self, scores: Tensor, targets: Targets, bumps: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The best E(w), [n, head, target, pixel], from w = `draws` [n, head, target, bump] on; and that of `draws`.

        `scores` [n, head, pixel, key] are float32 or wider, `bumps` [bump, pixel].
        """
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(scores.device.type, enabled=False):
            scores, draws, bumps = scores.detach().clone(), draws.detach().clone(), bumps.clone()
            maps = scores.mT  # of each key
            index = targets.positions[:, None, :, None].expand(-1, maps.shape[1], -1, maps.shape[3])
            columns = maps.gather(2, index).masked_fill((targets.weights == 0)[:, None, :, None], -torch.inf)
            rest = maps.scatter(2, index, -torch.inf).logsumexp(dim=2, keepdim=True)
            w = draws
            least = best = None
            for _ in range(self.iterations):
                w = w.detach().requires_grad_()
                of_heads = self.loss(torch.cat([columns + w @ bumps, rest], dim=2), targets, w)
                (gradient,) = torch.autograd.grad(of_heads.sum(), w)
                loss = of_heads.detach().mean(dim=1)
                better = torch.ones_like(loss, dtype=torch.bool) if least is None else loss < least
                least = loss if least is None else torch.where(better, loss, least)
                best = w if best is None else torch.where(better[:, None, None, None], w, best)
                w = w - RATE * gradient
            assert best is not None
            return best.detach() @ bumps, draws @ bumps

    def loss(self, columns: Tensor, targets: Targets, w: Tensor) -> Tensor:
        """What a sample's heads minimise, [n, head], from maps of scores [n, head, target + 1, pixel]: the last
        holds the logarithm of the sum over all other keys."""
        probabilities, weights = columns.softmax(dim=2)[:, :, :-1], targets.weights[:, None].to(columns)
        counts = (weights > 0).to(weights).sum(dim=-1, keepdim=True)
        share = (self.share * counts).clamp(max=1) / counts
        peaks = torch.quantile(probabilities, TARGET_QUANTILE, dim=-1)
        terms = (peaks - self.peak) ** 2 + self.share_weight * (probabilities.mean(dim=-1) - share) ** 2
        sizes = (w**2).mean(dim=-1) if w.shape[-1] else torch.zeros_like(terms)
        return ((terms + self.size_weight * sizes) * weights).sum(dim=-1)


class RegulatedScores(Control):
    """Edits the scores of some rows of one model call; `fields` remembers the fields of this call and the one before,
    by site and call, `beside` [n, key] says which keys keep their probabilities."""

    def __init__(
        self,
        method: AttentionRegulation,
        i: int,
        names: frozenset[str],
        rows: Tensor,
        targets: Targets,
        beside: Tensor,
        fields: dict[tuple[str, int], Tensor],
    ) -> None:
        self._method, self._i, self._names, self._fields = method, i, names, fields
        self._rows, self._targets, self._beside = rows, targets, beside[:, None, None]
        self._unedited: dict[str, Tensor] = {}

    def edits_maps(self, site: Site) -> bool:
        """At the sites of 16x16."""
        return site.name in self._names

    def scores(self, call: AttentionCall, scores: Tensor) -> Tensor:
        """Those of the targets, with the field added."""
        name, rows = call.site.name, scores[self._rows]
        exact = rows.float() if rows.itemsize < 4 else rows
        self._unedited[name] = exact.softmax(dim=-1)
        bumps = gaussian_bumps(call.site.resolution).to(exact)
        best, first = self._method.field(exact, self._targets, bumps, self._draw(name, rows.shape[1], bumps))
        self._fields[name, self._i] = best
        self._fields.pop((name, self._i - 2), None)
        before = self._fields.get((name, self._i - 1), first)
        field = self._method.decay**self._i * torch.lerp(best, before, self._method.carry).mT
        field = field * (self._targets.weights > 0)[:, None, None]
        index = self._targets.positions[:, None, None].expand_as(field)
        return scores.index_add(0, self._rows, torch.zeros_like(exact).scatter_add(-1, index, field).to(scores))

    def probabilities(self, call: AttentionCall, probabilities: Tensor) -> Tensor:
        """The start and end tokens' as they were."""
        unedited = self._unedited.pop(call.site.name).to(probabilities)
        return probabilities.index_copy(0, self._rows, torch.where(self._beside, unedited, probabilities[self._rows]))

    def _draw(self, name: str, heads: int, bumps: Tensor) -> Tensor:
        """w ~ U(0, 1) of this call and site, alike for all samples: [n, head, target, bump]."""
        generator = torch.Generator().manual_seed(crc32(f"{self._method.seed} {self._i} {name}".encode()))
        most = self._targets.positions.shape[1]
        starts = [
            torch.rand(heads, len(bumps), generator=generator, dtype=torch.float32, device="cpu") for _ in range(most)
        ]  # the k-th target's, always
        return torch.stack(starts, dim=1)[None].to(bumps).expand(len(self._rows), -1, -1, -1)


def gaussian_bumps(resolution: tuple[int, int]) -> Tensor:
    """exp(-d^2 / (2 sigma^2)) around centres 2 sigma, 4 sigma, ... along both sides, [bump, pixel], rows of a column
    after each other; sigma is a sixteenth of the shorter side, in whole pixels."""
    h, w = resolution
    sigma = max(min(h, w) // 16, 1)
    y, x = (torch.arange(side, dtype=torch.float32, device="cpu") for side in (h, w))
    down, across = (
        torch.exp(
            -((axis - torch.arange(2 * sigma, len(axis), 2 * sigma, device="cpu")[:, None]) ** 2) / (2 * sigma**2)
        )
        for axis in (y, x)
    )
    return (across[:, None, None, :] * down[None, :, :, None]).flatten(0, 1).flatten(1)
