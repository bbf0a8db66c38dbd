"""Which values count as numbers, and how a message shows them."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from ebama.checks import expect, is_number, is_whole, plain, short


@pytest.mark.parametrize(
    "value", [0, -3, 2.5, 3e38, 2**63 - 1, -(2**63) + 1, np.float16(1), np.int8(-128), Fraction(1, 2)], ids=repr
)
def test_finite_numbers_of_any_library_count(value: Any) -> None:
    assert is_number(value)


@pytest.mark.parametrize(
    "value", [True, math.nan, math.inf, -math.inf, 4e38, 2**63, -(2**70), 10**400, "1", None, [1], 1j], ids=repr
)
def test_other_values_do_not(value: Any) -> None:
    assert not is_number(value)


def test_whole_numbers() -> None:
    assert [is_whole(value) for value in (3, np.int8(3), 3.0, True, np.bool_(True), "3")] == [True] * 2 + [False] * 4


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *((torch.tensor(3), int), (torch.tensor(0.5), float), (np.float32(0.5), float), (np.array(4), int)),
        *((Fraction(1, 2), float), (True, bool), (np.bool_(True), bool), ("a", str), (None, type(None))),
    ],
)
def test_numbers_become_pythons_and_nothing_else_changes(value: Any, kind: type) -> None:
    assert type(plain(value)) is kind
    assert plain(value) == value


def test_a_value_that_does_not_fit_is_named_in_one_line() -> None:
    assert expect("steps", 5, True, "a whole number") == 5
    with pytest.raises(ValueError, match=r"^steps is 'five'; expected a whole number\.$"):
        expect("steps", "five", False, "a whole number")
    assert short("x" * 100) == "'" + "x" * 76 + "..."
    assert len(short("x" * 78)) == 80
