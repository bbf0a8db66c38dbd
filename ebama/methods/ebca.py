"""Energy-Based Cross Attention: the text context moves from site to site inside one call of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ..checks import expect, is_number
from ..guidance import Conditioning, Controls, Method, Needs, Task
from ..guidance.options import number, option, pairs
from ..models import AttentionCall, Control, attention_scores
from ..prompt.alignment import LONGEST


def _weight_of_a_position(name: str, pair: tuple[int, float]) -> tuple[int, float]:
    position, weight = pair
    if type(position) is not int or not 0 <= position <= LONGEST or not is_number(weight):
        raise ValueError(
            f"{name} has {weight!r} for position {position!r}; expected finite numbers for positions from 0 to "
            f"{LONGEST} at most, as {{5: 2.0}}."
        )
    return pair


@dataclass(frozen=True)
class EnergyBasedCrossAttention(Method):
    """After each cross-attention site, c <- c + (gamma_attention w_n U_n - gamma_norm rho_n K_n) W_K.

    K = c W_K^T and Q are the site's keys and queries, U_n the mean of the queries under the softmax over *pixels* of
    token n's scores, head by head, rho the softmax over tokens of |K_n|^2, all heads together. The next site sees the
    new context; every call starts again from the encoding. All rows move, the negative prompt's too. The authors' code
    leaves both gammas at 0, which is plain Stable Diffusion; its README recommends values from 0.01 to 0.02.

    Attributes:
        gamma_attention: step along U_n, which draws tokens to what the pixels ask for; the README's example has 0.01.
        gamma_norm: step against large keys; the README's example has 0.02.
        tau: share of the sampler's steps in which the context moves: model calls i < int(steps * tau). The authors' 1
            leaves PNDM's last call alone, since that makes one call more than it has steps.
        upweight: {position: w_n}, n being a position of the model's context (CLIP's are 0 to 76, with the start token
            at 0); 1 for tokens left out. It is for the prompt's rows and the gamma_attention term only, and counts in
            every prompt of a call.
    """

    name: ClassVar[str] = "ebca"
    changes: ClassVar[str] = "moves the text context from site to site"
    reference: ClassVar[str] = "Park et al. 2023 (Energy-Based Cross Attention)"
    needs: ClassVar[Needs] = Needs(sites="every cross")

    gamma_attention: float = option(0.01, number())
    gamma_norm: float = option(0.02, number())
    tau: float = option(1.0, number(lambda x: 0 <= x <= 1, "a share of the steps from 0 to 1"))
    upweight: Mapping[int, float] | tuple[tuple[int, float], ...] = option(
        (), pairs("{5: 2.0} or, as text, [[5, 2.0]]", _weight_of_a_position)
    )

    def control(self, task: Task, conditioning: Conditioning) -> Controls | None:
        """The same control in every call until tau; none if nothing would move."""
        if self.gamma_attention == self.gamma_norm == 0:
            return None
        weights = torch.ones(conditioning.contexts.shape[:2], dtype=torch.float32, device=conditioning.contexts.device)
        last = weights.shape[1] - 1
        for position, weight in dict(self.upweight).items():
            expect("a position of upweight", position, position <= last, f"0 to {last}, the positions of this model")
            weights[conditioning.prompt_rows, position] = weight
        moving = MovingContext(self.gamma_attention * weights, self.gamma_norm)
        moved_calls = int(task.steps * self.tau)
        return lambda i: moving if i < moved_calls else None


class MovingContext(Control):
    """Adds to the context what one site has to say to the next.

    `attraction` is gamma_attention w_n of each row of the batch, [R, 77]. The sums are float32 or wider.
    """

    def __init__(self, attraction: Tensor, gamma_norm: float) -> None:
        self._attraction, self._gamma_norm = attraction[..., None], gamma_norm

    def next_context(self, call: AttentionCall) -> Tensor:
        """c + (attraction U - gamma_norm rho K) W_K."""
        if call.site.kind == "self":
            return call.context
        weight = getattr(call.layer.to_k, "weight", None)
        if weight is None:
            raise ValueError(
                f"ebca needs keys that are linear in the context; {call.site.name} has a norm behind them."
            )
        query, key, weight = (x.float() if x.itemsize < 4 else x for x in (call.query, call.key, weight))
        over_pixels = attention_scores(query, key).softmax(dim=-2)
        asked = rearrange(over_pixels.transpose(-1, -2) @ query, "b h n d -> b n (h d)")
        keys = rearrange(key, "b h n d -> b n (h d)")
        share = keys.square().sum(dim=-1, keepdim=True).softmax(dim=1)
        step = self._attraction * asked - self._gamma_norm * share * keys
        return call.context + (step @ weight).to(call.context.dtype)
