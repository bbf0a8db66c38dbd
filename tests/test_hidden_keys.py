"""Energies over maps whose keys a mask or a control hides: the right value, or one error that names the keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ebama.energy import binding_loss, ebama_loss, intensity_loss
from ebama.methods.ane import ane_loss
from ebama.methods.ebama_official import official_loss
from ebama.methods.syngen import syngen_loss
from ebama.prompt import Group

GROUPS, TOKENS = [Group((2,), ((1,),)), Group((4,), ((3,),))], (1, 2, 3, 4)
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "binding": lambda s: binding_loss(s, GROUPS, TOKENS),
    "centered": lambda s: binding_loss(s, GROUPS, TOKENS, center=True),
    "ebama": lambda s: ebama_loss(s, s.softmax(-1), GROUPS, TOKENS),
    "intensity": lambda s: intensity_loss(s.softmax(-1), GROUPS),
    "log intensity": lambda s: intensity_loss(s.softmax(-1), GROUPS, log=True),
    "ebama-official": lambda s: official_loss(s.softmax(-1), GROUPS, TOKENS),
    "ane": lambda s: ane_loss(s.softmax(-1), GROUPS, TOKENS),
    "syngen": lambda s: syngen_loss(s.softmax(-1), GROUPS, TOKENS),
}
NEED_THE_MAP = ("binding", "centered", "ebama", "syngen")


def scores() -> Tensor:
    return torch.randn(2, 4, 4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("key", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_a_hidden_word(name: str, key: int) -> None:
    hidden = scores()
    hidden[1, ..., key] = -torch.inf
    hidden.requires_grad_(True)
    if name in NEED_THE_MAP:
        with pytest.raises(ValueError, match=rf"^The energy of sample 1 is NaN, and .* hides keys \[{key}\]"):
            LOSSES[name](hidden)
        return
    losses = LOSSES[name](hidden)
    (gradient,) = torch.autograd.grad(losses.sum(), hidden)
    assert gradient.isfinite().all()
    torch.testing.assert_close(losses[0], LOSSES[name](scores())[0], rtol=0, atol=0)
    faint = hidden.detach().clone()
    faint[1, ..., key] = -1e3  # as good as hidden
    torch.testing.assert_close(losses.detach(), LOSSES[name](faint))


@pytest.mark.parametrize("name", LOSSES)
def test_a_hidden_key_of_no_word_changes_nothing_but_the_softmax(name: str) -> None:
    hidden, faint = scores(), scores()
    hidden[..., 5:], faint[..., 5:] = -torch.inf, -1e3
    torch.testing.assert_close(LOSSES[name](hidden), LOSSES[name](faint))


@pytest.mark.parametrize("name", LOSSES)
def test_a_pixel_that_sees_no_key(name: str) -> None:
    hidden = scores()
    hidden[0, 2, 3] = -torch.inf
    with pytest.raises(ValueError, match=r"energy of sample 0 is NaN, and .* hides keys \[0, 1, 2, 3, 4, 5, 6\]"):
        LOSSES[name](hidden)


@pytest.mark.parametrize("name", LOSSES)
def test_transforms_pass_through_the_check(name: str) -> None:
    many, loss = torch.stack([scores(), 2 * scores()]), LOSSES[name]
    torch.testing.assert_close(torch.func.vmap(loss)(many), torch.stack([loss(maps) for maps in many]))
    gradient = torch.func.grad(lambda s: loss(s).sum())(scores())
    moving = scores().requires_grad_(True)
    torch.testing.assert_close(gradient, torch.autograd.grad(loss(moving).sum(), moving)[0])
