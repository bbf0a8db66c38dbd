"""Keys that a mask or a control hides from attention maps: no energy of their words is a number."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


def checked_losses(losses: Tensor, *maps: Tensor) -> Tensor:
    """Losses [B] of maps [B, h, w, key], as they are; ValueError for one that is NaN since keys are hidden."""
    wrong = losses.detach().isnan()
    if _known(wrong.any()):
        for sample in wrong.nonzero().flatten().tolist():
            refuse_hidden(sample, (values.detach()[sample] for values in maps))
    return losses


def refuse_hidden(sample: int, maps: Iterable[Tensor]) -> None:
    """Raise ValueError, which names them, if keys are hidden from maps [..., key] of a sample whose energy is NaN: -inf
    among scores, 0 everywhere or NaN among probabilities."""
    keys: set[int] = set()
    for values in maps:
        flat = values.flatten(0, -2)
        if flat.isnan().all():
            return  # a latent that became too large, as after a step that was
        hidden = ~flat.isfinite().all(dim=0) | flat.eq(0).all(dim=0)
        keys |= set(hidden.nonzero().flatten().tolist())
    if keys:
        raise ValueError(
            f"The energy of sample {sample} is NaN, and a mask or a control hides keys {sorted(keys)} from its maps "
            "(their scores are -inf); leave hidden positions out of groups and tokens."
        )


def _known(condition: Tensor) -> bool:
    """Whether a condition holds; no, where a transform (vmap) leaves it open."""
    try:
        return bool(condition)
    except RuntimeError:
        return False
