"""DVMP, the diverse multiple modifiers prompts of Rassin et al. 2023: a generator, as there is no published list."""

from __future__ import annotations

import random

_COLOURS = "black blue brown gray green orange pink purple red white yellow beige teal"
_NOUNS = {
    "animal": "bear bird cat dog elephant frog horse lion monkey mouse rabbit turtle panda zebra gorilla penguin",
    "object": "backpack crown suitcase chair balloon bow car bowl bench clock camera umbrella guitar shoe hat "
    "surfboard skateboard bicycle",
    "fruit": "apple tomato banana strawberry",
}
_MODIFIERS = {
    "animal": "furry baby spotted sleepy",
    "object": "modern spotted wooden metal curved spiky checkered",
    "fruit": "sliced skewered",
}


def prompts(count: int = 200, seed: int = 0) -> list[str]:
    """That many different prompts; the 200 of seed 0 are the benchmark "dvmp"."""
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts.setdefault(sample(rng)[0])
    return list(texts)


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
        modifiers = rng.sample(_MODIFIERS[kind].split(), rng.choice([0, 1] if kind == "fruit" else [0, 1, 2]))
        if rng.random() < 1 / 3:
            modifiers.insert(0, rng.choice(_COLOURS.split()))
        if modifiers:
            return rng.choice(_NOUNS[kind].split()), modifiers
