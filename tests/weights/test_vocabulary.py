"""The words that a checkpoint knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from weights_samples import random_model

from ebama.models import MINIATURE
from ebama.weights import Vocabulary, load, save
from ebama.weights.miniature.world import COLOURS, NOUNS, VOCABULARY

SMALL = Vocabulary("toy", ("cat", "t-shirt"), ("red",), frozenset(("cat", "t-shirt", "red", "a", "an", "the", "and")))


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a red cat and the t-shirt", []),
        ("A RED Cat", []),
        ("a green dragon, a red cat and a green dragon.", ["green", "dragon"]),
        ("the cat's t-shirt; 3 tee-shirts_x", ["cat's", "3", "tee-shirts", "x"]),
        ("", []),
    ],
)
def test_unknown_words_come_in_order_and_once(prompt: str, unknown: list[str]) -> None:
    assert SMALL.unknown_words(prompt) == unknown


def test_vocabulary_refuses_a_noun_outside_its_words() -> None:
    with pytest.raises(ValueError, match="lacks dog, blue"):
        replace(SMALL, nouns=("cat", "dog"), colours=("blue",))


@pytest.mark.slow
def test_only_the_miniature_has_a_vocabulary(tmp_path: Path) -> None:
    miniature = load()
    assert miniature.vocabulary == VOCABULARY
    assert (VOCABULARY.name, VOCABULARY.nouns, VOCABULARY.colours) == ("embedded miniature", NOUNS, tuple(COLOURS))
    assert VOCABULARY.unknown_words("a purple bow, an orange clock with the cat") == []
    save(miniature, tmp_path / "copy.safetensors", layout="compvis")
    assert load(tmp_path / "copy.safetensors", config=MINIATURE).vocabulary == VOCABULARY
    save(random_model(), tmp_path / "tiny")
    assert load(tmp_path / "tiny").vocabulary is None
