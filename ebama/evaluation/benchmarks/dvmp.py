"""DVMP, the diverse multiple modifiers prompts of Rassin et al. 2023: a generator, as there is no published list."""

from __future__ import annotations

import random


def _words(text: str) -> list[str]:
    return text.split()


_COLOURS = _words("black blue brown gray green orange pink purple red white yellow beige teal")
_NOUNS = {
    "animal": _words(
        "bear bird cat dog elephant frog horse lion monkey mouse rabbit turtle panda zebra gorilla penguin"
    ),
    "object": _words(
        "backpack crown suitcase chair balloon bow car bowl bench clock camera umbrella guitar shoe hat surfboard "
        "skateboard bicycle"
    ),
    "fruit": _words("apple tomato banana strawberry"),
}
_MODIFIERS = {
    "animal": _words("furry baby spotted sleepy"),
    "object": _words("modern spotted wooden metal curved spiky checkered"),
    "fruit": _words("sliced skewered"),
}


def prompts(count: int = 200, seed: int = 0) -> list[str]:
    """That many different prompts; the 200 of seed 0 are the benchmark "dvmp"."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(sample(rng)[0])
    return list(found)


def sample(rng: random.Random) -> tuple[str, list[tuple[str, list[str]]]]:
    """One prompt of one to three phrases, and the (noun, modifiers) of each in order."""
    phrases: list[tuple[str, list[str]]] = []
    for _ in range(rng.choice([1, 2, 3])):
        phrase = _phrase(rng)
        while phrase in phrases:
            phrase = _phrase(rng)
        phrases.append(phrase)
    texts = [
        f"{'an' if modifiers[0][0] in 'aeiou' else 'a'} {' '.join([*modifiers, noun])}" for noun, modifiers in phrases
    ]
    return " and ".join(texts), phrases


def _phrase(rng: random.Random) -> tuple[str, list[str]]:
    while True:
        kind = rng.choice(sorted(_NOUNS))
        modifiers = rng.sample(_MODIFIERS[kind], rng.choice([0, 1] if kind == "fruit" else [0, 1, 2]))
        if rng.random() < 1 / 3:
            modifiers.insert(0, rng.choice(_COLOURS))
        if modifiers:
            return rng.choice(_NOUNS[kind]), modifiers
