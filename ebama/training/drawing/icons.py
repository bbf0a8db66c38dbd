"""The SVG drawings behind the sprites: read from art/, and extracted once from the Iconify packages.

``python -m ebama.training.drawing.icons NODE_MODULES`` rewrites art/ from the npm packages ``@iconify-json/noto``,
``fluent-emoji-flat`` and ``noto-v1``; the bench, which no set has, is drawn for this project in art/bench.json.
"""

from __future__ import annotations

import gzip
import json
import sys
from functools import cache
from pathlib import Path

from ebama.weights.miniature.world import NOUNS

ART = Path(__file__).parent / "art"
PACKAGES = {"noto": "noto", "fluent": "fluent-emoji-flat", "noto-v1": "noto-v1"}
"""Sprite set to Iconify package; the order decides which bench drawing a set gets."""

_ICON_NAMES = {
    "suitcase": "luggage",
    "bow": "ribbon",
    "car": "automobile",
    "bowl": "bowl-with-spoon",
    "clock": "mantelpiece-clock",
    "apple": "red-apple",
}
# The first Noto draws an airplane seat, a soup and a dark blue elephant, and its suitcase is called a briefcase.
_MISSING = {"noto-v1": ("chair", "bowl", "elephant")}
_RENAMED = {"noto-v1": {"suitcase": "briefcase"}}


@cache
def load_icons(sprite_set: str) -> dict[str, str]:
    """The set's drawings, noun -> complete SVG document; nouns that the set draws badly are left out.

    Raises:
        ValueError: there is no such set.
    """
    if sprite_set not in PACKAGES:
        raise ValueError(f"unknown sprite set {sprite_set!r}: choose from {', '.join(PACKAGES)}")
    icons: dict[str, str] = json.loads(gzip.decompress((ART / f"{sprite_set}.json.gz").read_bytes()))
    benches = json.loads((ART / "bench.json").read_text(encoding="utf-8"))
    icons["bench"] = benches[list(PACKAGES).index(sprite_set)]
    return icons


def extract(node_modules: Path) -> None:
    """Write art/<set>.json.gz from the installed Iconify packages; the bytes depend on nothing but the packages."""
    for sprite_set, package in PACKAGES.items():
        source = json.loads((node_modules / "@iconify-json" / package / "icons.json").read_text(encoding="utf-8"))
        icons = {}
        for noun in NOUNS:
            if noun == "bench" or noun in _MISSING.get(sprite_set, ()):
                continue
            name = _RENAMED.get(sprite_set, {}).get(noun, _ICON_NAMES.get(noun, noun))
            name = source.get("aliases", {}).get(name, {}).get("parent", name)
            icon = source["icons"][name]
            left, top = icon.get("left", 0), icon.get("top", 0)
            width, height = (icon.get(side, source.get(side, 16)) for side in ("width", "height"))
            icons[noun] = (
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
            )
        text = json.dumps(icons, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        (ART / f"{sprite_set}.json.gz").write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


if __name__ == "__main__":
    extract(Path(sys.argv[1]))
