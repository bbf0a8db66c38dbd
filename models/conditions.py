"""What a U-Net is told beside the latent and the tokens: numbers as sinusoids, and a vector that joins the timestep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoids(values: Tensor, width: int) -> Tensor:
    """Embed numbers [...] as float32 sinusoids [..., width], cosines first; `width` is even."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000.0) / half * torch.arange(half, dtype=torch.float32, device=values.device))
    angles = values.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Embedding(nn.Module):
    """Linear layer, SiLU, linear layer: [B, in_width] -> [B, out_width]."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_width, out_width)
        self.linear_2 = nn.Linear(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        """Computed in the weights' dtype."""
        return self.linear_2(F.silu(self.linear_1(x.to(self.linear_1.weight.dtype))))  # type: ignore[no-any-return]


class TimeEmbedding(Embedding):
    """Sinusoids of the timestep, then an `Embedding`: [B] -> [B, 4 * width]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 4 * width)
        self.width = width

    def forward(self, t: Tensor) -> Tensor:
        """Embed timesteps [B]."""
        return super().forward(sinusoids(t, self.width))


class Context(Tensor):
    """Text contexts [B, key, D], each with a vector [B, V] that joins the embedding of the timestep.

    It is used like the tensor of contexts that it is: taking, joining, parting, repeating, copying and moving samples
    does the same to their vectors. Whatever else is computed from it is a plain tensor without them.

        context = Context.of(tokens, vector)
        unet(z, t, context[[1, 0]])

    Attributes:
        tokens: the contexts alone, as a plain tensor.
        vector: the vectors.
    """

    tokens: Tensor
    vector: Tensor

    @classmethod
    def of(cls, tokens: Tensor, vector: Tensor) -> Context:
        """Contexts [B, key, D] with vectors [B, V]; ValueError for other shapes."""
        if tokens.ndim != 3 or vector.ndim != 2 or len(tokens) != len(vector):
            raise ValueError(
                f"Context got tokens of shape {list(tokens.shape)} and vectors of shape {list(vector.shape)}; expected "
                "[B, key, D] and [B, V]: a vector for each sample."
            )
        context = tokens.as_subclass(cls)
        context.tokens, context.vector = tokens, vector
        return context

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute on the plain tensors, then do to the vectors what was done to whole samples."""
        kwargs = kwargs or {}
        result = function(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})
        of_vectors = _ROWWISE.get(function)
        vector = of_vectors(function, *args, **kwargs) if of_vectors else None
        if isinstance(vector, Tensor):
            return cls.of(result, vector) if result.ndim == 3 else result
        return result if vector is None else tuple(map(cls.of, result, vector))


def with_tokens(context: Tensor, tokens: Tensor) -> Tensor:
    """Other tokens [B, key, D] with the vectors of these contexts, if they have any."""
    return Context.of(tokens, context.vector) if isinstance(context, Context) else tokens


def _plain(value: Any) -> Any:
    if isinstance(value, Context):
        return value.tokens
    return type(value)(map(_plain, value)) if type(value) in (list, tuple) else value


def _taken(function: Any, context: Any, index: Any) -> Tensor | None:
    rows = index[0] if isinstance(index, tuple) else index
    whole = isinstance(rows, slice | list) or (isinstance(rows, Tensor) and rows.ndim == 1)
    return context.vector[rows] if whole and isinstance(context, Context) else None


def _joined(function: Any, tensors: Any, dim: int = 0) -> Tensor | None:
    whole = dim in (0, -3) and all(isinstance(part, Context) for part in tensors)
    return torch.cat([part.vector for part in tensors]) if whole else None


def _repeated(function: Any, context: Any, *sizes: Any) -> Tensor | None:
    samples, *others = sizes[0] if isinstance(sizes[0], Sequence) else sizes
    if function is Tensor.repeat:
        return context.vector.repeat(samples, 1) if others == [1, 1] else None
    same = len(others) == 2 and all(size in (-1, now) for size, now in zip(others, context.shape[1:], strict=True))
    return context.vector.expand(samples, -1) if same else None


def _along(function: Any, context: Any, parts: Any, dim: int = 0) -> Any:
    return function(context.vector, parts, dim=0) if dim in (0, -3) and isinstance(context, Context) else None


def _same(function: Any, context: Any, *args: Any, **kwargs: Any) -> Tensor | None:
    return function(context.vector, *map(_plain, args), **kwargs) if isinstance(context, Context) else None


_ROWWISE: dict[Any, Callable[..., Any]] = {
    Tensor.__getitem__: _taken,
    torch.cat: _joined,
    **dict.fromkeys((Tensor.expand, Tensor.repeat), _repeated),
    **dict.fromkeys((Tensor.chunk, torch.chunk, Tensor.split, torch.split), _along),
    **dict.fromkeys((Tensor.repeat_interleave, torch.repeat_interleave), _along),
    **dict.fromkeys((Tensor.clone, Tensor.detach, Tensor.to, Tensor.float, Tensor.half, Tensor.contiguous), _same),
}
"""What acts on whole samples: (function, its arguments) -> the vectors of its result, or of each of its results; None
where it does not."""
